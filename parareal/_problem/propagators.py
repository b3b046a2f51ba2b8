"""The forms of a propagator: a plain function, a vectorized one, and one taken step by step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar, TypeAlias, final

from parareal._checks import whole_number
from parareal._state import Memory, Nodes, Stack, State, Time, stack

Function: TypeAlias = Callable[..., Any]
"""`f(state, t0, t1)`, which returns a state, or a state with its cost as `Costed`; it may take `iteration`, too"""
Evaluate: TypeAlias = Callable[..., Any]
"""an expensive, batched call: `evaluate(state, where)` or `evaluate(state, where, sample)`"""
StepRoutine: TypeAlias = Generator[tuple[Stack, Any], Any, tuple[Stack, Memory] | tuple[Stack, Memory, Stack]]
"""a step: yields (state, where) for evaluations, is sent their values, and returns (state, memory[, embedded])"""


@final
@dataclass(frozen=True)
class Vectorized:
    """A function that takes many states at once; made by `vectorized`."""

    function: Function

    def __call__(self, state: Stack, t0: Time, t1: Time) -> Stack:
        """Call the function."""
        return self.function(state, t0, t1)


def vectorized(function: Function) -> Vectorized:
    """Declare that a propagator takes states stacked on a new leading axis, and one-dimensional `t0` and `t1`.

    `function(state, t0, t1)` is then called with R rows at once: every array of the state has shape (R, *shape),
    `t0` and `t1` have shape (R,), in the library, the device and the real dtype of the state's first array
    (integers stay integers; boundaries given as a tensor keep their dtype). Rows must not influence each other;
    `parareal.check` tells whether they do.
    """
    return Vectorized(function)


@final
@dataclass(frozen=True)
class Costed:
    """The result of a function with its cost: may be returned in place of a state.

    The cost counts towards work and span.
    """

    state: State | Stack
    cost: Any
    """evaluations, or any unit that fine and coarse have in common; of a vectorized function also one number per row"""
    embedded: State | Stack = None
    """of a coarse propagator: a second answer from the same evaluations, by which errors are estimated (`Tolerance`)"""


class Stepper(ABC):
    """A one-step or multistep method that the engine takes step by step, many rows at a time.

    A row is one state of one sample on its way across one slice. The engine stacks rows on a new leading axis,
    gathers all evaluations that rows of all methods ask for, and makes one batched call of `evaluate`. What an
    implementer owes:

    1. `evaluate(state, where)`: the expensive call. `state` is a stack of R rows and `where` whatever `step`
       yielded for them, joined along the leading axis; the value returned has a leading axis of length R too.
       Set it in `__init__`. Two steppers whose `evaluate` is the same object share the evaluation that both
       make at the start of a slice.
    2. `step(state, memory, start, stop)`: a generator that takes all rows from the nodes `start` to the nodes
       `stop` (integer vectors of length R, torch tensors on the state's device or NumPy arrays as the state is).
       It yields `(state, where)` for each evaluation it needs, is sent the value, and returns
       `(state, memory)`. Yield the state object it was given, unchanged, where the evaluation is at the start of
       the step: only such an evaluation can be shared. Rows must not influence each other.
       A coarse stepper may return `(state, memory, embedded)`: the step's result by another method from the same
       evaluations, of lower or higher order, by which errors are estimated (`Tolerance`).
    3. `begin(state)`: what is remembered before the first step: arrays with a leading axis of length R, or None
       for a one-step method. Memory keeps its structure, shapes and dtypes. Integers in it are bookkeeping:
       they have no size, but a boundary where they still change does not settle.
    4. `correct(memory, change, node, coarse_memories)`: for a *fine* stepper with memory, what to remember at a slice
       boundary when the state there is corrected by `change`: for Parareal the difference of two coarse results,
       and `coarse_memories` is what the coarse stepper remembers after each, in this iteration and in the one
       before; None for other corrections. All have a leading axis of length 1, or are None.
    5. `per_sample = True`, where rows need to know their sample: `evaluate` and `step` are then called with one
       more argument, the integer vector of sample indices.
    """

    evaluate: Evaluate
    per_sample: ClassVar[bool] = False

    @abstractmethod
    def step(self, state: Stack, memory: Memory, start: Nodes, stop: Nodes) -> StepRoutine:
        """Advance every row by one step."""

    def begin(self, state: Stack) -> Memory:
        """Return what is remembered before the first step."""
        return None

    def correct(self, memory: Memory, change: Stack, node: int, coarse_memories: tuple[Memory, Memory]) -> Memory:
        """Return the corrected memory at a slice boundary; by default it is carried as it is."""
        return memory


@final
@dataclass(frozen=True)
class Steps:
    """A propagator made of a stepper, where boundaries are integer nodes.

    It steps through every node of a slice, or, given `steps`, takes that many jumps of equal length (rounded to
    nodes) across each slice.
    """

    stepper: Stepper
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.stepper, Stepper):
            raise TypeError(f"Steps takes a parareal.Stepper, not {type(self.stepper).__name__}")
        if not callable(getattr(self.stepper, "evaluate", None)):
            raise TypeError(f"{type(self.stepper).__name__} has no evaluate: set it in __init__")
        if self.steps is not None:
            whole_number("steps", self.steps, 1)

    def count(self, start: int, stop: int) -> int:
        """Return how many steps there are between two boundaries."""
        return abs(stop - start) if self.steps is None else min(self.steps, abs(stop - start))


class Nested:
    """A propagator that is a solve over slices of its own; `Level` is its only kind."""


Propagator: TypeAlias = Function | Vectorized | Steps | Nested
"""`f(state, t0, t1)`, the same marked `vectorized`, `Steps`, or a `Parareal`, which nests"""


def correct_memory_of(fine: Propagator) -> Callable[..., Memory]:
    """Return the function that corrects a fine propagator's memory at a boundary: see `Rules.correct_memory`."""

    def correct(memory: Memory, change: State, boundary: Time, coarse_memories: tuple[Memory, Memory]) -> Memory:
        if memory is None or not isinstance(fine, Steps):
            return memory
        row = stack([change])  # all have a leading axis of one row
        return fine.stepper.correct(memory, row, int(boundary), coarse_memories)

    return correct


def takes_iteration(function: Any) -> bool:
    """Return whether a function wants to be told the iteration, to do less work in early ones."""
    try:
        found = signature(function).parameters.get("iteration")
    except (TypeError, ValueError):
        return False
    return found is not None and found.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def check_propagator(name: str, propagator: Any, boundaries: list[Time]) -> None:
    """Raise `TypeError` or `ValueError` unless `propagator` is of one of the three forms and fits the boundaries."""
    if isinstance(propagator, Stepper):
        raise TypeError(f"{name} is a stepper: wrap it as parareal.Steps({name}), which says how many steps to take")
    if isinstance(propagator, Vectorized) and takes_iteration(propagator.function):
        raise TypeError(
            f"{name} is vectorized and takes `iteration`, which only a plain function can: drop one of them"
        )
    if not isinstance(propagator, Steps) and not callable(propagator):
        raise TypeError(f"{name} must be a function (state, t0, t1) or parareal.Steps, not {type(propagator).__name__}")
    if isinstance(propagator, Steps) and not all(float(t) == int(t) for t in boundaries):
        raise ValueError(f"{name} is steppable, so boundaries are nodes and must be whole numbers, got {boundaries}")
