"""`parareal bench`: our settings and published parallel samplers on the same problems, noise and stop rules.

The baselines are written from their papers: ParaDiGMS, ParaTAA and CHORDS run their own loops over the grid, the solver
and the network of `sample`. SRDS is a setting of `sample`.
"""

from parareal_diffusers.bench.baselines.chords import chords as chords
from parareal_diffusers.bench.baselines.paradigms import paradigms as paradigms
from parareal_diffusers.bench.baselines.parataa import parataa as parataa
from parareal_diffusers.bench.cases.problems import PROBLEMS as PROBLEMS
from parareal_diffusers.bench.cases.problems import BenchProblem as BenchProblem
from parareal_diffusers.bench.cases.record import Iterate as Iterate
from parareal_diffusers.bench.harness.methods import METHODS as METHODS
