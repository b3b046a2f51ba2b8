"""Error estimates for the outputs of one slice (docs/explained/estimates.md, eq. 15 to 19)."""

from typing import NamedTuple, final

from parareal._iteration.error_model import PREDICTION, ErrorModel, contracted
from parareal._iteration.messages import Result, Sums, Value
from parareal._state import NORMS, State, add, subtract


class Update(NamedTuple):
    """The parts of U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) )."""

    now: Value
    """U(k, n)"""
    then: Value
    """U(k-1, n)"""
    fine: Result
    """F(k-1, n)"""
    coarse: Result
    """G(k, n)"""
    before: Result
    """G(k-1, n)"""
    base: State
    """C(U(k-1, n)), in the first update of a slice and where it is known, else None"""
    change: State
    """the bracket; None where it is zero or was skipped"""
    unchanged: bool
    """U(k, n) and U(k-1, n) agree bitwise"""
    first: bool
    """this is the slice's first update: it corrects the prediction, or the guess"""


class Errors(NamedTuple):
    """Estimates of one output U(k, n+1)."""

    likely: float
    """norm of its error"""
    carried: float
    """norm of its error, without what cancels: what the next slice starts from"""
    moved: float
    """see `Value.moved`"""
    sums: Sums
    """see `Value.sums`"""


@final
class ErrorEstimate:
    """Estimates the errors of one slice's outputs, and learns what the slice does to errors as it is corrected."""

    def __init__(self, norm: str, dimensions: int):
        self.norm, self.dimensions = NORMS[norm], dimensions
        self.model = ErrorModel()

    @property
    def rate(self) -> float:
        """The rate at which the slice contracts; 0 before the first update."""
        return self.model.rate

    def embedded(self, left: Value, coarse: Result) -> State:
        """Return the estimated error of a prediction: the embedded pairs' differences, summed over slices."""
        if coarse.embedded_difference is None or not (left.exact or left.embedded_difference is not None):
            return None
        if left.embedded_difference is None:
            return coarse.embedded_difference
        return add(left.embedded_difference, coarse.embedded_difference)

    def of_prediction(self, difference: State) -> float:
        """Return the error norm of a prediction, from what `embedded` returned; infinite where there is no pair."""
        return float("inf") if difference is None else PREDICTION * self.norm(difference)

    def of_update(
        self, exact: bool, size: float, increment: float, defect: float, before: Value, update: Update
    ) -> Errors:
        """Return the estimates of U(k, n+1).

        Args:
            exact: whether it is exact.
            size: its norm.
            increment: norm of U(k, n+1) - U(k-1, n+1).
            defect: norm of F(k-1, n) - U(k-1, n+1).
            before: U(k-1, n+1).
            update: what it was made of.
        """
        error, inner = self._error(before.state, defect, update), update.fine.estimate * size
        upstream, sums = (0.0, Sums()) if update.unchanged else (update.now.moved, update.now.sums)
        size = size or 1.0
        carried = 0.0 if exact else error + inner
        moved, sums = max(upstream, increment / size), self.model.add(sums, defect)
        share = sums.share(increment, self.dimensions) if update.first else 1.0
        likely = min(share * carried, contracted(moved, before.moved) * size + inner)
        return Errors(likely, carried, moved, sums)

    def _error(self, last: State, defect: float, update: Update) -> float:
        """Return the estimated norm of the error of U(k, n+1); `defect` is that of `last`, U(k-1, n+1)."""
        now, then, embedded = update.now, update.then, (0.0, 0.0)
        if update.unchanged:
            now = now._replace(increment=0.0)
        if update.first:
            new, old = update.coarse.embedded_difference, update.before.embedded_difference
            if update.base is not None and last is not update.base:  # the caller's guess replaced the prediction
                defect = self.norm(subtract(update.fine.state, update.base))
            if new is not None and old is not None:
                embedded = self.norm(old), self.norm(subtract(new, old))
            then = then._replace(increment=float("inf"))
        moved = 0.0 if update.change is None else self.norm(update.change)
        return self.model.update(now, then, moved, defect, embedded)
