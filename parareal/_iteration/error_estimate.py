"""Error estimates for the outputs of one slice (docs/explained/estimates.md, eq. 15 to 19)."""

from collections.abc import Callable
from typing import NamedTuple, final

from parareal._iteration.error_formulas import (
    LEAST_ESTIMATE,
    LEAST_FIRST_RATE,
    LEAST_RATE,
    NOISE,
    PREDICTION_FACTOR,
    UNKNOWN,
    combine_estimates,
    extrapolate_error,
    measure_surprise,
    multiply,
    raise_estimate,
)
from parareal._iteration.error_model import ErrorModel
from parareal._iteration.measure import Measurements
from parareal._iteration.messages import Largest, Result, Sums, Value
from parareal._state import NORMS, State, add, subtract


class Update(NamedTuple):
    """The parts of U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) )."""

    current: Value
    """U(k, n)"""
    previous: Value
    """U(k-1, n)"""
    fine: Result
    """F(k-1, n)"""
    coarse: Result
    """G(k, n)"""
    previous_coarse: Result
    """G(k-1, n)"""
    previous_correction: State
    """C(U(k-1, n)), in the first update of a slice and where it is known, else None"""
    bracket: State
    """C(U(k, n)) - C(U(k-1, n)); None where it is zero or was skipped"""
    unchanged: bool
    """U(k, n) and U(k-1, n) agree bitwise"""
    first: bool
    """this is the slice's first update: it corrects the prediction, or the guess"""


class OutputErrors(NamedTuple):
    """Estimates of one output U(k, n+1)."""

    estimate: float
    """norm of its error"""
    sum_of_norms: float
    """norm of its error without credit for cancellation: the next slice starts from it"""
    largest: Largest
    """see `Value.largest`"""
    sums: Sums
    """see `Value.sums`"""


@final
class ErrorEstimator:
    """Error estimates for one slice's outputs, from an error model that is measured at every update."""

    def __init__(self, dimensions: int, requires_pair: bool, trusts_pair: bool = True, inexact: bool = False):
        # The estimate of an inner solve of nested levels is judged once more by the evidence of the level further out,
        # so a guess without an embedded pair will do there.
        self.norm: Callable[[State], float] = NORMS["rms"]
        """the norm at this boundary, which is set before every estimate, because its units may be those of the state"""
        self.dimensions, self.trusts_pair, self.inexact = dimensions, trusts_pair, inexact
        self.model = ErrorModel(requires_pair)

    @property
    def rate(self) -> float:
        """The rate at which the slice contracts; infinite before it has been measured."""
        return self.model.rate

    def sum_embedded_differences(self, left: Value, coarse: Result) -> State:
        """Return the estimated error of a prediction: the embedded differences of all slices up to this one, summed.

        None where some slice has no embedded pair.
        """
        if coarse.embedded_difference is None or not (left.exact or left.embedded_difference is not None):
            return None
        # an exact left boundary has no error to add
        if left.embedded_difference is None:
            return coarse.embedded_difference
        return add(left.embedded_difference, coarse.embedded_difference)

    def estimate_prediction(self, difference: State) -> float:
        """Return the error norm of a prediction with this summed embedded difference.

        Infinite if that is None, or 0: a pair whose results agree everywhere tells nothing.
        """
        return (PREDICTION_FACTOR * self.norm(difference) or UNKNOWN) if difference is not None else UNKNOWN

    def estimate_update(
        self, exact: bool, size: float, measured: Measurements, previous_output: Value, update: Update
    ) -> OutputErrors:
        """Return the estimates of U(k, n+1).

        Args:
            exact: whether it is exact.
            size: its norm.
            measured: norms of its increment, of the defect F(k-1, n) - U(k-1, n+1), and of rounding.
            previous_output: U(k-1, n+1).
            update: the parts that it is the sum of.
        """
        increment, defect, noise = measured.increment, measured.defect, NOISE * measured.rounding
        error, inner = self._estimate_error(previous_output.state, defect, update), update.fine.estimate * size
        sum_of_norms = 0.0 if exact else error + inner
        # An input that did not change passes nothing on: its increments belong to an earlier iteration.
        left = Largest(0.0), Sums()
        if not update.unchanged:
            left = update.current.largest, update.current.sums
        relative = increment / size if size > 0 else multiply(UNKNOWN, increment)
        # a ratio of rounding errors says nothing about the problem
        is_noise = max(increment, defect) <= noise
        claimed = 0.0 if increment <= noise else previous_output.estimate
        largest = self._find_largest(left[0], relative, claimed, update, is_noise)
        sums = self.model.propagate_sums(left[1], defect)
        share = sums.compute_share(increment, self.dimensions) if update.first else 1.0
        estimate, previous = share * sum_of_norms / size if size > 0 else UNKNOWN, previous_output.largest.increment
        if previous < UNKNOWN:
            # The extrapolated one sees the outer iteration only, so the error of an inner solve is added to it.
            extrapolation = extrapolate_error(largest.increment, previous) + update.fine.estimate
            # The input of a warm start is not the one that its guess was computed from, so increments that grew from
            # one solve to the next do not contradict the model.
            if not (update.first and extrapolation == UNKNOWN):
                estimate = combine_estimates(estimate, extrapolation)
        estimate = raise_estimate(estimate, largest, LEAST_FIRST_RATE if update.first else LEAST_RATE)
        if update.unchanged and update.current.settled and size > 0:
            # The output is F of a settled input, whose error it amplifies; it has no other error.
            sum_of_norms = self.model.amplify(update.current.error) + inner
            estimate = sum_of_norms / size
        estimate = max(LEAST_ESTIMATE, estimate)
        estimate = 0.0 if exact else estimate
        return OutputErrors(multiply(size, estimate) if size > 0 else estimate, sum_of_norms, largest, sums)

    def _find_largest(self, left: Largest, increment: float, claimed: float, update: Update, is_noise: bool) -> Largest:
        """Return the largest measurements up to the output, from those left of the slice."""
        surprise = measure_surprise(increment, claimed, left.surprise)
        largest = left._replace(increment=max(left.increment, increment), surprise=surprise)
        changed = update.current.increment > 0 and not update.unchanged
        if is_noise or not changed or self.model.rate == UNKNOWN:
            return largest
        change = 1.0 if update.first else self.model.change
        # Defects of an approximate F, such as a nested solve, show how F converges, too, not only how the slice does.
        rate = 0.0 if self.inexact else self.model.rate
        return largest._replace(rate=max(left.rate, rate), change=max(left.change, change))

    def _estimate_error(self, previous_state: State, defect: float, update: Update) -> float:
        """Return the estimated norm of the error of U(k, n+1); `defect` is that of `previous_state`, U(k-1, n+1)."""
        current, previous, embedded = update.current, update.previous, None
        if update.unchanged:
            # its increment may be that of the iteration in which it last changed
            current = current._replace(increment=0.0)
        if update.first:
            new, old = update.coarse.embedded_difference, update.previous_coarse.embedded_difference
            # `is`: the prediction is the very object that G returned, and so is C of the input if C is G
            if update.previous_correction is not None and previous_state is not update.previous_correction:
                # A guess (of the caller, or a warm start) replaced the prediction. Its distance from F says nothing
                # about F - C.
                defect = self.norm(subtract(update.fine.state, update.previous_correction))
            if new is not None and old is not None and self.trusts_pair:
                embedded = self.norm(old), self.norm(subtract(new, old))
            previous = previous._replace(increment=float("inf"))  # marks the first update for the error model
        bracket = 0.0 if update.bracket is None else self.norm(update.bracket)
        return self.model.update(current, previous, bracket, defect, embedded)
