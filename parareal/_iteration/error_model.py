"""Error model of one slice, from numbers that the iteration computes anyway (docs/explained/estimates.md).

To first order the error e(k, n) = U(k, n) - u(n) of an iterate obeys

    e(k, n+1) = G' e(k, n) + (F' - G') e(k-1, n),   and e(k-1, n) is about -(U(k, n) - U(k-1, n)),

minus the increment, if iteration k is much more accurate than iteration k-1. The effect of G' is measured on the
increments of iteration k: the gain |G(k, n) - G(k-1, n)| / |increment|. The effect of F' - G' is measured on the
increments of iteration k-1, because the defect F(k-1, n) - U(k-1, n+1) is (F' - G') times them: the rate at which a
slice contracts.

Sums of norms overlook cancellation. In the first correction `Sums` measures on the increments how much cancels. From
the second correction on, `extrapolate_error` uses the decay of increments from one iteration to the next.
"""

import math
from dataclasses import dataclass
from typing import final

from parareal._iteration.error_formulas import (
    MEMORY_FACTOR,
    PAIR_FACTOR,
    SCALE_FACTOR,
    SILENT_FACTOR,
    UNKNOWN,
    multiply,
)
from parareal._iteration.messages import Sums, Value


@final
@dataclass
class ErrorModel:
    """Amplification of errors over one slice, measured as the slice is updated."""

    requires_pair: bool = True
    """without an embedded pair, nothing is known before the second update"""
    gain: float = UNKNOWN
    """amplification by C, along the last increment; unknown before the input has changed"""
    rate: float = UNKNOWN
    """amplification by F - C, along the increment before the last; unknown before it has been measured"""
    change: float = 1.0
    """ratio of the last two measured gains, of the larger to the smaller"""
    _last_gain: float = 0.0
    _last_rate: float = 0.0

    def update(
        self, current: Value, previous: Value, bracket: float, defect: float, embedded: tuple[float, float] | None
    ) -> float:
        """Measure gain and rate, and return the estimated norm of the error of U(k, n+1).

        Args:
            current, previous: U(k, n) and U(k-1, n), with their increments, sizes and errors; an infinite increment of
                `previous` means that U(k-1, n+1) is the prediction.
            bracket: norm of C(U(k, n)) - C(U(k-1, n)).
            defect: norm of F(k-1, n) - U(k-1, n+1), and of F(k-1, n) - C(U(k-1, n)) in the first update.
            embedded: norms of the embedded pair's difference in iteration k-1, and of the difference of these
                differences between iterations k and k-1; None where there is no pair.

        Returns:
            The estimate; infinite where the input changed and nothing tells what F makes of the change.
        """
        # Without an increment there is nothing to measure, and the last values stand. An earlier measurement counts,
        # too, because one increment may happen to lie in a direction that C or F - C does not amplify.
        if current.increment > 0:
            gain, last = bracket / current.increment, self._last_gain
            self.change = max(gain, last) / min(gain, last) if gain > 0 and last > 0 else 1.0
            self.gain, self._last_gain = max(gain, MEMORY_FACTOR * last), gain
        if previous.increment == UNKNOWN:
            self.rate = self._guess_rate(current, previous, defect, embedded)
        elif previous.increment > 0:
            rate = defect / previous.increment
            self.rate, self._last_rate = max(rate, MEMORY_FACTOR * self._last_rate), rate
        return multiply(self.gain, current.error) + multiply(self.rate, current.increment)

    def _guess_rate(
        self, current: Value, previous: Value, defect: float, embedded: tuple[float, float] | None
    ) -> float:
        """Return the rate of the first update, which has no history of increments (eq. 19): the larger of two guesses.

        Unknown without an embedded pair, because F - C has been seen on one state only.
        """
        if not (current.increment > 0 and previous.size > 0):
            return UNKNOWN
        scale = SCALE_FACTOR * defect / previous.size
        without_pair = UNKNOWN if self.requires_pair else scale
        if embedded is None:
            return without_pair
        difference, change = embedded
        if difference > 0:
            return max(scale, PAIR_FACTOR * defect / difference * change / current.increment)
        # The two results agree in this slice, as those of most multistep methods do in their last step. Slices further
        # left have to show what the pair is worth.
        return max(scale, SILENT_FACTOR * current.largest.rate) if current.largest.rate > 0 else without_pair

    def amplify(self, error: float) -> float:
        """Return the error that F makes of an error of its input; as large as that where nothing has been measured."""
        return (self.gain if self.gain < UNKNOWN else 1.0) * error

    def propagate_sums(self, left: Sums, defect: float) -> Sums:
        """Return the sums right of this slice, from those left of it and the defect of the iteration before."""
        aligned, orthogonal = multiply(self.gain, left.aligned), multiply(self.gain, left.orthogonal)
        return Sums(aligned + defect, math.hypot(orthogonal, defect))
