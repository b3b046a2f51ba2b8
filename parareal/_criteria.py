"""Stopping criteria: the rules that decide whether an iterate is accurate enough.

A criterion is a frozen dataclass. The solve measures each new state U(k, n), collects the measurements in an `Evidence`
and calls `accepts`. A criterion does no work itself and keeps no state, so all samples of a solve share one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

from parareal._checks import one_of, whole_number
from parareal._state import NORMS, Layout, epsilon


class Evidence(NamedTuple):
    """Measurements of the state U(k, n) at one boundary of one sample, taken when iteration k has computed it.

    All norms are those that the criterion's `norm` names. A custom `estimator` of `Tolerance` receives this object.
    """

    iteration: int
    """k; 0 is the coarse prediction"""
    boundary: int
    """n, from 1 to the number of slices"""
    increment: float
    """norm of U(k, n) - U(k-1, n); infinite for the prediction"""
    defect: float
    """norm of F(k-1, n-1) - U(k-1, n), the shooting residual of the previous iterate; infinite for the prediction"""
    size: float
    """norm of U(k, n)"""
    upstream: float
    """the relative error estimate of the left neighbour or of the inner solve whose result is corrected, whichever is
    larger; an exact left neighbour that has not changed counts as 0"""
    previous: float = float("inf")
    """norm of the previous iteration's increment, U(k-1, n) - U(k-2, n); infinite where there is none"""
    error: float = float("inf")
    """estimated norm of U(k, n) - u(n), where u is the sequential solution (docs/explained/estimates.md); infinite
    where there is no estimate"""
    last: bool = False
    """whether this is the last boundary"""


def propagated_error(evidence: Evidence) -> float:
    """Return the relative error of an iterate, estimated from the errors that flow through the slices.

    This is the default estimator of `Tolerance` (docs/explained/estimates.md, eq. 15 to 19). It needs no evaluation
    beyond those of the solve. Each slice multiplies the error of its input by the slice's measured gain and adds the
    error that its own correction leaves, predicted from the slice's measured contraction rate; errors of different
    slices that cancel are accounted for. In the first iterations, before there is a rate, the difference of an
    embedded pair of coarse propagators takes its place. From the second iteration on, the estimate is lowered where
    the decay of the increments indicates a smaller error.

    Args:
        evidence: the measurements of one state.

    Returns:
        The estimated error norm divided by the norm of the state; 0 where the state is exact, and infinity where the
        error is unknown or the state is zero.
    """
    if evidence.error == 0:  # also where the size is 0, which would divide 0 by 0 below
        return 0.0
    return evidence.error / evidence.size if evidence.size else float("inf")


def worst_increment(evidence: Evidence) -> float:
    """Return the relative error of an iterate, estimated by the largest relative increment on the way to it.

    A simple and pessimistic estimator for `Tolerance`. The increment of iteration k is about the error of iteration
    k - 1, so it overestimates the error of iteration k as long as the iteration contracts by a factor rho below 1/2.
    For larger rho the remaining corrections sum to rho / (1 - rho) times the increment, and the estimate is enlarged
    accordingly. All boundaries further left count, because an increment that has not reached the last boundary yet
    cannot be measured there.

    Args:
        evidence: the measurements of one state.

    Returns:
        The estimate, relative to the norm of the state; infinity for the coarse prediction.
    """
    if evidence.increment == float("inf"):  # the prediction has no increment
        return float("inf")
    relative = evidence.increment / evidence.size if evidence.size else float(evidence.increment > 0)
    # the cap keeps the geometric series finite where the increments have not begun to decay
    rho = min(evidence.increment / evidence.previous, 0.9) if evidence.previous else 0.0
    return max(relative * max(1.0, rho / (1 - rho)), evidence.upstream)


