"""Where slices begin and end."""

from collections.abc import Iterable
from itertools import pairwise
from math import isfinite
from operator import gt, lt
from typing import Any, TypeAlias

import torch

from parareal._checks import one_of, whole_number
from parareal._state import Time

Boundaries: TypeAlias = Iterable[Time]
"""strictly monotone times: any sequence of numbers, an array or a tensor; integer nodes for `Steps`"""


def check_boundaries(boundaries: Boundaries) -> list[Time]:
    """Return the boundaries as a list of Python numbers, or of the 0-d tensors they were given as."""
    try:
        given = list(boundaries)
        values = [t.item() if hasattr(t, "item") else t for t in given]
    except (TypeError, ValueError, RuntimeError):
        given, values = [], []
    if len(values) < 2 or not all(isinstance(t, int | float) for t in values):
        raise ValueError(f"boundaries must be a one-dimensional sequence of at least two numbers, got {boundaries!r}")
    rising, falling = (all(op(a, b) for a, b in pairwise(values)) for op in (lt, gt))
    if not (rising or falling):
        at = next((i for i, (a, b) in enumerate(pairwise(values)) if not (b - a) * (values[1] - values[0]) > 0), 0)
        raise ValueError(
            "boundaries must rise or fall strictly: "
            f"boundary {at} is {values[at]}, boundary {at + 1} is {values[at + 1]}"
        )
    if not all(map(isfinite, values)):
        raise ValueError(f"boundaries must be finite, got {boundaries!r}")
    return given if all(isinstance(t, torch.Tensor) for t in given) else values


def divide(start: Time, stop: Time, count: int, whole: bool) -> list[Time]:
    """Divide an interval evenly; where boundaries must be `whole` numbers, round to them: round(i N / count)."""
    if not whole:
        return [start, *(start + (stop - start) * i / count for i in range(1, count)), stop]
    return [int(start) + round((int(stop) - int(start)) * i / count) for i in range(count + 1)]


def divide_grid(slices: int | str, levels: Any, steps: int) -> list[int]:
    """Return the nodes that bound the slices of a grid of `steps` steps; with nested `levels`, its two ends.

    Args:
        slices: a number; `"sqrt"` for round(sqrt(steps)); `"steps"` for one slice per step; or `"auto"` where nothing
            has been measured, for round(sqrt(3 steps)).
        levels: numbers of slices of nested levels, or None.
        steps: steps of the grid.
    """
    if levels is not None:
        if slices != "auto":
            raise ValueError(f"levels={levels} already says how many slices there are: leave slices={slices!r} out")
        return [0, steps]
    if isinstance(slices, str):
        one_of("slices", slices, ("auto", "sqrt", "steps"))
        # p iterations have span pN/M + M - p, least at M = sqrt(pN) (docs/explained/theory.md, eq. 9); p is often 2 to 3
        slices = {"steps": steps, "sqrt": round(steps**0.5), "auto": min(steps, round((3 * steps) ** 0.5))}[slices]
    count = whole_number("slices", slices, 1)
    if count > steps:
        raise ValueError(f"slices must be a whole number between 1 and the {steps} steps, or 'auto', got {slices!r}")
    return divide(0, steps, count, whole=True)
