"""The span law as a predictor: the cost of a solve in closed form, and numbers of slices around the least span."""

from collections.abc import Callable, Sequence

from parareal._planning.candidates import Candidate

FACTORS_TO_SIMULATE = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""numbers of slices that `plan` simulates, as multiples of the number with the least span"""
FACTORS_TO_ESTIMATE = (1.0, 1.5, 2.0)
"""numbers of slices whose cost is estimated, as the same multiples; none below 1, because more slices mean calls with
fewer rows, which are cheaper"""

TickTime = Callable[[int, int], float]
"""function of the rows of a tick and the number of slices of the solve that returns the seconds of the tick"""


def slices_around_least_span(steps: int, iterations: int, factors: Sequence[float], max_slices: int) -> list[int]:
    """Return numbers of slices around sqrt(p N), which has the least span (docs/explained/theory.md, eq. 9).

    Args:
        steps: fine steps N.
        iterations: number of iterations p.
        factors: multiples of sqrt(p N) to return, rounded.
        max_slices: the largest number to return; numbers below 2 are left out, too.
    """
    middle = (max(iterations, 1) * steps) ** 0.5
    # a set, because rounding may give equal numbers; one slice is the sequential solve, which is predicted separately
    return sorted({count for factor in factors if 1 < (count := round(factor * middle)) <= max_slices})


def estimate(steps: int, slices: int, iterations: int, tick_time: TickTime) -> Candidate:
    """Predict the cost of a pipelined solve by the span law: p N / M + M - p ticks of work / span rows each.

    This takes no simulation, only milliseconds at thousands of steps, and is less exact than `simulate`.

    Args:
        steps: fine steps N.
        slices: number of slices M.
        iterations: number of iterations p.
        tick_time: returns the seconds of a tick by its rows and the number of slices; called once.
    """
    span = iterations * steps / slices + slices - iterations
    work = iterations * steps
    rows = max(1, round(work / span))  # the mean; a call has at least one row
    return Candidate(
        slices=slices,
        iterations=iterations,
        span=span,
        work=work,
        calls=span,
        wall_time=span * tick_time(rows, slices),
    )
