"""The forms of a propagator: a plain function, a vectorized function, and a stepper on a grid of nodes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, ClassVar, TypeAlias, final

from parareal._checks import whole_number
from parareal._state import Memory, Nodes, Stack, State, Time, stack

Function: TypeAlias = Callable[..., Any]
"""`f(state, t0, t1)` returns the state at t1, or a `Costed`; a fine one may have a parameter `iteration`"""
Evaluate: TypeAlias = Callable[..., Any]
"""the expensive, batched call of a stepper: `evaluate(state, where)` or `evaluate(state, where, sample)`"""
StepRoutine: TypeAlias = Generator[tuple[Stack, Any], Any, tuple[Stack, Memory] | tuple[Stack, Memory, Stack]]
"""generator of one step: yields (state, where) per evaluation, receives values, returns (state, memory[, embedded])"""


@final
@dataclass(frozen=True)
class Vectorized:
    """A function of many states at once. Build it with `vectorized`."""

    function: Function

    def __call__(self, state: Stack, t0: Time, t1: Time) -> Stack:
        """Call the function with stacked states."""
        return self.function(state, t0, t1)


def vectorized(function: Function) -> Vectorized:
    """Declare that a propagator maps many states at once, so that the engine may batch its calls.

    Args:
        function: `function(state, t0, t1)`, called with R rows at once. A row is one state of one sample on one slice.
            Every array of `state` has shape (R, *shape); `t0` and `t1` have shape (R,) and the library, device and
            real dtype of the state's first array. Whole boundaries are integers, and boundaries passed as a tensor
            keep their dtype. It returns states of the same shapes, or a `Costed`. Rows must not influence each other,
            which `parareal.check` tests.

    Returns:
        A propagator for `solve`.

    Examples:
        >>> import parareal
        >>> @parareal.vectorized
        ... def fine(u, t0, t1):  # for states with one axis
        ...     return u * (1 - (t1 - t0) / 100)[:, None] ** 100
    """
    return Vectorized(function)


@final
@dataclass(frozen=True)
class Costed:
    """The result of a function together with its cost. A propagator may return it in place of a state.

    Examples:
        `return parareal.Costed(y, cost=solver.number_of_evaluations)`
    """

    state: State | Stack
    """the state at the slice's end; of a vectorized function, stacked states"""
    cost: Any
    """evaluations, or any unit that fine and coarse propagator share; of a vectorized function one number per row, or
    one that holds for each row. Counts towards `Stats.work` and `Stats.span`"""
    embedded: State | Stack = None
    """of a coarse propagator: a second result, of another order, from the same evaluations. Error estimates use the
    difference of the two (`Tolerance`)"""


class Stepper(ABC):
    """A one-step or multistep method on a grid of nodes, vectorized over rows.

    A row is one state of one sample on its way across one slice. The engine stacks rows on a new leading axis, collects
    the evaluations that the rows of all steppers need, and calls `evaluate` once for all of them. To write a stepper:

    1. `evaluate(state, where)`: the expensive call, set in `__init__`. `state` is a stack of R rows; `where` is what
       `step` yielded for them, joined along the leading axis. It returns a value per row: a leading axis of length R.
       Two steppers whose `evaluate` is the same object share the evaluation that both need at the start of a slice.
    2. `step(state, memory, start, stop)`: a generator that advances all rows from the nodes `start` to the nodes
       `stop`, integer vectors of length R (torch tensors on the device of the state, or NumPy arrays, as the state
       is). For each evaluation it yields `(state, where)` and receives the value. It returns `(state, memory)`. For an
       evaluation at the start of the step, yield the very object `state` that was passed in: only such an evaluation
       can be shared. Rows must not influence each other. A coarse stepper may return `(state, memory, embedded)`, where
       `embedded` is the step's result by a method of another order from the same evaluations; error estimates use the
       difference (`Tolerance`).
    3. `begin(state)`: the memory before the first step, for multistep methods: arrays with a leading axis of length R.
       Structure, shapes and dtypes of the memory must not change. None for a one-step method. Integers in the memory
       are bookkeeping, such as step counts: they do not enter norms, but a boundary at which they still change does
       not settle.
    4. `correct(memory, change, node, coarse_memories)`: only for a fine stepper with memory: the memory at a slice
       boundary whose state is corrected by `change`.
    5. `per_sample = True`: if rows need the index of their sample, as for conditioning. `evaluate` and `step` then
       receive one more argument, the integer vector of sample indices.

    Examples:
        >>> import parareal
        >>> class Euler(parareal.Stepper):
        ...     def __init__(self, f, times):  # `times[node]` is the time of a node
        ...         self.evaluate, self.times = f, times
        ...     def step(self, state, memory, start, stop):  # for states with one axis
        ...         slope = yield state, self.times[start]
        ...         return state + (self.times[stop] - self.times[start])[:, None] * slope, memory
    """

    evaluate: Evaluate
    """the expensive, batched call"""
    per_sample: ClassVar[bool] = False
    """whether `evaluate` and `step` receive the sample indices of the rows"""

    @abstractmethod
    def step(self, state: Stack, memory: Memory, start: Nodes, stop: Nodes) -> StepRoutine:
        """Advance every row from its node `start` to its node `stop` by one step of the method.

        Args:
            state: states of R rows, each array of shape (R, *shape).
            memory: their memory, as `begin` or the previous step returned it.
            start: integer nodes, shape (R,).
            stop: integer nodes, shape (R,); `start` + 1 or - 1 for a fine step, further away for a coarse one.

        Yields:
            `(state, where)` for each evaluation; the value is sent back.

        Returns:
            `(state, memory)` or `(state, memory, embedded)`.
        """

    def begin(self, state: Stack) -> Memory:
        """Return the memory before the first step, for `state` of R rows; None for a one-step method."""
        return None

    def correct(self, memory: Memory, change: Stack, node: int, coarse_memories: tuple[Memory, Memory]) -> Memory:
        """Return the corrected memory of a fine stepper at a slice boundary; by default the memory unchanged.

        All arrays have a leading axis of length 1.

        Args:
            memory: the memory at the end of F(k-1, n).
            change: the correction that is added to the state there. For Parareal the difference of two coarse results.
            node: the node of the boundary.
            coarse_memories: for Parareal, the memories of the coarse stepper after G(k, n) and after G(k-1, n); None in
                their place for other corrections and for a coarse propagator without memory.
        """
        return memory


