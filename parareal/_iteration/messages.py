"""Messages: values between slices, requests to a runner, results from it."""

from enum import Enum
from itertools import count
from typing import ClassVar, NamedTuple, final

from parareal._state import Memory, State, Time


class Kind(Enum):
    """The propagator of a request."""

    COARSE = "coarse"
    FINE = "fine"


class Sums(NamedTuple):
    """Norms of the sum of one iteration's increments at a boundary, if nothing cancelled."""

    aligned: float = 0.0
    """norm, if what each slice adds had one direction"""
    crossed: float = 0.0
    """norm, if all were at right angles, as what is independent is in many dimensions"""

    def share(self, increment: float, dimensions: int) -> float:
        """Return the share of a sum of norms that remains, as it does of the increment (docs/explained/estimates.md, eq. 18a)."""
        if not self.aligned > 0:
            return 1.0
        # in few dimensions one sum may cancel by accident, and another not
        return min(1.0, max(increment, self.crossed) / self.aligned) ** max(0.0, 1 - 2 / dimensions)


class Value(NamedTuple):
    """The state at a boundary in one iteration, with all that its right neighbour must know.

    Convergence travels with the data: a boundary that is `final` will not change again.
    """

    iteration: int
    state: State
    memory: Memory = None
    """memory of the fine stepper, part of the state and corrected with it"""
    coarse_memory: Memory = None
    """memory of the coarse stepper; it flows rightwards within the iteration, uncorrected"""
    exact: bool = False
    """the state is the sequential solution's"""
    settled: bool = False
    """the criterion accepts the state, and everything left of it is final"""
    depth: float = 0
    """evaluations on the critical path up to here"""
    estimate: float = 0.0
    """the relative error that the criterion estimates"""
    size: float = 0.0
    """norm of the state"""
    increment: float = float("inf")
    """norm of U(k, n) - U(k-1, n); infinite where there is no iterate before"""
    error: float = 0.0
    """estimated norm of the error"""
    moved: float = float("inf")
    """the largest increment on the way to here in this iteration, each relative to its state's norm"""
    sums: Sums = Sums()
    """what the increments of this iteration would add up to without cancellation"""
    embedded_difference: State = None
    """estimated error of the coarse prediction, a state; None where it is not known"""

    @property
    def final(self) -> bool:
        """Whether later iterations leave this boundary as it is."""
        return self.exact or self.settled

    def stripped(self) -> "Value":
        """Return this value without its state and memories."""
        return Value(self.iteration, None, None, None, *self[4:])


_numbers = count(1)


@final
class Scope:
    """The solve that a group of requests belongs to. Closing it cancels them, wherever they wait."""

    __slots__ = ("closed",)
    closures: ClassVar[int] = 0
    """changes whenever a scope is closed: a queue looks for cancelled requests only then"""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Cancel all requests of this solve and of those within it."""
        if not self.closed:
            self.closed = True
            Scope.closures = next(_numbers)  # never a number that was there before, whatever other threads do


class Request(NamedTuple):
    """One propagation of `value` across `slice`, fine or coarse, for one sample in one iteration."""

    sample: int
    slice: int
    iteration: int
    kind: Kind
    value: Value
    start: Time
    """the slice's left boundary"""
    stop: Time
    """the slice's right boundary"""
    full_accuracy: bool = False
    """require a full-accuracy result from a variable-accuracy propagator"""
    outer: "Request | None" = None
    """the propagation of the next level out that this one is part of"""
    scope: Scope | None = None
    """the solve that waits for the result; None for one that cannot be cancelled"""

    @property
    def priority(self) -> tuple[int, ...]:
        """Order for the case that not all requests can run at once.

        Earlier iterations go first, so that a solve that stops has speculated little; in one iteration coarse
        goes before fine, because every slice to the right waits for it.
        """
        outer = self.outer.priority if self.outer is not None else ()
        return (*outer, self.iteration, self.kind is Kind.FINE, self.slice, self.sample)

    @property
    def path(self) -> tuple[int, ...]:
        """The sample and the slices of all levels, outermost first."""
        return (*self.outer.path, self.slice) if self.outer is not None else (self.sample, self.slice)

    @property
    def needs_full_accuracy(self) -> bool:
        """Whether full accuracy is required, on this level or by one further out."""
        return self.full_accuracy or (self.outer is not None and self.outer.needs_full_accuracy)

    @property
    def outermost(self) -> "Request":
        """The propagation of the outermost level that this one is part of."""
        return self if self.outer is None else self.outer.outermost

    @property
    def level(self) -> int:
        """0 for the outermost level."""
        return 0 if self.outer is None else self.outer.level + 1

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more, on this level or on one further out."""
        closed = self.scope is not None and self.scope.closed
        return closed or (self.outer is not None and self.outer.cancelled)


class Result(NamedTuple):
    """The outcome of a propagation: the state at the slice's right boundary, and its cost."""

    state: State
    memory: Memory
    cost: float
    """evaluations of this row on the critical path, those that it shared with another row included"""
    exact: bool = True
    """whether this is the propagator's full answer; an inner solve that stopped early says False"""
    accepted: bool = True
    """whether the answer is as good as the criterion asks; an inner solve that ran out of iterations says False"""
    estimate: float = 0.0
    """the estimated relative error of an inner solve's answer"""
    embedded_difference: State = None
    """of a coarse propagation: its embedded second answer minus `state`; None where it has none"""
    full_cost: float | None = None
    """evaluations that the fine propagator takes across this slice without parallelism, if not `cost`"""

    @property
    def sequential_cost(self) -> float:
        """Evaluations that the fine propagator takes across this slice without parallelism."""
        return self.cost if self.full_cost is None else self.full_cost


class PropagatorFailure(Exception):
    """A propagator or a network raised an error, which is the cause of this one."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


class Delivery(NamedTuple):
    """A finished propagation."""

    request: Request
    result: Result
    began: float
    """seconds, of `time.perf_counter`"""


class UpdateRecord(NamedTuple):
    """An output that was made by (1b), for the history."""

    sample: int
    boundary: int
    iteration: int
    increment: float
    """norm of U(k, n+1) - U(k-1, n+1)"""
    defect: float
    """norm of F(k-1, n) - U(k-1, n+1): the shooting residual of the iteration before"""
