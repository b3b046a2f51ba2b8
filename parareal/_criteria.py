"""Stopping criteria: the rules that decide whether an iterate is accurate enough.

A criterion is a frozen dataclass. The solve measures each new state U(k, n), collects the measurements in an `Evidence`
and calls `accepts`. A criterion does no work itself and keeps no state, so all samples of a solve share one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

from parareal._checks import one_of, real_number, whole_number
from parareal._state import NORMS, Layout, epsilon

NORM_NAMES = (*NORMS, "scaled")
"""norms of a criterion that judges relative changes"""


class LeafEvidence(NamedTuple):
    """Measurements of one leaf of a state that is a pytree, in the norm that the criterion names."""

    increment: float
    """norm of the leaf of U(k, n) - U(k-1, n)"""
    defect: float
    """norm of the leaf of F(k-1, n-1) - U(k-1, n)"""
    size: float
    """norm of the leaf of U(k, n)"""
    previous_size: float
    """norm of the leaf of U(k-1, n)"""
    rounding: float
    """machine epsilon of the leaf's dtype times the largest norm of the leaf, as for `Evidence.rounding`"""


class Evidence(NamedTuple):
    """Measurements of the state U(k, n) at one boundary of one sample, taken when iteration k has computed it.

    All norms are those that the criterion's `norm` names. With `norm="scaled"` every component is measured in a unit of
    its own, about its size (see `AbstractCriterion.component_tolerances`). A norm is then the largest of these numbers,
    not their mean, and both sizes are 1. A custom `estimator` of `Tolerance` receives this object.
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
    previous_size: float = 0.0
    """norm of U(k-1, n)"""
    rounding: float = 0.0
    """machine epsilon of the states' dtype times the largest norm of a state, at this boundary and, where they are
    final, at those left of it: a smaller change may be nothing but rounding. With `norm="scaled"` it is the largest
    machine epsilon of a component in its unit"""
    leaves: tuple[LeafEvidence, ...] = ()
    """the measurements of every leaf, if the state has several and `norm` is not `"scaled"`"""


def propagated_error(evidence: Evidence) -> float:
    """Return the relative error of an iterate, estimated from the errors that flow through the slices.

    This is the default estimator of `Tolerance` (docs/explained/estimates.md, eq. 15 to 19). It needs no evaluation
    beyond those of the solve. Each slice multiplies the error of its input by the slice's measured gain and adds the
    error that its own correction leaves, predicted from the slice's measured contraction rate; errors of different
    slices that cancel are accounted for. In the first iteration, before there is a rate, the difference of an
    embedded pair of coarse propagators takes its place; without a pair, nothing is known before the second iteration.
    From the second iteration on, the estimate is lowered where the decay of the increments indicates a smaller error.
    It is raised where the increments show that errors grow or that slices hardly contract.

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
        The estimate, relative to the norm of the state; infinity for the coarse prediction, and for a state that is
        zero but not known to be exact.
    """
    if evidence.increment == float("inf"):  # the prediction has no increment
        return float("inf")
    if not evidence.size:  # a zero state has no relative error, unless it is exact
        return 0.0 if evidence.error == 0 else float("inf")
    relative = evidence.increment / evidence.size
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
       so that accepting it may stop the solve although earlier boundaries have not settled. Those settle only with a
       window then.
    4. `norm`: the name of the norm in the evidence, `"rms"`, `"l1"`, `"max"` or `"scaled"`.
    5. `consecutive`: the number of iterations in a row that must be accepted before a boundary settles.
    6. `accept_prediction`: whether the coarse prediction may be accepted, on the word of its embedded pair alone.
    7. `last_iteration`, `component_tolerances`, `resolve`, `estimate`, `overlooks`, `for_inner_solves`: see their own
       descriptions.
    """

    local: ClassVar[bool] = True
    """whether the criterion judges every boundary, not the last one alone"""
    cumulative: ClassVar[bool] = False
    """whether the evidence of the last boundary accounts for corrections that have not reached it yet"""
    norm: str = "rms"
    """the norm of the evidence"""
    consecutive: int = 1
    """iterations in a row that must be accepted"""
    accept_prediction: bool = False
    """whether the coarse prediction, on which F has never run, may be accepted"""

    @property
    def last_iteration(self) -> int | None:
        """The iteration after which the solve stops in any case; None if the criterion sets no such number."""
        return None

    @property
    def component_tolerances(self) -> tuple[float, float]:
        """The numbers rtol and atol by which `norm="scaled"` chooses the unit of every component.

        The unit is the larger absolute value of the component in U(k, n) and U(k-1, n), plus atol / rtol. It is at
        least machine epsilon times the largest component of the leaf, at this boundary and, where they are final, at
        those left of it, divided by rtol. So a norm of at most
        rtol says of every component that it changed by at most atol + rtol * size, or by no more than rounding.
        """
        return 1.0, 0.0

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
            evidence: the measurements of the state at the same boundary; its `leaves` are those of the memory.
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


