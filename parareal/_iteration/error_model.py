"""Error model of one slice, from numbers that the iteration makes anyway (docs/explained/estimates.md).

To first order the error e(k, n) = U(k, n) - u(n) of an iterate obeys

    e(k, n+1) = G' e(k, n) + (F' - G') e(k-1, n),   and e(k-1, n) is about -(U(k, n) - U(k-1, n)),

the increment, where iteration k gained on iteration k-1. G' is known along the increments: the gain
|G(k, n) - G(k-1, n)| / |increment|. F' - G' is known along those of the iteration before, where the defect
F(k-1, n) - U(k-1, n+1) is (F' - G') times the increment of iteration k-1: the rate at which a slice contracts.

Sums of norms do not know what cancels. In the first correction `Sums` knows from the increments how much does; from the
second on, `contracted` takes the decay of increments from one iteration to the next for what is still to come.
"""

import math
from dataclasses import dataclass
from typing import final

from parareal._iteration.messages import Sums, Value

PREDICTION = 2.0
"""safety factor of the embedded pair's estimate of the prediction; all are set on recorded iterates (docs/explained/estimates.md)"""
FEW = 4
"""slices below which a prediction is not accepted by its embedded pair"""
PAIR = 1.8
"""safety factor of the embedded pair in the first update"""
SCALE = 6.0
"""safety factor of the first update's other estimate: F - C changes relatively as its argument does"""
RATE = 1.0
"""safety factor of the measured rate"""
CONTRACTED = 3.0
"""safety factor for the error extrapolated from the decay of the increments"""


def contracted(moved: float, before: float) -> float:
    """Return the relative error extrapolated from the decay of the increments (docs/explained/estimates.md, eq. 18b).

    `moved` is the largest on the way to a boundary, `before` that of the iteration before. Infinite where there are no
    two, as in the first iteration, or where they do not shrink.
    """
    if not moved < before < float("inf"):
        return float("inf") if moved > 0 else 0.0
    return CONTRACTED * moved * moved / (before - moved)


@final
@dataclass
class ErrorModel:
    """Amplification of errors over one slice, measured as the slice is updated."""

    gain: float = 1.0
    """amplification by C, along the last increment"""
    rate: float = 0.0
    """amplification by F - C, along the increment before"""

    def update(self, now: Value, then: Value, change: float, defect: float, embedded: tuple[float, float]) -> float:
        """Return the estimated norm of the error of U(k, n+1).

        Args:
            now, then: U(k, n) and U(k-1, n), with their increments, sizes and errors; an increment of `then` that is
                infinite says that U(k-1, n+1) is the prediction.
            change: norm of C(U(k, n)) - C(U(k-1, n)).
            defect: norm of F(k-1, n) - U(k-1, n+1), and of F(k-1, n) - C(U(k-1, n)) in the first update.
            embedded: norms of the embedded pair's difference in iteration k-1, and of its change in iteration k; zeros
                where there is no pair.
        """
        if now.increment > 0:
            self.gain = change / now.increment
        if then.increment == float("inf"):
            before, moved = embedded
            scale = SCALE * defect / then.size if then.size > 0 else float(defect > 0)
            pair = PAIR * defect / before * moved / now.increment if before > 0 and now.increment > 0 else 0.0
            self.rate = max(scale, pair)
        elif then.increment > 0 and now.increment > 0:
            self.rate = RATE * defect / then.increment
        return self.gain * now.error + self.rate * now.increment

    def add(self, left: Sums, defect: float) -> Sums:
        """Return the sums right of this slice, from those left of it, and the defect of the iteration before."""
        return Sums(self.gain * left.aligned + defect, math.hypot(self.gain * left.crossed, defect))
