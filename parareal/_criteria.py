"""When an iterate is good enough. Every criterion is a frozen dataclass with one question to answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

from parareal._checks import one_of, whole_number
from parareal._state import NORMS, Layout, epsilon


class Evidence(NamedTuple):
    """What is known of one boundary of one sample when iteration `iteration` has made its state."""

    iteration: int
    boundary: int
    increment: float
    """norm of U(k, n) - U(k-1, n)"""
    defect: float
    """norm of F(k-1, n-1) - U(k-1, n): by how much the last iterate missed the fine propagator's answer"""
    size: float
    """norm of U(k, n)"""
    upstream: float
    """the largest error estimate of the boundaries further left, relative"""
    previous: float = float("inf")
    """norm of the increment of the iteration before; infinite in the first"""
    error: float = float("inf")
    """estimated norm of U(k, n) - u(n), u being the sequential solution (docs/explained/estimates.md); infinite if there is none"""
    last: bool = False
    """whether this is the last boundary"""


def propagated_error(evidence: Evidence) -> float:
    """Return the estimated relative error of an iterate, as it comes through the slices (docs/explained/estimates.md, eq. 15 to 19).

    Every slice passes on what reaches it, times its measured gain, and adds what its own correction has left, from the
    measured rate at which it contracts, less what cancels; in the first iterations an embedded pair of coarse
    propagators stands in. From the second iteration on the decay of increments may promise more, and is believed.
    """
    if evidence.error == 0:
        return 0.0
    return evidence.error / evidence.size if evidence.size else float("inf")


def worst_increment(evidence: Evidence) -> float:
    """Estimate the relative error of an iterate by the largest relative increment on the way to it.

    Where the iteration contracts by more than a half this errs on the safe side: the increment of iteration k measures
    the error of iteration k - 1. Where it contracts by rho, slower than that, what is still to come is the increment
    times rho / (1 - rho). It takes every boundary into account, because a change that has not yet reached the last
    boundary cannot be seen there.
    """
    if evidence.increment == float("inf"):  # the prediction
        return float("inf")
    own = evidence.increment / evidence.size if evidence.size else float(evidence.increment > 0)
    rho = min(evidence.increment / evidence.previous, 0.9) if evidence.previous else 0.0
    return max(own * max(1.0, rho / (1 - rho)), evidence.upstream)


