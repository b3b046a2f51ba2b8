"""What an output of one slice is estimated to be wrong by, from what it was made of (docs/theory.md, eq. 15 to 19)."""

from typing import NamedTuple, final

from parareal._iteration.error_model import SKETCH, ErrorModel, contracted
from parareal._iteration.messages import Result, Sums, Value
from parareal._state import NORMS, State, add, subtract


class Correction(NamedTuple):
    """What U(k, n+1) = F(k-1, n) + ( G(k, n) - G(k-1, n) ) was made of."""

    now: Value
    """U(k, n)"""
    then: Value
    """U(k-1, n)"""
    fine: Result
    coarse: Result
    """G(k, n)"""
    before: Result
    """G(k-1, n)"""
    change: State
    """the bracket; None where it was skipped, for U(k, n) and U(k-1, n) agree bit by bit"""
    first: bool
    """whether it corrects what the slice began with"""

    @property
    def unchanged(self) -> bool:
        """Whether U(k, n) and U(k-1, n) agree bit by bit."""
        return self.change is None


@final
class Pricing:
    """Estimates the errors of one slice's outputs, and learns what the slice does to errors as it is corrected."""

    def __init__(self, norm: str, dimensions: int):
        self.norm, self.dimensions = NORMS[norm], dimensions
        self.errors = ErrorModel()

    @property
    def rate(self) -> float:
        """The rate at which the slice contracts; 0 before the first correction."""
        return self.errors.rate

    def drift(self, left: Value, coarse: Result) -> State:
        """Return by how much a sketch is estimated to miss the solution: the sum of the embedded pairs' gaps."""
        if coarse.gap is None or not (left.exact or left.drift is not None):
            return None
        return coarse.gap if left.drift is None else add(left.drift, coarse.gap)

    def sketch(self, value: Value) -> float:
        """Return the estimated norm of the error of a sketch; infinite where there is no embedded pair."""
        return float("inf") if value.drift is None else SKETCH * self.norm(value.drift)

    def corrected(self, value: Value, before: Value, defect: float, made: Correction) -> tuple[Value, float]:
        """Return an output with what the next slice needs of its price, and the estimated norm of its own error.

        Args:
            value: U(k, n+1), its increment known.
            before: U(k-1, n+1).
            defect: norm of F(k-1, n) - U(k-1, n+1).
            made: what `value` was made of.
        """
        error, inner = self._error(before.state, defect, made), made.fine.estimate * value.size
        upstream, sums = (0.0, Sums()) if made.unchanged else (made.now.moved, made.now.sums)
        size = value.size or 1.0
        value = value._replace(
            error=0.0 if value.exact else error + inner,
            moved=max(upstream, value.increment / size),
            sums=self.errors.add(sums, defect),
        )
        share = value.sums.share(value.increment, self.dimensions) if made.first else 1.0
        return value, min(share * value.error, contracted(value.moved, before.moved) * size + inner)

    def _error(self, last: State, defect: float, made: Correction) -> float:
        """Return the estimated norm of the error of U(k, n+1); `defect` is that of `last`, U(k-1, n+1)."""
        now, then, gaps = made.now, made.then, (0.0, 0.0)
        if made.unchanged:
            now = now._replace(increment=0.0)
        if made.first:
            new, old = made.coarse, made.before
            if last is not old.state:  # but a guess in the sketch's place
                defect = self.norm(subtract(made.fine.state, old.state))
            if new.gap is not None and old.gap is not None:
                gaps = self.norm(old.gap), self.norm(subtract(new.gap, old.gap))
            then = then._replace(increment=float("inf"))
        moved = 0.0 if made.change is None else self.norm(made.change)
        return self.errors.corrected(now, then, moved, defect, gaps)