class AbstractCriterion(ABC):
    """The rule that accepts or rejects the state at a boundary.

    To write a criterion, derive a frozen dataclass and implement `accepts`. All other members have defaults:

    1. `accepts(evidence)`: whether the state is accurate enough. It must depend on the evidence alone.
    2. `local`: True if the rule applies to every boundary. A boundary then settles when its state is accepted and
       everything to its left is final. False if only the last boundary is judged; its acceptance stops the solve.
    3. `cumulative`: True if the evidence of the last boundary accounts for corrections that have not reached it yet,
       so that accepting it may stop the solve although earlier boundaries have not settled.
    4. `norm`: the name of the norm in the evidence, `"rms"`, `"l1"` or `"max"`.
    5. `consecutive`: the number of iterations in a row that must be accepted before a boundary settles.
    6. `last_iteration`, `resolve`, `estimate`, `overlooks`, `for_inner_solves`: see their own descriptions.
    """

    local: ClassVar[bool] = True
    """whether the criterion judges every boundary, not the last one alone"""
    cumulative: ClassVar[bool] = False
    """whether the evidence of the last boundary accounts for corrections that have not reached it yet"""
    norm: str = "rms"
    """the norm of the evidence"""
    consecutive: int = 1
    """iterations in a row that must be accepted"""

    @property
    def last_iteration(self) -> int | None:
        """The iteration after which the solve stops in any case; None if the criterion sets no such number."""
        return None

    def resolve(self, layout: Layout) -> "AbstractCriterion":
        """Return this criterion with its defaults filled in for one kind of state.

        Args:
            layout: dtypes and shapes of a sample's state.

        Raises:
            ValueError: if the dtype of the states cannot resolve a tolerance.
        """
        return self

    def estimate(self, evidence: Evidence) -> float:
        """Return the estimated relative error of a state, which `Solution.error_estimate` reports."""
        return propagated_error(evidence)

    def overlooks(self, change: float, size: float, evidence: Evidence) -> bool:
        """Return whether a change of a fine stepper's memory is too small to keep a boundary from settling.

        Args:
            change: norm of the difference between the new memory and the one F has run with.
            size: norm of the new memory.
            evidence: the measurements of the state at the same boundary.
        """
        # by default a change of memory is judged as an increment and a defect of the same norm would be
        return self.accepts(evidence._replace(increment=change, defect=change, size=size))

    def for_inner_solves(self, outer: int, inner: int) -> "AbstractCriterion":
        """Return the criterion for the inner solves of nested levels; by default this one.

        Args:
            outer: slices of the outer level.
            inner: slices of each inner solve.
        """
        return self

    @abstractmethod
    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the state is accurate enough."""


def _check_tolerances(criterion: str, layout: Layout, rtol: float, atol: float = 0.0) -> None:
    """Raise `ValueError` for negative tolerances, and for those that the dtype of the states cannot resolve."""
    eps = epsilon(layout)
    # `not (... >= 0)` also refuses NaN, which `< 0` would let through
    if not (rtol >= 0 and atol >= 0):
        raise ValueError(f"{criterion}: tolerances must not be negative or NaN, but were rtol={rtol}, atol={atol}")
    if rtol == 0 and atol == 0:
        raise ValueError(
            f"{criterion}: a tolerance of 0 would accept nothing but an exact state: raise rtol, or run to the end "
            "with Iterations(number of slices)"
        )
    # an absolute tolerance alone is allowed: whether the dtype resolves it depends on the size of the states
    if 0 < rtol < eps:
        raise ValueError(
            f"{criterion}: rtol={rtol} is below {eps:.2g}, the resolution of the states' dtype: raise rtol, "
            "use states of a wider dtype, or run to the end with Iterations(number of slices)"
        )


@dataclass(frozen=True)
class _Relative(AbstractCriterion):
    """Base of the criteria that compare one norm with `atol + rtol * size`."""

    rtol: float | None = None
    """relative tolerance; None for 1e-6 in double precision and 1e-4 in single precision"""
    atol: float | None = None
    """absolute tolerance; None for 1e-9 in double precision and 1e-6 in single precision"""
    norm: str = "rms"
    consecutive: int = 1

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        whole_number("consecutive", self.consecutive, 1)

    def resolve(self, layout: Layout) -> AbstractCriterion:
        """Return this criterion with the default tolerances of the states' precision filled in."""
        double = epsilon(layout) < 1e-12  # float64 resolves 2e-16, float32 1e-7
        rtol = (1e-6 if double else 1e-4) if self.rtol is None else self.rtol
        atol = (1e-9 if double else 1e-6) if self.atol is None else self.atol
        _check_tolerances(type(self).__name__, layout, rtol, atol)
        return replace(self, rtol=rtol, atol=atol)

    def for_inner_solves(self, outer: int, inner: int) -> AbstractCriterion:
        """Return this criterion with `consecutive=1`: an inner solve starts counting again in each outer iteration."""
        return replace(self, consecutive=1)

    def threshold(self, size: float) -> float:
        """Return the largest norm that is accepted for a state of norm `size`."""
        return (self.atol or 0.0) + (self.rtol or 0.0) * size


