"""Messages of a solve: values between slices, requests to a runner, results from it."""

from enum import Enum
from itertools import count
from typing import ClassVar, NamedTuple, final

from parareal._state import Memory, State, Time


class Kind(Enum):
    """The propagator of a request: coarse (G) or fine (F)."""

    COARSE = "coarse"
    FINE = "fine"


class Sums(NamedTuple):
    """Norms of the increment at a boundary if the contributions of the slices left of it did not cancel."""

    aligned: float = 0.0
    """norm if the contributions of all slices pointed in one direction"""
    orthogonal: float = 0.0
    """norm if the contributions were at right angles, as independent vectors nearly are in many dimensions"""

    def compute_share(self, increment: float, dimensions: int) -> float:
        """Return the share of a sum of norms that is left after cancellation (docs/explained/estimates.md, eq. 18a).

        The cancellation is measured on the increment, which is known. The error is assumed to cancel equally.
        """
        if not self.aligned > 0:
            return 1.0
        # In few dimensions one sum may cancel by accident while another does not, so the share counts for less there:
        # not at all in one and two dimensions, fully in very many.
        return min(1.0, max(increment, self.orthogonal) / self.aligned) ** max(0.0, 1 - 2 / dimensions)


class Largest(NamedTuple):
    """The largest measurements of one iteration, at a boundary and left of it."""

    increment: float = float("inf")
    """increment over the norm of the state; infinite where there is none"""
    rate: float = 0.0
    """rate of contraction of a slice; 0 where none is known"""
    change: float = 1.0
    """ratio of a slice's gains in this iteration and in the one before"""
    surprise: float = 1.0
    """ratio of an increment to the estimated error of the iterate before; it fades from slice to slice"""


class Value(NamedTuple):
    """The state at a boundary in one iteration, with everything that the slice to its right needs to know.

    Convergence travels with the data: a boundary that is `final` will not change again.
    """

    iteration: int
    state: State
    memory: Memory = None
    """memory of the fine stepper, part of the state and corrected with it"""
    coarse_memory: Memory = None
    """memory of the coarse stepper; it flows rightwards within the iteration, uncorrected"""
    exact: bool = False
    """the state is that of the sequential solution"""
    settled: bool = False
    """the criterion accepts the state, and its left neighbour is settled, or exact since the previous iteration; see
    `_iteration/acceptance.py` for the last boundary"""
    depth: float = 0
    """evaluations on the critical path from the start of the solve to this value"""
    estimate: float = 0.0
    """the relative error as the criterion estimates it"""
    size: float = 0.0
    """norm of the state; with `norm="scaled"` 1, because every component counts relative to its own size"""
    sizes: tuple[float, ...] = ()
    """norms of the state's leaves; empty where they were not measured"""
    largest_sizes: tuple[float, ...] = ()
    """for every leaf the largest norm at this boundary and, where they are final, at those left of it: rounding errors
    are proportional to it"""
    increment: float = float("inf")
    """norm of U(k, n) - U(k-1, n); infinite where there is no earlier iterate"""
    error: float = 0.0
    """estimated norm of the error"""
    largest: Largest = Largest()
    """the largest measurements of this iteration up to this boundary"""
    sums: Sums = Sums()
    """norms that the increments of this iteration would add up to without cancellation"""
    embedded_difference: State = None
    """estimated error of the coarse prediction, a state; None where it is unknown"""
    substituted: bool = False
    """in this iteration, at this boundary or left of it, another state stands in for an output that is not finite"""

    @property
    def final(self) -> bool:
        """Whether later iterations leave this boundary as it is."""
        return self.exact or self.settled

    def without_states(self) -> "Value":
        """Return this value without its state and memories, so that it keeps no arrays alive."""
        return Value(self.iteration, None, None, None, *self[4:])


_closing_numbers = count(1)


