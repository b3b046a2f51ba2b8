"""`parareal bench`: our settings and published parallel samplers on the same problems, noise and stop rules.

The other samplers are written from their papers, as baselines: ParaDiGMS, ParaTAA and CHORDS have loops of their own,
on the grid, the solver and the network call of `sample`; SRDS is a setting of ours.
"""

from parareal_diffusers.bench._chords import chords as chords
from parareal_diffusers.bench._methods import METHODS as METHODS
from parareal_diffusers.bench._paradigms import paradigms as paradigms
from parareal_diffusers.bench._parataa import parataa as parataa
from parareal_diffusers.bench._problems import PROBLEMS as PROBLEMS
from parareal_diffusers.bench._problems import Problem as Problem
from parareal_diffusers.bench._record import Iterate as Iterate
