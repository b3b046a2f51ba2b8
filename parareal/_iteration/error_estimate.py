"""Error estimates for the outputs of one slice (docs/explained/estimates.md, eq. 15 to 19)."""

from typing import NamedTuple, final

from parareal._iteration.error_model import PREDICTION_FACTOR, ErrorModel, extrapolate_error
from parareal._iteration.messages import Result, Sums, Value
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
    largest_increment: float
    """see `Value.largest_increment`"""
    sums: Sums
    """see `Value.sums`"""


@final
class ErrorEstimator:
    """Error estimates for one slice's outputs, from an error model that is measured at every update."""

    def __init__(self, norm: str, dimensions: int):
        self.norm, self.dimensions = NORMS[norm], dimensions
        self.model = ErrorModel()

    @property
    def rate(self) -> float:
        """The rate at which the slice contracts; 0 before the first update."""
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
        """Return the error norm of a prediction with this summed embedded difference; infinite if that is None."""
        return float("inf") if difference is None else PREDICTION_FACTOR * self.norm(difference)

    def estimate_update(
        self, exact: bool, size: float, increment: float, defect: float, previous_output: Value, update: Update
    ) -> OutputErrors:
        """Return the estimates of U(k, n+1).

        Args:
            exact: whether it is exact.
            size: its norm.
            increment: norm of U(k, n+1) - U(k-1, n+1).
            defect: norm of F(k-1, n) - U(k-1, n+1).
            previous_output: U(k-1, n+1).
            update: the parts that it is the sum of.
        """
        error, inner = self._estimate_error(previous_output.state, defect, update), update.fine.estimate * size
        # An input that did not change passes nothing on: its increments belong to an earlier iteration.
        upstream, sums = (0.0, Sums()) if update.unchanged else (update.current.largest_increment, update.current.sums)
        size = size or 1.0  # a zero state has no relative errors, so its norms count as absolute ones
        sum_of_norms = 0.0 if exact else error + inner
        largest, sums = max(upstream, increment / size), self.model.propagate_sums(sums, defect)
        share = sums.compute_share(increment, self.dimensions) if update.first else 1.0
        # Both are upper estimates of the same error, so the smaller one counts. The extrapolated one sees the outer
        # iteration only, so the error of an inner solve is added to it.
        extrapolation = extrapolate_error(largest, previous_output.largest_increment) * size + inner
        return OutputErrors(min(share * sum_of_norms, extrapolation), sum_of_norms, largest, sums)

    def _estimate_error(self, previous_state: State, defect: float, update: Update) -> float:
        """Return the estimated norm of the error of U(k, n+1); `defect` is that of `previous_state`, U(k-1, n+1)."""
        current, previous, embedded = update.current, update.previous, (0.0, 0.0)
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
            if new is not None and old is not None:
                embedded = self.norm(old), self.norm(subtract(new, old))
            previous = previous._replace(increment=float("inf"))  # marks the first update for the error model
        bracket = 0.0 if update.bracket is None else self.norm(update.bracket)
        return self.model.update(current, previous, bracket, defect, embedded)
