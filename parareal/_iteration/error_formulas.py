"""Formulas and safety factors of the error estimates (docs/explained/estimates.md)."""

from parareal._iteration.messages import Largest

# The factors were set on recorded iterates: docs/explained/estimates.md names them.
PREDICTION_FACTOR = 2.0
"""safety factor of the embedded pair's estimate of the prediction"""
MIN_SLICES_FOR_PAIR = 5
"""number of slices below which an embedded pair is not trusted, for the prediction or the first correction"""
PAIR_FACTOR = 1.7
"""safety factor of the embedded pair in the first update"""
SILENT_FACTOR = 0.1
"""share of the largest rate so far that a slice has at least if the pair's results agree there"""
SCALE_FACTOR = 6.0
"""safety factor of the first update's other estimate, which assumes that F - C and its argument have the same relative
change"""
EXTRAPOLATION_FACTOR = 2.0
"""safety factor for the error extrapolated from the decay of the increments"""
CONFLICT_FACTOR = 1e-3
"""ratio of two estimates of one error below which they contradict each other"""
MEMORY_FACTOR = 0.3
"""share of the last but one measurement that the gain and the rate of a slice never fall below"""
LEAST_RATE = 0.1
"""ratio of the errors of an iterate and of the one before that no estimate falls below"""
LEAST_FIRST_RATE = 0.05
"""the same for the first correction, whose increment is the error of G"""
LARGE_RATE = 0.8
"""rate of a slice above which estimates are raised: the iteration hardly contracts there"""
LARGE_SURPRISE = 3.0
"""factor by which the surprise at an estimate fades from slice to slice"""
LARGE_CHANGE = 2.0
"""ratio of a slice's gains in two iterations above which estimates are raised: the problem is not linear there"""
NOISE = 10.0
"""multiple of machine epsilon, relative to a state, up to which a change of it may be rounding alone"""
LEAST_ESTIMATE = 2.0**-52
"""least relative estimate of a state that is not known to be exact: 0 means exact"""
UNKNOWN = float("inf")
"""estimate of an error, or factor, of which nothing is known"""


def extrapolate_error(increment: float, previous: float) -> float:
    """Return the relative error extrapolated from the decay of the increments (docs/explained/estimates.md, eq. 18b).

    Args:
        increment: the largest relative increment of an iteration, at a boundary or left of it.
        previous: the same of the iteration before; infinite where there is none.

    Returns:
        The remainder of the geometric series of increments, with a safety factor. Infinite where they do not shrink.
    """
    previous = min(previous, 1.0) if previous < UNKNOWN else previous  # above 1 nothing has begun to converge
    if not increment < previous < UNKNOWN:
        return UNKNOWN if increment > 0 else 0.0
    return EXTRAPOLATION_FACTOR * increment * increment / (previous - increment)


def combine_estimates(a: float, b: float) -> float:
    """Return the estimate that two upper estimates of the same error leave.

    The smaller one counts, unless they contradict each other. Then neither is trusted much beyond the larger.
    """
    return max(min(a, b), CONFLICT_FACTOR * max(a, b))


def measure_surprise(increment: float, claimed: float, left: float) -> float:
    """Return what the increment shows of the estimate of the iterate before.

    Args:
        increment: the relative increment of an output.
        claimed: the relative error that was estimated for the iterate before.
        left: the surprise of the boundary to the left, which fades from slice to slice.

    Returns:
        The ratio of the increment to the estimate, at least 1.
    """
    return max(1.0, increment / claimed if claimed > 0 else 1.0, left / LARGE_SURPRISE)


def raise_estimate(estimate: float, largest: Largest, least_rate: float = LEAST_RATE) -> float:
    """Return an estimate, raised where the measurements cast doubt on the model that it rests on (eq. 18c).

    Args:
        estimate: the relative error of an output by the model.
        largest: the largest measurements up to the output.
        least_rate: `LEAST_RATE`, or `LEAST_FIRST_RATE` for the first correction.
    """
    doubt = max(1.0, largest.rate / LARGE_RATE) * max(1.0, largest.change / LARGE_CHANGE)
    return max(multiply(largest.surprise * doubt * doubt, estimate), least_rate * largest.increment)


def multiply(factor: float, norm: float) -> float:
    """Return the product; 0 where the norm is 0, even if the factor is unknown."""
    return factor * norm if norm > 0 else 0.0