@final
@dataclass(frozen=True)
class Increment(_Relative):
    """Accept a state whose increment has at most the norm `atol + rtol * norm(state)`. The default criterion.

    A boundary settles when its own increment is accepted and all boundaries to its left are final. The increments
    bound the defect of every slice through the Lipschitz constant of F - G. They do not bound the error of the final
    state, which also depends on how the flow amplifies those defects; to control that error, use `Tolerance`.

    Args:
        rtol: relative tolerance; by default 1e-6 for states in double precision, 1e-4 in single precision.
        atol: absolute tolerance; by default 1e-9 in double precision, 1e-6 in single precision.
        norm: `"rms"`, `"l1"` or `"max"`, taken over all numbers of one sample's state.
        consecutive: iterations in a row in which the increment must be accepted.

    Raises:
        ValueError: for an unknown norm or a `consecutive` below 1; when the solve starts, for tolerances that are
            negative or that the dtype of the states cannot resolve.

    Examples:
        `parareal.solve(fine, coarse, u, times, criterion=parareal.Increment(rtol=1e-8))`
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the increment is at most the threshold."""
        return evidence.increment <= self.threshold(evidence.size)


@final
@dataclass(frozen=True)
class Defect(_Relative):
    """Accept a state if the previous iterate's defect there has at most the norm `atol + rtol * norm(state)`.

    The defect F(k-1, n-1) - U(k-1, n) is the residual of multiple shooting: the amount by which the previous iterate
    fails to follow the fine propagator across slice n - 1. It is known one iteration later than the increment, at no
    further cost. Arguments, defaults and errors are those of `Increment`.
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the defect is at most the threshold."""
        return evidence.defect <= self.threshold(evidence.size)


