"""Boundaries of slices: their checks, and even divisions of an interval."""

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
    """Return the boundaries as a list of Python numbers, or of 0-d tensors if all of them are tensors.

    Args:
        boundaries: two or more finite, strictly monotone numbers; an iterator is read once.

    Raises:
        ValueError: for anything else.
    """
    try:
        times = list(boundaries)
        values = [t.item() if hasattr(t, "item") else t for t in times]
    except (TypeError, ValueError, RuntimeError):  # no iterable; or its elements are arrays with several numbers
        times, values = [], []
    if len(values) < 2 or not all(isinstance(t, int | float) for t in values):
        raise ValueError(
            f"boundaries must be a one-dimensional sequence of at least two numbers, but were {boundaries!r}"
        )
    rising, falling = (all(op(a, b) for a, b in pairwise(values)) for op in (lt, gt))
    if not (rising or falling):
        # the first pair sets the direction; `not (... > 0)` also finds NaN, which compares False
        at = next((i for i, (a, b) in enumerate(pairwise(values)) if not (b - a) * (values[1] - values[0]) > 0), 0)
        raise ValueError(
            "boundaries must rise or fall strictly: "
            f"boundary {at} is {values[at]}, boundary {at + 1} is {values[at + 1]}"
        )
    if not all(map(isfinite, values)):
        raise ValueError(f"boundaries must be finite, but were {boundaries!r}")
    # Tensors stay tensors, so that functions receive the dtype and device the caller chose. NumPy scalars become Python
    # numbers, whose type cannot promote the dtype of a state.
    return times if all(isinstance(t, torch.Tensor) for t in times) else values


def divide(start: Time, stop: Time, count: int, whole: bool) -> list[Time]:
    """Return the boundaries of `count` slices of equal length.

    Args:
        start: left end of the interval.
        stop: right end of the interval, above or below `start`.
        count: number of slices.
        whole: whether boundaries must be whole numbers; boundary i is then rounded, as round(i N / count) from node 0
            to node N.
    """
    if not whole:
        # both ends are returned as they are: `start + (stop - start)` may differ from `stop` by rounding
        return [start, *(start + (stop - start) * i / count for i in range(1, count)), stop]
    return [int(start) + round((int(stop) - int(start)) * i / count) for i in range(count + 1)]


def divide_grid(slices: int | str, levels: Any, steps: int) -> list[int]:
    """Return the nodes that bound the slices of a grid of `steps` steps; with nested `levels`, only its two ends.

    Args:
        slices: a number; `"sqrt"` for round(sqrt(steps)); `"steps"` for one slice per step; or `"auto"`, if nothing
            has been measured, for round(sqrt(3 steps)).
        levels: numbers of slices of nested levels, or None.
        steps: number of steps of the grid.

    Raises:
        ValueError: for another `slices`, for more slices than steps, or for both `slices` and `levels`.
    """
    if levels is not None:
        if slices != "auto":
            raise ValueError(f"levels={levels} sets the numbers of slices: leave slices={slices!r} out")
        return [0, steps]
    if isinstance(slices, str):
        one_of("slices", slices, ("auto", "sqrt", "steps"))
        # p iterations have the span pN/M + M - p, which is least at M = sqrt(pN) (docs/explained/theory.md, eq. 9);
        # often p is 2 or 3
        slices = {"steps": steps, "sqrt": round(steps**0.5), "auto": min(steps, round((3 * steps) ** 0.5))}[slices]
    count = whole_number("slices", slices, 1)
    if count > steps:
        raise ValueError(
            f"slices must be a whole number between 1 and the {steps} steps, or 'auto', 'sqrt' or 'steps', "
            f"but was {slices!r}"
        )
    return divide(0, steps, count, whole=True)