class AbstractCriterion(ABC):
    """The rule that accepts an iterate at a boundary.

    A `local` criterion is asked at every boundary, and a boundary settles when it is accepted and everything
    to its left is final. One that is not local looks at the last boundary alone and stops the whole solve.
    """

    local: ClassVar[bool] = True
    cumulative: ClassVar[bool] = False
    """whether what it asks of the last boundary takes into account what is still under way to it"""
    norm: str = "rms"
    consecutive: int = 1

    @property
    def last_iteration(self) -> int | None:
        """The iteration after which to stop in any case, where that is known beforehand."""
        return None

    def resolved(self, layout: Layout) -> "AbstractCriterion":
        """Return this criterion with its defaults filled in for states of this layout, or raise `ValueError`."""
        return self

    def estimate(self, evidence: Evidence) -> float:
        """Estimate the relative error of the state that the evidence is about."""
        return propagated_error(evidence)

    def overlooks(self, change: float, size: float, evidence: Evidence) -> bool:
        """Return whether a change of what F remembers, both norms given, is as good as none."""
        return self.accepts(evidence._replace(increment=change, defect=change, size=size))

    def nested(self, outer: int, inner: int) -> "AbstractCriterion":
        """Return the criterion of the solves over `inner` slices within each of `outer`: the same."""
        return self

    @abstractmethod
    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the state is good enough."""


def _check_tolerances(who: str, layout: Layout, rtol: float, atol: float = 0.0) -> None:
    eps = epsilon(layout)
    if not (rtol >= 0 and atol >= 0):
        raise ValueError(f"{who}: tolerances must not be negative, got rtol={rtol}, atol={atol}")
    if 0 < rtol < eps or (rtol == 0 and atol == 0):
        raise ValueError(
            f"{who}: rtol={rtol} is below {eps:.2g}, what the states' dtype can resolve: raise rtol, "
            "use states of a wider dtype, or run to the end with Iterations(number of slices)"
        )


@dataclass(frozen=True)
class _Relative(AbstractCriterion):
    """The fields of the criteria that hold one norm against `atol + rtol * size`."""

    rtol: float | None = None
    atol: float | None = None
    norm: str = "rms"
    consecutive: int = 1

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        whole_number("consecutive", self.consecutive, 1)

    def resolved(self, layout: Layout) -> AbstractCriterion:
        """Fill in 1e-6 and 1e-9 for double precision, 1e-4 and 1e-6 for single."""
        double = epsilon(layout) < 1e-12
        rtol = (1e-6 if double else 1e-4) if self.rtol is None else self.rtol
        atol = (1e-9 if double else 1e-6) if self.atol is None else self.atol
        _check_tolerances(type(self).__name__, layout, rtol, atol)
        return replace(self, rtol=rtol, atol=atol)

    def nested(self, outer: int, inner: int) -> AbstractCriterion:
        """Return this criterion for a solve that begins anew in every outer iteration."""
        return replace(self, consecutive=1)

    def threshold(self, size: float) -> float:
        """Return the largest norm that is accepted."""
        return (self.atol or 0.0) + (self.rtol or 0.0) * size


@final
@dataclass(frozen=True)
class Increment(_Relative):
    """Accept when the increment's norm is at most `atol + rtol * norm(state)`, `consecutive` times in a row.

    The strict default: a boundary settles only when all boundaries to its left have. It bounds the change of
    every boundary, hence, through the Lipschitz constant of F - G, the defect of every slice; the error of the
    final state is what the flow between the slices makes of those defects.
    Defaults: 1e-6 and 1e-9 for double precision, 1e-4 and 1e-6 for single.
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Compare the increment."""
        return evidence.increment <= self.threshold(evidence.size)


@final
@dataclass(frozen=True)
class Defect(_Relative):
    """Accept when the defect F(k-1, n-1) - U(k-1, n) of the iterate before is small enough.

    The true shooting residual, known one iteration late; otherwise as `Increment`.
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Compare the defect."""
        return evidence.defect <= self.threshold(evidence.size)


@final
@dataclass(frozen=True)
class Tolerance(AbstractCriterion):
    """Stop at the first iterate whose final state has an estimated relative error of at most `rtol`, sample by sample.

    A boundary further left settles, and its slice stops, where its own estimate is below a hundredth of `rtol` and its
    increment below a tenth. Where a flow amplifies errors more than that, the final state's estimate can stay above
    `rtol` when all boundaries have settled: `Solution.error_estimate` has it, and `Solution.message` says so.

    `estimator` maps an `Evidence` to an estimate. The default, `propagated_error`, costs no evaluation; how often it
    errs, and how many iterations it wastes, is measured (docs/results/coverage.md). `worst_increment` is simple and pessimistic:
    the largest relative increment of any boundary, which may ask for an iteration more than needed.
    """

    rtol: float
    estimator: Callable[[Evidence], float] = propagated_error
    norm: str = "rms"
    interior: float = 0.01
    """the fraction of `rtol` that boundaries before the last settle at, if `estimator` is `propagated_error`"""

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        if not 0 < self.interior <= 1:
            raise ValueError(f"interior must be a fraction of rtol, above 0 and at most 1, got {self.interior}")

    @property
    def cumulative(self) -> bool:  # pyright: ignore
        """Whether the estimate is carried from boundary to boundary."""
        return self.estimator is propagated_error

    def resolved(self, layout: Layout) -> AbstractCriterion:
        """Check the tolerance against the dtype."""
        _check_tolerances("Tolerance", layout, self.rtol)
        return self

    def estimate(self, evidence: Evidence) -> float:
        """Ask the estimator."""
        return self.estimator(evidence)

    def overlooks(self, change: float, size: float, evidence: Evidence) -> bool:
        """Compare the change with the tolerance: what it does to a state is not known before F has run with it."""
        return change <= self.rtol * size

    def nested(self, outer: int, inner: int) -> AbstractCriterion:
        """Return the criterion of the solves within slices, whose ends are boundaries before the last."""
        return replace(self, rtol=self.rtol * self.interior, interior=1.0) if self.cumulative else self

    def accepts(self, evidence: Evidence) -> bool:
        """Compare the estimate."""
        if evidence.last or not self.cumulative:
            return self.estimator(evidence) <= self.rtol
        # what flows on from here may be amplified, and F on the right will not see the last increment
        steady = evidence.increment <= 10 * self.interior * self.rtol * evidence.size
        return steady and self.estimator(evidence) <= self.interior * self.rtol


@final
@dataclass(frozen=True)
class Iterations(AbstractCriterion):
    """Make exactly `count` iterations after the prediction, fewer only where the result is exact before.

    With nested levels, solves within a slice make one iteration an outer iteration, each going on where the one before
    ended; but a count that runs the outermost level to its end, its number of slices, runs those within to theirs.
    """

    count: int

    def __post_init__(self) -> None:
        whole_number("count", self.count, 0)

    @property
    def last_iteration(self) -> int | None:
        """The count."""
        return self.count

    def nested(self, outer: int, inner: int) -> AbstractCriterion:
        """Return a run to the end where this is one, and else one iteration."""
        return Iterations(inner if self.count >= outer else 1)

    def accepts(self, evidence: Evidence) -> bool:
        """Accept nothing: the count alone stops the solve."""
        return False


@final
@dataclass(frozen=True)
class LastChange(AbstractCriterion):
    """Stop when the last boundary's state changes by at most `atol` (the criterion of SRDS, Algorithm 1).

    Kept for comparison with the paper. It can be fooled: a change that is still on its way through the slices
    does not show at the last boundary, so the last state may stand still in one iteration and jump in the next.
    `Increment` waits for every boundary.
    """

    atol: float
    norm: str = "l1"
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        if not self.atol > 0:
            raise ValueError(f"LastChange: atol must be positive, got {self.atol}")

    def accepts(self, evidence: Evidence) -> bool:
        """Compare the last boundary's increment."""
        return evidence.increment <= self.atol