def _check_resolution(criterion: str, layout: Layout, rtol: float) -> None:
    """Raise `ValueError` for a relative tolerance that the dtype of the states cannot resolve."""
    eps = epsilon(layout)
    # an absolute tolerance alone is allowed: whether the dtype resolves it depends on the size of the states
    if 0 < rtol < eps:
        raise ValueError(
            f"{criterion}: rtol={rtol} is below {eps:.2g}, the resolution of the states' dtype: raise rtol, "
            "use states of a wider dtype, or run to the end with Iterations(number of slices)"
        )


@dataclass(frozen=True)
class _Relative(AbstractCriterion):
    """Base of the criteria that compare norms with `atol + rtol * size`."""

    rtol: float | None = None
    """relative tolerance; None for 1e-6 in double precision and 1e-4 in single precision"""
    atol: float = 0.0
    """absolute tolerance, in the units of the state"""
    norm: str = "rms"
    consecutive: int = 1

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORM_NAMES)
        whole_number("consecutive", self.consecutive, 1)
        criterion = type(self).__name__
        if self.rtol is not None:
            remedy = "pass a fraction of the size of a state, such as 1e-6; atol is in units of the state"
            object.__setattr__(self, "rtol", real_number(f"{criterion}: rtol", self.rtol, remedy, least=0, below=1))
        remedy = "pass a norm in units of the state, or 0 for rtol alone"
        object.__setattr__(self, "atol", real_number(f"{criterion}: atol", self.atol, remedy, least=0))
        if self.rtol == 0 and self.atol == 0:
            raise ValueError(
                f"{criterion}: a tolerance of 0 would accept nothing but an exact state: raise rtol, or run to the end "
                "with Iterations(number of slices)"
            )
        if self.rtol == 0 and self.norm == "scaled":
            raise ValueError(
                f"{criterion}: norm='scaled' measures components relative to their sizes, but rtol was 0: raise rtol, "
                "or use norm='max' with atol"
            )

    def resolve(self, layout: Layout) -> AbstractCriterion:
        """Return this criterion with the default rtol of the states' precision filled in."""
        double = epsilon(layout) < 1e-12  # float64 resolves 2e-16, float32 1e-7
        rtol = (1e-6 if double else 1e-4) if self.rtol is None else self.rtol
        _check_resolution(type(self).__name__, layout, rtol)
        return replace(self, rtol=rtol)

    def for_inner_solves(self, outer: int, inner: int) -> AbstractCriterion:
        """Return this criterion with `consecutive=1`: an inner solve starts counting again in each outer iteration."""
        return replace(self, consecutive=1)

    @property
    def component_tolerances(self) -> tuple[float, float]:
        """The tolerances of this criterion, `rtol` and `atol`."""
        return self.rtol or 1.0, self.atol

    def threshold(self, evidence: Evidence | LeafEvidence) -> float:
        """Return the largest norm of a change that is accepted for this state or leaf."""
        rtol = self.rtol or 0.0
        if self.norm == "scaled":  # atol and rounding are part of the units
            return rtol
        return max(self.atol + rtol * max(evidence.size, evidence.previous_size), evidence.rounding)