@final
@dataclass(frozen=True)
class Steps:
    """A propagator that advances by the steps of a `Stepper`. The boundaries of the solve are then integer nodes.

    Args:
        stepper: the method.
        steps: None to make one step per node, as a fine propagator does. A number to cross each slice in this many
            steps of equal length, up to rounding to nodes, as a coarse propagator does; fewer in a slice with fewer
            nodes.

    Raises:
        TypeError: if `stepper` is no `Stepper`, or has no `evaluate`.
        ValueError: if `steps` is not a whole number of at least 1.

    Examples:
        Steps of 100 nodes, and one step per slice, for 10 slices:
        `parareal.solve(parareal.Steps(stepper), parareal.Steps(stepper, 1), u, (0, 100), slices=10)`
    """

    stepper: Stepper
    steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.stepper, Stepper):
            raise TypeError(f"stepper must be a parareal.Stepper, not {type(self.stepper).__name__}")
        # `evaluate` is set per instance, which an abstract method could not enforce
        if not callable(getattr(self.stepper, "evaluate", None)):
            raise TypeError(f"{type(self.stepper).__name__} has no evaluate: set it in __init__")
        if self.steps is not None:
            whole_number("steps", self.steps, 1)

    def count(self, start: int, stop: int) -> int:
        """Return the number of steps between two boundaries."""
        return abs(stop - start) if self.steps is None else min(self.steps, abs(stop - start))


class Nested:
    """A propagator that is itself a solve over slices. Its only subclass is `Level`.

    `Level` depends on this file and has a file of its own. This base class lets `Propagator` be defined here.
    """


Propagator: TypeAlias = Function | Vectorized | Steps | Nested
"""`f(state, t0, t1)`, the same marked by `vectorized`, `Steps`, or a `Parareal`, which nests"""


def make_memory_correction(fine: Propagator) -> Callable[..., Memory]:
    """Return the function that corrects a fine propagator's memory at a boundary (see `Rules.correct_memory`).

    The machines of `_iteration` know states and memories but no steppers, so they receive a plain function.
    """

    def correct(memory: Memory, change: State, boundary: Time, coarse_memories: tuple[Memory, Memory]) -> Memory:
        if memory is None or not isinstance(fine, Steps):
            return memory
        row = stack([change])  # a machine holds the state of one row without a leading axis, memories with one
        return fine.stepper.correct(memory, row, int(boundary), coarse_memories)

    return correct


def takes_iteration(function: Any) -> bool:
    """Return whether a function has a parameter `iteration`, by which it may do less work in early iterations."""
    try:
        parameter = signature(function).parameters.get("iteration")
    except (TypeError, ValueError):  # not callable, or a builtin without a signature
        return False
    return parameter is not None and parameter.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def check_propagator(name: str, propagator: Any, boundaries: list[Time]) -> None:
    """Raise `TypeError` or `ValueError` unless a propagator has one of the three forms and fits the boundaries.

    Args:
        name: `"fine"` or `"coarse"`, for messages.
        propagator: the argument of that name; not a `Level`.
        boundaries: checked boundaries.
    """
    if isinstance(propagator, Stepper):  # a frequent mistake, for which "must be a function" would be no help
        raise TypeError(
            f"{name} is a stepper: wrap it as parareal.Steps({name}), or as parareal.Steps({name}, n) "
            "for n steps per slice"
        )
    # the rows of one vectorized call belong to different iterations, so there is no one number to pass
    if isinstance(propagator, Vectorized) and takes_iteration(propagator.function):
        raise TypeError(
            f"{name} is vectorized and has a parameter `iteration`, which only plain functions support: "
            "remove the parameter, or pass a plain function"
        )
    if not isinstance(propagator, Steps) and not callable(propagator):
        raise TypeError(
            f"{name} must be a function (state, t0, t1), one marked by parareal.vectorized, parareal.Steps or "
            f"parareal.Parareal, not {type(propagator).__name__}"
        )
    if isinstance(propagator, Steps) and not all(float(t) == int(t) for t in boundaries):
        raise ValueError(f"{name} is Steps, so boundaries are nodes and must be whole numbers, but were {boundaries}")
