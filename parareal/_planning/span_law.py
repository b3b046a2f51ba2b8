"""The span law as a predictor: a solve's cost in closed form, and the numbers of slices around the least span."""

from collections.abc import Callable, Sequence

from parareal._planning.candidates import Candidate

AROUND = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
"""numbers of slices to simulate, as multiples of the one with the least span"""
ABOVE = (1.0, 1.5, 2.0)
"""numbers of slices to estimate: from the least span on, because narrower calls are cheaper"""

TickTime = Callable[[int, int], float]
"""seconds of a tick by its rows and the number of slices of the solve"""


def slices_around_least_span(steps: int, iterations: int, factors: Sequence[float], most: int) -> list[int]:
    """Return numbers of slices around sqrt(p N), which has the least span (docs/explained/theory.md, eq. 9).

    Args:
        steps: fine steps N.
        iterations: p.
        factors: multiples of it.
        most: the largest number to return.
    """
    middle = (max(iterations, 1) * steps) ** 0.5
    return sorted({count for factor in factors if 1 < (count := round(factor * middle)) <= most})


def estimate(steps: int, slices: int, iterations: int, tick_time: TickTime) -> Candidate:
    """Predict a pipelined solve by the span law: p N / M + M - p ticks, each of work / span rows.

    It takes no simulation: milliseconds at thousands of steps, and rougher than `simulate`.

    Args:
        steps: fine steps N.
        slices: M.
        iterations: p.
        tick_time: seconds of a tick by its rows and the number of slices; asked once.
    """
    span = iterations * steps / slices + slices - iterations
    work = iterations * steps
    rows = max(1, round(work / span))
    return Candidate(
        slices=slices,
        iterations=iterations,
        span=span,
        work=work,
        calls=span,
        wall_time=span * tick_time(rows, slices),
    )