@final
@dataclass(frozen=True)
class Increment(_Relative):
    """Accept a state whose increment has at most the norm `atol + rtol * size`. The default criterion.

    The size is the larger norm of U(k, n) and U(k-1, n). If the state is a pytree, the increment of every leaf is
    compared with the size of that leaf. With `norm="scaled"` this is done for every component, as SciPy's solvers use
    `rtol` and `atol`; but the largest component decides, not their root mean square. A change is also accepted if it is
    at most machine epsilon times the largest norm of the leaf at this boundary or left of it, so a state that passes
    through zero need not come closer than rounding allows. Without `atol` no number depends on the units of the state.

    A boundary settles when its own increment is accepted and all boundaries to its left are final. The increments
    bound the defect of every slice through the Lipschitz constant of F - G. If a slice has been measured to amplify
    increments, so that its defect may exceed the threshold, F runs once more on its settled input. The error of the
    final state is not bounded, because it also depends on how the flow amplifies those defects. If it is estimated at
    more than 30 times `rtol`, `Solution.message` says so; to control that error, use `Tolerance`.

    Args:
        rtol: relative tolerance, from 0 to below 1; by default 1e-6 for states in double precision, 1e-4 in single
            precision.
        atol: absolute tolerance in the units of the state, 0 or more; by default 0.
        norm: `"rms"`, `"l1"` or `"max"`, taken over the numbers of each leaf; or `"scaled"`, each component by itself.
        consecutive: iterations in a row in which the increment must be accepted.

    Raises:
        TypeError: for a tolerance that is not a real number.
        ValueError: for an unknown norm, a `consecutive` below 1, tolerances out of range, two tolerances of 0, or
            `norm="scaled"` with an `rtol` of 0; when the solve starts, for an `rtol` that the dtype of the states
            cannot resolve.

    Examples:
        `parareal.solve(fine, coarse, u, times, criterion=parareal.Increment(rtol=1e-8))`
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the increment of every leaf is at most its threshold."""
        return all(part.increment <= self.threshold(part) for part in evidence.leaves or (evidence,))


