"""Semi-public names for adapters, executors, corrections and criteria, in addition to those of `parareal`.

These names are documented and change only with a line in the changelog, but may do so with a minor release. Nothing
else below `parareal` may be imported from outside the package.

- To drive a run from outside, as the denoising loop of a pipeline does: `Problem`, `Options`, `Run`, `Evaluation`,
  `SCHEDULES`.
- To write an executor: `Queue`, `FunctionQueue`, `StepperQueue`, `Kind`, `Request`, `Scope`, `Value`, `Result`,
  `Delivery`, `Tally`, `Layout`.
- To write a correction or a criterion: `Point`, `Layout`, and the arithmetic of states: `add`, `subtract`, `finite`,
  `NORMS`.
- To check arguments with the messages of this package: `one_of`, `whole_number`, `optional_whole_number`,
  `real_number`, `optional_share`, `resolve_renamed`, `check_initial`, `StructureError`.
- To call a callback as `solve` does: `check_callback`, `requests_cancellation`.
- To choose the number of slices for the user (`slices="auto"`): `Advisor`, `advisor_for`, `SEQUENTIAL_NOTE`,
  `FAILED_NOTE`, `WORTHWHILE`, `PATIENCE`, `expected_iterations`, and `Candidate`, one setting of a `parareal.Plan`.
- To divide an interval into slices: `divide`, `divide_grid`.
- To annotate signatures: `State`, `Stack`, `Nodes`, `Memory`, `Time`, `Function`, `Propagator`.
"""

# `name as name` marks a re-export for type checkers.
from parareal._checks import one_of as one_of
from parareal._checks import optional_share as optional_share
from parareal._checks import optional_whole_number as optional_whole_number
from parareal._checks import real_number as real_number
from parareal._checks import resolve_renamed as resolve_renamed
from parareal._checks import whole_number as whole_number
from parareal._corrections.correction import Point as Point
from parareal._execution.evaluations import Evaluation as Evaluation
from parareal._execution.evaluations import Tally as Tally
from parareal._execution.functions import FunctionQueue as FunctionQueue
from parareal._execution.queue import Queue as Queue
from parareal._execution.steppers import StepperQueue as StepperQueue
from parareal._iteration.messages import Delivery as Delivery
from parareal._iteration.messages import Kind as Kind
from parareal._iteration.messages import Request as Request
from parareal._iteration.messages import Result as Result
from parareal._iteration.messages import Scope as Scope
from parareal._iteration.messages import Value as Value
from parareal._planning.advisor import FAILED_NOTE as FAILED_NOTE
from parareal._planning.advisor import PATIENCE as PATIENCE
from parareal._planning.advisor import SEQUENTIAL_NOTE as SEQUENTIAL_NOTE
from parareal._planning.advisor import Advisor as Advisor
from parareal._planning.advisor import advisor_for as advisor_for
from parareal._planning.advisor import expected_iterations as expected_iterations
from parareal._planning.candidates import WORTHWHILE as WORTHWHILE
from parareal._planning.candidates import Candidate as Candidate
from parareal._problem.boundaries import divide as divide
from parareal._problem.boundaries import divide_grid as divide_grid
from parareal._problem.problem import Problem as Problem
from parareal._problem.propagators import Function as Function
from parareal._problem.propagators import Propagator as Propagator
from parareal._problem.states import StructureError as StructureError
from parareal._problem.states import check_initial as check_initial
from parareal._run.callback import check_callback as check_callback
from parareal._run.callback import requests_cancellation as requests_cancellation
from parareal._run.loop import Run as Run
from parareal._run.options import SCHEDULES as SCHEDULES
from parareal._run.options import Options as Options
from parareal._state import NORMS as NORMS
from parareal._state import Layout as Layout
from parareal._state import Memory as Memory
from parareal._state import Nodes as Nodes
from parareal._state import Stack as Stack
from parareal._state import State as State
from parareal._state import Time as Time
from parareal._state import add as add
from parareal._state import finite as finite
from parareal._state import subtract as subtract