@final
@dataclass(frozen=True)
class Tolerance(AbstractCriterion):
    """Stop each sample at the first iterate whose final state has an estimated relative error of at most `rtol`.

    The error of a sample is the norm of the difference to its sequential final state over the norm of that state.
    Boundaries before the last settle, and their slices stop, when their own estimate is at most `interior * rtol` and
    their relative increment at most `10 * interior * rtol`. If the flow amplifies errors more than that allows for,
    all boundaries may settle while the estimate of the final state is still above `rtol`:
    `Solution.error_estimate` holds the estimate, and `Solution.message` reports it.

    Args:
        rtol: largest estimated relative error of the final state, per sample.
        estimator: maps an `Evidence` to an estimated relative error. The default, `propagated_error`, needs no further
            evaluation; docs/results/coverage.md reports how often it is too small and how many iterations it wastes.
            `worst_increment` is simpler and more pessimistic, and may cost one iteration more than needed.
        norm: `"rms"`, `"l1"` or `"max"`, taken over all numbers of one sample's state.
        interior: fraction of `rtol` at which boundaries before the last settle, above 0 and at most 1. Ignored unless
            `estimator` is `propagated_error`; other estimators must reach `rtol` at every boundary.

    Raises:
        ValueError: for an unknown norm or an `interior` out of range; when the solve starts, for a tolerance that is
            negative or that the dtype of the states cannot resolve, and for a correction without error estimates.

    Examples:
        `parareal.solve(fine, coarse, u, times, criterion=parareal.Tolerance(1e-3))`
    """

    rtol: float
    estimator: Callable[[Evidence], float] = propagated_error
    norm: str = "rms"
    interior: float = 0.01
    """fraction of `rtol` at which boundaries before the last settle, if `estimator` is `propagated_error`"""

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        if not 0 < self.interior <= 1:
            raise ValueError(f"interior must be a fraction of rtol, above 0 and at most 1, but was {self.interior}")

    # a property in place of the class variable, because it depends on the estimator
    @property
    def cumulative(self) -> bool:  # pyright: ignore
        """Whether the estimate of a boundary includes the errors that are carried to it from the left."""
        return self.estimator is propagated_error

    def resolve(self, layout: Layout) -> AbstractCriterion:
        """Return this criterion, after checking the tolerance against the dtype of the states."""
        _check_tolerances("Tolerance", layout, self.rtol)
        return self

    def estimate(self, evidence: Evidence) -> float:
        """Return the estimator's value."""
        return self.estimator(evidence)

    def overlooks(self, change: float, size: float, evidence: Evidence) -> bool:
        """Return whether a change of memory is within `rtol`.

        The effect of a change of memory on the state is not known before F has run with it, so the estimator cannot
        judge it; the relative change itself is compared.
        """
        return change <= self.rtol * size

    def for_inner_solves(self, outer: int, inner: int) -> AbstractCriterion:
        """Return this criterion with `interior` times `rtol`, the tolerance of boundaries before the last."""
        # `interior=1.0`, or every further level would multiply the tolerance by the factor again
        return replace(self, rtol=self.rtol * self.interior, interior=1.0) if self.cumulative else self

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the estimate is within the tolerance of this boundary."""
        if evidence.last or not self.cumulative:
            return self.estimator(evidence) <= self.rtol
        # Before the last boundary more is required: the slices to the right may amplify the error, and once this
        # boundary has settled, F is not run on its last increment.
        steady = evidence.increment <= 10 * self.interior * self.rtol * evidence.size
        return steady and self.estimator(evidence) <= self.interior * self.rtol


@final
@dataclass(frozen=True)
class Iterations(AbstractCriterion):
    """Make exactly `count` iterations after the prediction, or fewer if the result is exact earlier.

    With `count` equal to the number of slices the result is the sequential solution. The inner solves of nested levels
    make one iteration per outer iteration, each starting where the previous one ended. If `count` runs the outermost
    level to its end, the inner solves run to their ends, too.

    Args:
        count: number of iterations, 0 or more; 0 returns the coarse prediction.

    Raises:
        ValueError: if `count` is not a whole number of at least 0.
    """

    count: int

    def __post_init__(self) -> None:
        whole_number("count", self.count, 0)

    @property
    def last_iteration(self) -> int | None:
        """The number of iterations, `count`."""
        return self.count

    def for_inner_solves(self, outer: int, inner: int) -> AbstractCriterion:
        """Return `Iterations(inner)` if this criterion runs the outer level to its end, else `Iterations(1)`."""
        # a run to the end promises the sequential solution, which inner solves must therefore reach, too
        return Iterations(inner if self.count >= outer else 1)

    def accepts(self, evidence: Evidence) -> bool:
        """Return False: only the count stops the solve."""
        return False


@final
@dataclass(frozen=True)
class LastChange(AbstractCriterion):
    """Stop when the increment at the last boundary has at most the norm `atol` (SRDS, Algorithm 1).

    Provided for comparison with the paper (Selvam, Merchant and Ermon 2024, arXiv:2412.08292). It can be fooled: a
    correction that is still on its way through the slices does not show at the last boundary, so the final state may
    stand still in one iteration and jump in the next. `Increment` waits for every boundary instead.

    Args:
        atol: absolute tolerance, above 0.
        norm: `"l1"`, `"rms"` or `"max"`, taken over all numbers of one sample's state.

    Raises:
        ValueError: for an unknown norm, or an `atol` that is not positive.
    """

    atol: float
    norm: str = "l1"
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        if not self.atol > 0:
            raise ValueError(f"LastChange: atol must be positive, but was {self.atol}")

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the increment of the last boundary is at most `atol`."""
        return evidence.increment <= self.atol
