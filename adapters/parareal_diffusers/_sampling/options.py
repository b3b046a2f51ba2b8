"""Options of `sample` and `parallelize`, resolved: when to stop, batch sizes, and boundaries."""

from collections.abc import Sequence

import parareal
from parareal.driver import divide_grid, whole_number


def criterion_of(
    criterion: parareal.AbstractCriterion | None, tolerance: float, steps: int
) -> parareal.AbstractCriterion:
    """Return the criterion, by default that for a tolerance; a tolerance of 0 runs all the steps to the end."""
    if criterion is not None:
        return criterion
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be positive, or 0 to run to the end, got {tolerance}")
    return parareal.Tolerance(tolerance) if tolerance else parareal.Iterations(steps)


def sizes_of(pad_batch: bool | Sequence[int], max_batch: int | None) -> list[int]:
    """Return the batch sizes that calls are filled up to, rising; none for no filling."""
    if pad_batch is False:
        return []
    if pad_batch is True:
        if max_batch is None:
            raise ValueError("pad_batch=True fills every call up to max_batch rows: give max_batch, or the sizes")
        return [whole_number("max_batch", max_batch, 1)]
    if not isinstance(pad_batch, Sequence) or isinstance(pad_batch, str) or not pad_batch:
        raise TypeError(f"pad_batch must be True, False or batch sizes as in (1, 8, 32), got {pad_batch!r}")
    sizes = sorted(whole_number("pad_batch: a batch size", size, 1) for size in pad_batch)
    if max_batch is not None and max_batch != max(sizes):
        raise ValueError(f"max_batch={max_batch} is not the largest of pad_batch={tuple(sizes)}: leave it out")
    return sizes


def boundaries_of(
    boundaries: Sequence[int] | None, slices: int | str, levels: Sequence[int] | None, bases: Sequence[int]
) -> list[int]:
    """Return the nodes that bound the slices, or the ends for levels.

    Where steps come in cycles, slices begin with a cycle if there are enough: `bases` says where each step's began.
    """
    steps = len(bases)
    if boundaries is not None:
        if slices != "auto":
            raise ValueError(f"boundaries already say how many slices there are: leave slices={slices!r} out")
        given = [whole_number("boundaries: a node", n, 0) for n in boundaries]
        if len(given) < 2 or given[0] != 0 or given[-1] != steps:
            raise ValueError(f"boundaries must begin with node 0 and end with node {steps}, got {list(boundaries)}")
        return given
    edges = divide_grid(slices, levels, steps)
    starts = [*(i for i, base in enumerate(bases) if i == base), steps]
    aligned = sorted({min(starts, key=lambda start: abs(start - edge)) for edge in edges})
    return aligned if len(aligned) == len(edges) else edges