@final
class Scope:
    """The solve that a group of requests belongs to. Closing it cancels them, wherever they wait."""

    __slots__ = ("closed",)
    latest_closing: ClassVar[int] = 0
    """number that changes whenever any scope is closed: queues look for cancelled requests only then"""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Cancel all requests of this solve and of the solves within it."""
        if not self.closed:
            self.closed = True
            # A counter shared by all threads, not `latest_closing + 1`: two threads that add one to the same old number
            # would both store the same new one, and a queue that has seen it would miss the second closing.
            Scope.latest_closing = next(_closing_numbers)


class Request(NamedTuple):
    """A request to propagate `value` across `slice` by F or G, for one sample in one iteration."""

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
        """The order in which requests run if they cannot all run at once: smaller tuples first.

        Earlier iterations go first, so that a solve that stops has speculated little. Within an iteration coarse
        goes before fine, because every slice to the right waits for it. All requests of an inner solve have the
        priority of the outer propagation that they are part of.
        """
        outer = self.outer.priority if self.outer is not None else ()
        return (*outer, self.iteration, self.kind is Kind.FINE, self.slice, self.sample)

    @property
    def path(self) -> tuple[int, ...]:
        """The sample and the slices of all levels, outermost first."""
        return (*self.outer.path, self.slice) if self.outer is not None else (self.sample, self.slice)

    @property
    def needs_full_accuracy(self) -> bool:
        """Whether full accuracy is required, on this level or on a level further out."""
        return self.full_accuracy or (self.outer is not None and self.outer.needs_full_accuracy)

    @property
    def outermost(self) -> "Request":
        """The propagation of the outermost level that this one is part of."""
        return self if self.outer is None else self.outer.outermost

    @property
    def level(self) -> int:
        """The number of levels further out: 0 for the outermost level."""
        return 0 if self.outer is None else self.outer.level + 1

    @property
    def cancelled(self) -> bool:
        """Whether the solve that waits for the result has ended, on this level or on a level further out."""
        closed = self.scope is not None and self.scope.closed
        return closed or (self.outer is not None and self.outer.cancelled)


class Result(NamedTuple):
    """The result of a propagation: the state at the slice's right boundary, and its cost."""

    state: State
    memory: Memory
    cost: float
    """evaluations of this row on the critical path, including those that it shared with another row"""
    exact: bool = True
    """whether the result has the propagator's full accuracy; False from an inner solve that stopped early"""
    accepted: bool = True
    """whether the result is accurate enough for the criterion; False from an inner solve that ran out of iterations"""
    estimate: float = 0.0
    """the estimated relative error of an inner solve's result"""
    embedded_difference: State = None
    """of a coarse propagation: its embedded second result minus `state`; None where there is none"""
    full_cost: float | None = None
    """evaluations that the fine propagator takes across this slice without parallelism; None if that is `cost`, NaN if
    it is unknown"""

    @property
    def sequential_cost(self) -> float:
        """Evaluations that the fine propagator takes across this slice without parallelism."""
        return self.cost if self.full_cost is None else self.full_cost


class PropagatorFailure(Exception):
    """A wrapper around the exception that a propagator or a network raised.

    It tells the failure of the caller's code, which ends a solve with a solution, from the failure of a criterion or
    of the engine, which is raised as it is. A fault inside a queue is wrapped, too: it cannot be told from a failure of
    the code that the queue calls.
    """

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


class Delivery(NamedTuple):
    """The result of a propagation together with its request."""

    request: Request
    result: Result
    start_time: float
    """time at which the propagation began: seconds of `time.perf_counter`"""


class UpdateRecord(NamedTuple):
    """The increment of one output of (1b), and the defect of the iterate before, for the history."""

    sample: int
    boundary: int
    iteration: int
    increment: float
    """norm of U(k, n+1) - U(k-1, n+1)"""
    defect: float
    """norm of F(k-1, n) - U(k-1, n+1): the shooting residual of the iteration before"""
