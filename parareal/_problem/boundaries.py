"""Where slices begin and end."""

from typing import Any

from parareal._checks import one_of, whole_number


def edges(start: Any, stop: Any, count: int, whole: bool) -> list[Any]:
    """Divide an interval evenly; where only `whole` numbers are boundaries, round to them: round(i N / count)."""
    if not whole:
        return [start, *(start + (stop - start) * i / count for i in range(1, count)), stop]
    return [int(start) + round((int(stop) - int(start)) * i / count) for i in range(count + 1)]


def nodes(slices: int | str, levels: Any, steps: int) -> list[int]:
    """Return the nodes that bound the slices of a grid of so many steps, or, for nested levels, its two ends.

    `slices` is a number, `"sqrt"` for the rounded root of the steps, `"auto"` for that of three times as many, or
    `"steps"` for a slice a step.
    """
    if levels is not None:
        if slices != "auto":
            raise ValueError(f"levels={levels} already says how many slices there are: leave slices={slices!r} out")
        return [0, steps]
    if isinstance(slices, str):
        one_of("slices", slices, ("auto", "sqrt", "steps"))
        # p iterations have span pN/M + M - p, least at M = sqrt(pN) (docs/theory.md, eq. 9); p is often 2 to 3
        slices = {"steps": steps, "sqrt": round(steps**0.5), "auto": min(steps, round((3 * steps) ** 0.5))}[slices]
    count = whole_number("slices", slices, 1)
    if count > steps:
        raise ValueError(f"slices must be a whole number between 1 and the {steps} steps, or 'auto', got {slices!r}")
    return edges(0, steps, count, whole=True)
