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

from parareal._iteration.messages import Sums, Value

# The safety factors were set on recorded iterates: docs/explained/estimates.md names them.
PREDICTION_FACTOR = 2.0
"""safety factor of the embedded pair's estimate of the prediction"""
MIN_SLICES_FOR_PREDICTION = 4
"""number of slices below which no prediction is accepted on the estimate of its embedded pair"""
PAIR_FACTOR = 1.8
"""safety factor of the embedded pair in the first update"""
SCALE_FACTOR = 6.0
"""safety factor of the first update's other estimate, which assumes that F - C and its argument have the same relative
change"""
RATE_FACTOR = 1.0
"""safety factor of the measured rate"""
EXTRAPOLATION_FACTOR = 3.0
"""safety factor for the error extrapolated from the decay of the increments"""


def extrapolate_error(increment: float, previous: float) -> float:
    """Return the relative error extrapolated from the decay of the increments (docs/explained/estimates.md, eq. 18b).

    Args:
        increment: the largest relative increment of an iteration, at a boundary or left of it.
        previous: the same of the iteration before; infinite where there is none.

    Returns:
        The remainder of the geometric series of increments, with a safety factor. Infinite where they do not shrink.
    """
    if not increment < previous < float("inf"):
        return float("inf") if increment > 0 else 0.0
    return EXTRAPOLATION_FACTOR * increment * increment / (previous - increment)


@final
@dataclass
class ErrorModel:
    """Amplification of errors over one slice, measured as the slice is updated."""

    gain: float = 1.0
    """amplification by C, along the last increment"""
    rate: float = 0.0
    """amplification by F - C, along the increment before"""

    def update(
        self, current: Value, previous: Value, bracket: float, defect: float, embedded: tuple[float, float]
    ) -> float:
        """Measure gain and rate, and return the estimated norm of the error of U(k, n+1).

        Args:
            current, previous: U(k, n) and U(k-1, n), with their increments, sizes and errors; an infinite increment of
                `previous` means that U(k-1, n+1) is the prediction.
            bracket: norm of C(U(k, n)) - C(U(k-1, n)).
            defect: norm of F(k-1, n) - U(k-1, n+1), and of F(k-1, n) - C(U(k-1, n)) in the first update.
            embedded: norms of the embedded pair's difference in iteration k-1, and of the difference of these
                differences between iterations k and k-1; zeros where there is no pair.
        """
        # Without an increment there is nothing to measure: the last gain and rate stand. Only the first update sets the
        # rate even so.
        if current.increment > 0:
            self.gain = bracket / current.increment
        if previous.increment == float("inf"):
            # The first update has no history of increments, so eq. 19 takes the larger of two guesses.
            difference, change = embedded
            scale = SCALE_FACTOR * defect / previous.size if previous.size > 0 else float(defect > 0)
            has_pair = difference > 0 and current.increment > 0
            pair = PAIR_FACTOR * defect / difference * change / current.increment if has_pair else 0.0
            self.rate = max(scale, pair)
        elif previous.increment > 0 and current.increment > 0:
            self.rate = RATE_FACTOR * defect / previous.increment
        return self.gain * current.error + self.rate * current.increment

    def propagate_sums(self, left: Sums, defect: float) -> Sums:
        """Return the sums right of this slice, from those left of it and the defect of the iteration before."""
        return Sums(self.gain * left.aligned + defect, math.hypot(self.gain * left.orthogonal, defect))
