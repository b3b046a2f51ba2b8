"""Parallel-in-time solution of initial value problems, with the sequential solver's answer (Parareal).

- To solve: `solve`, `refine`, `Parareal`; `sequential` is the reference.
- To describe propagators: plain functions, `vectorized`, `Costed`, or a `Stepper` in `Steps`; `check` tests them.
- To stop: `Increment`, `Tolerance`, `Defect`, `Iterations`, `LastChange`.
- To predict time and work before a solve: `simulate`, `plan`, `BatchTime`.

`help(parareal.solve)` has an example.
"""

# `name as name` marks a re-export for type checkers.
from parareal._api.check import Finding as Finding
from parareal._api.check import Report as Report
from parareal._api.check import check as check
from parareal._api.citation import citation as citation
from parareal._api.parareal import Parareal as Parareal
from parareal._api.sequential import sequential as sequential
from parareal._api.solve import refine as refine
from parareal._api.solve import solve as solve
from parareal._corrections.correction import AbstractCorrection as AbstractCorrection
from parareal._corrections.elementary import CoarseDifference as CoarseDifference
from parareal._corrections.elementary import Identity as Identity
from parareal._corrections.elementary import Zero as Zero
from parareal._criteria import AbstractCriterion as AbstractCriterion
from parareal._criteria import Defect as Defect
from parareal._criteria import Evidence as Evidence
from parareal._criteria import Increment as Increment
from parareal._criteria import Iterations as Iterations
from parareal._criteria import LastChange as LastChange
from parareal._criteria import Tolerance as Tolerance
from parareal._criteria import propagated_error as propagated_error
from parareal._criteria import worst_increment as worst_increment
from parareal._execution.executors import AbstractExecutor as AbstractExecutor
from parareal._execution.executors import BatchedExecutor as BatchedExecutor
from parareal._execution.executors import SerialExecutor as SerialExecutor
from parareal._planning.batch_time import BatchTime as BatchTime
from parareal._planning.candidates import Plan as Plan
from parareal._planning.plan import plan as plan
from parareal._planning.simulate import Simulation as Simulation
from parareal._planning.simulate import simulate as simulate
from parareal._problem.propagators import Costed as Costed
from parareal._problem.propagators import Stepper as Stepper
from parareal._problem.propagators import Steps as Steps
from parareal._problem.propagators import vectorized as vectorized
from parareal._results.history import Propagation as Propagation
from parareal._results.solution import Outcome as Outcome
from parareal._results.solution import PararealError as PararealError
from parareal._results.solution import Refinement as Refinement
from parareal._results.solution import Solution as Solution
from parareal._results.solution import Stats as Stats
from parareal._results.spot_check import SpotCheck as SpotCheck

__version__ = "0.1.0"
