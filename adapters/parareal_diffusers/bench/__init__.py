"""`parareal bench`: our settings and published parallel samplers on the same problems, noise and stop rules.

The other samplers are written from their papers, as baselines: ParaDiGMS, ParaTAA and CHORDS have loops of their own,
on the grid, the solver and the network call of `sample`; SRDS is a setting of ours.
"""

from parareal_diffusers.bench.baselines.chords import chords as chords
from parareal_diffusers.bench.baselines.paradigms import paradigms as paradigms
from parareal_diffusers.bench.baselines.parataa import parataa as parataa
from parareal_diffusers.bench.cases.problems import PROBLEMS as PROBLEMS
from parareal_diffusers.bench.cases.problems import Problem as Problem
from parareal_diffusers.bench.cases.record import Iterate as Iterate
from parareal_diffusers.bench.harness.methods import METHODS as METHODS
