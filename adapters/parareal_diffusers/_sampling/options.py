"""Options of `sample` and `parallelize`, resolved to what the engine takes: criterion, batch sizes and boundaries."""

from collections.abc import Sequence

import parareal
from parareal.driver import divide_grid, real_number, whole_number


def resolve_criterion(
    criterion: parareal.AbstractCriterion | None, tolerance: float, steps: int
) -> parareal.AbstractCriterion:
    """Return `criterion`, or for None the criterion for a tolerance; a tolerance of 0 runs all `steps` to the end.

    Raises:
        TypeError, ValueError: for a tolerance that is not a fraction of 0 or more, also where `criterion` replaces it.
    """
    remedy = "pass a fraction, such as 0.01 for 1 % error, or 0 to run to the end"
    tolerance = real_number("tolerance", tolerance, remedy, least=0, below=1)
    if criterion is not None:
        return criterion
    return parareal.Tolerance(tolerance) if tolerance else parareal.Iterations(steps)


def check_plan_tolerance(name: str, tolerance: float) -> float:
    """Return the tolerance of a plan as a float, or raise `TypeError` or `ValueError` unless it is a fraction above 0.

    Args:
        name: the argument's name, for the message.
        tolerance: the argument's value.
    """
    remedy = "pass a fraction, such as 0.01 for 1 % error; a run to the end is never faster on one device"
    return real_number(name, tolerance, remedy, above=0, below=1)


def resolve_batch_sizes(pad_batch: bool | Sequence[int], max_batch: int | None) -> list[int]:
    """Return the batch sizes that calls are filled up to, rising; an empty list if calls are not filled."""
    if pad_batch is False:
        return []
    if pad_batch is True:
        if max_batch is None:
            raise ValueError(
                "pad_batch=True fills every call up to max_batch rows, but max_batch is None: give max_batch, or the "
                "sizes as pad_batch"
            )
        return [whole_number("max_batch", max_batch, 1)]
    if not isinstance(pad_batch, Sequence) or isinstance(pad_batch, str) or not pad_batch:
        raise TypeError(f"pad_batch must be True, False or batch sizes as in (1, 8, 32), but was {pad_batch!r}")
    sizes = sorted(whole_number("pad_batch: a batch size", size, 1) for size in pad_batch)
    if max_batch is not None and max_batch != max(sizes):
        raise ValueError(f"max_batch={max_batch} is not the largest of pad_batch={tuple(sizes)}: leave it out")
    return sizes


def resolve_boundaries(
    boundaries: Sequence[int] | None, slices: int | str, levels: Sequence[int] | None, base_nodes: Sequence[int]
) -> list[int]:
    """Return the nodes that bound the slices; for levels, those of the outermost level.

    Args:
        boundaries: the user's nodes, or None.
        slices: the number of slices or its name, as of `sample`.
        levels: numbers of slices of nested levels, or None.
        base_nodes: for each step the node whose state it starts from. Where several steps form a cycle (the two
            evaluations of a Heun step) that is the cycle's first node, and slices begin with a cycle if there are
            enough cycles.
    """
    steps = len(base_nodes)
    if boundaries is not None:
        if slices != "auto":
            raise ValueError(f"boundaries already determine the number of slices: leave slices={slices!r} out")
        nodes = [whole_number("boundaries: a node", n, 0) for n in boundaries]
        if len(nodes) < 2 or nodes[0] != 0 or nodes[-1] != steps:
            raise ValueError(
                f"boundaries must begin with node 0 and end with node {steps}, but were {list(boundaries)}"
            )
        return nodes
    edges = divide_grid(slices, levels, steps)
    # At a boundary within a cycle, the cycle's first state and predictions would cross the boundary and would have to
    # be corrected. So each boundary moves to the nearest start of a cycle; if two would coincide, none moves.
    cycle_starts = [*(i for i, base in enumerate(base_nodes) if i == base), steps]
    aligned = sorted({min(cycle_starts, key=lambda start: abs(start - edge)) for edge in edges})
    return aligned if len(aligned) == len(edges) else edges