@final
@dataclass(frozen=True)
class Defect(_Relative):
    """Accept a state if the previous iterate's defect there has at most the norm `atol + rtol * size`.

    The defect F(k-1, n-1) - U(k-1, n) is the residual of multiple shooting: the amount by which the previous iterate
    fails to follow the fine propagator across slice n - 1. It is known one iteration later than the increment, at no
    further cost. Settling, sizes, arguments, defaults and errors are those of `Increment`, and so is the message about
    errors that the flow amplifies.
    """

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the defect of every leaf is at most its threshold."""
        return all(part.defect <= self.threshold(part) for part in evidence.leaves or (evidence,))


@final
@dataclass(frozen=True)
class Tolerance(AbstractCriterion):
    """Stop each sample at the first iterate whose final state has an estimated relative error of at most `rtol`.

    The error of a sample is the norm of the difference to its sequential final state over the norm of that state. With
    `norm="scaled"` it is the largest relative error of a component. A component below machine epsilon times the largest
    one of its leaf, divided by `rtol`, counts relative to that number, because rounding hides a smaller error.
    While the estimate is above `rtol` or not known, the solve goes on, until it is exact or has made `max_iterations`.

    Boundaries before the last settle, and their slices stop, only if there is a `window`: when their own estimate is at
    most `interior * rtol` and their relative increment at most `10 * interior * rtol`. If the flow amplifies errors
    more than that allows for, all boundaries may settle while the estimate of the final state is still above `rtol`.
    The outcome is then `ITERATION_LIMIT`, and `Solution.message` says so.

    Args:
        rtol: largest estimated relative error of the final state, per sample; above 0 and below 1.
        estimator: maps an `Evidence` to an estimated relative error. The default, `propagated_error`, needs no further
            evaluation; docs/results/coverage.md reports how often it is too small and how many iterations it wastes.
            `worst_increment` is simpler and more pessimistic, and may cost one iteration more than needed. An estimate
            by any other estimator than the default counts as at least that of the boundary to the left.
        accept_prediction: whether the coarse prediction may be accepted, on the estimate of its embedded pair alone. F
            has not run yet, and both results of the pair may overlook the same event.
        norm: `"rms"`, `"l1"` or `"max"`, taken over all numbers of one sample's state; or `"scaled"`, each component by
            itself.
        interior: fraction of `rtol` at which boundaries before the last settle if there is a `window`, above 0 and at
            most 1.

    Raises:
        TypeError: for an `rtol` or `interior` that is not a real number, or an `accept_prediction` that is not a bool.
        ValueError: for an unknown norm, or an `rtol` or `interior` out of range; when the solve starts, for a tolerance
            that the dtype of the states cannot resolve, and for a correction without error estimates.

    Examples:
        `parareal.solve(fine, coarse, u, times, criterion=parareal.Tolerance(1e-3))`
    """

    rtol: float
    estimator: Callable[[Evidence], float] = propagated_error
    accept_prediction: bool = False
    norm: str = "rms"
    interior: float = 0.01
    """fraction of `rtol` at which boundaries before the last settle if there is a window"""

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORM_NAMES)
        if not isinstance(self.accept_prediction, bool):  # such as a norm in its place
            raise TypeError(
                f"Tolerance: accept_prediction must be True or False, but was {self.accept_prediction!r}: pass norm "
                "and interior by keyword"
            )
        remedy = "pass a fraction, such as 0.01 for 1 % error, or run to the end with Iterations(number of slices)"
        object.__setattr__(self, "rtol", real_number("Tolerance: rtol", self.rtol, remedy, above=0, below=1))
        remedy = "pass the fraction of rtol at which boundaries before the last settle"
        object.__setattr__(self, "interior", real_number("Tolerance: interior", self.interior, remedy, above=0, most=1))

    cumulative: ClassVar[bool] = True

    @property
    def component_tolerances(self) -> tuple[float, float]:
        """The tolerance, and no absolute one."""
        return self.rtol, 0.0

    def resolve(self, layout: Layout) -> AbstractCriterion:
        """Return this criterion, after checking the tolerance against the dtype of the states."""
        _check_resolution("Tolerance", layout, self.rtol)
        return self

    def estimate(self, evidence: Evidence) -> float:
        """Return the estimator's value; for any estimator but the default, at least that of the boundary to the left.

        Others need not know of errors that are still on their way, which show further left.
        """
        estimate = self.estimator(evidence)
        return estimate if self.estimator is propagated_error else max(estimate, evidence.upstream)

    def overlooks(self, change: float, size: float, evidence: Evidence) -> bool:
        """Return whether a change of memory is within `rtol`.

        The effect of a change of memory on the state is not known before F has run with it, so the estimator cannot
        judge it; the relative change itself is compared.
        """
        return change <= self.rtol * size

    def for_inner_solves(self, outer: int, inner: int) -> AbstractCriterion:
        """Return this criterion with `interior` times `rtol`, the tolerance of boundaries before the last."""
        # `interior=1.0`, or every further level would multiply the tolerance by the factor again
        return replace(self, rtol=self.rtol * self.interior, interior=1.0)

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the estimate is within the tolerance of this boundary."""
        if evidence.last:
            return self.estimate(evidence) <= self.rtol
        # Before the last boundary more is required: the slices to the right may amplify the error, and once this
        # boundary has settled, F is not run on its last increment.
        steady = evidence.increment <= 10 * self.interior * self.rtol * evidence.size
        return steady and self.estimate(evidence) <= self.interior * self.rtol


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
        TypeError: for an `atol` that is not a real number.
        ValueError: for an unknown norm, or an `atol` that is not positive and finite.
    """

    atol: float
    norm: str = "l1"
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("norm", self.norm, NORMS)
        remedy = "pass a norm in units of the state, such as 1e-3"
        object.__setattr__(self, "atol", real_number("LastChange: atol", self.atol, remedy, above=0))

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the increment of the last boundary is at most `atol`."""
        return evidence.increment <= self.atol
