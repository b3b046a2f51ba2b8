"""Nested levels: fine propagators that are Parareal solves over slices within a slice.

This file holds the settings of levels and questions about them; `_execution/levels.py` runs them.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from parareal._checks import optional_whole_number, whole_number
from parareal._corrections.correction import AbstractCorrection
from parareal._corrections.elementary import check_correction
from parareal._criteria import AbstractCriterion
from parareal._problem.boundaries import divide
from parareal._problem.propagators import Nested, Propagator, Steps, check_propagator, takes_iteration
from parareal._state import Time


@dataclass(frozen=True)
class Level(Nested):
    """The settings of one nested level. The public class `Parareal` adds the methods that solve.

    The engine needs the settings only; keeping them here lets `_execution` use them without importing `_api`.
    """

    fine: Propagator
    coarse: Propagator | None
    slices: int
    _: KW_ONLY
    criterion: AbstractCriterion | None = None
    inner_iterations: int | None = 1
    correction: AbstractCorrection | None = None

    def __post_init__(self) -> None:
        whole_number("slices", self.slices, 1)
        optional_whole_number("inner_iterations", self.inner_iterations, 1)
        if self.criterion is not None and not isinstance(self.criterion, AbstractCriterion):
            raise TypeError(
                "criterion must be Increment(), Defect(), Tolerance(), Iterations(), LastChange(), an "
                f"AbstractCriterion of your own, or None, not {type(self.criterion).__name__}"
            )
        if self.criterion is not None and self.criterion.last_iteration == 0:
            raise ValueError(
                "criterion: an inner solve without an iteration never runs fine; use Iterations(1) or more"
            )
        if self.correction is not None:  # None follows the outer level, which is not known yet; `check_levels` tests it
            check_correction(self.correction, self.coarse)

    def edges(self, start: Time, stop: Time) -> list[Time]:
        """Return the boundaries of this level's slices within an interval."""
        nodes = needs_nodes(self)
        # boundaries at nodes are whole numbers, so each slice holds at least one step
        return divide(start, stop, min(self.slices, abs(int(stop) - int(start))) if nodes else self.slices, nodes)


def nest(
    fine: Propagator, coarse: Propagator | None, levels: Sequence[int], correction: AbstractCorrection | None = None
) -> Propagator:
    """Return the fine propagator of the outermost of several levels.

    Args:
        fine: the innermost fine propagator.
        coarse: the coarse propagator of all levels.
        levels: numbers of slices, outermost first. The first one divides the outermost interval and needs no `Level`.
        correction: the correction of all levels.
    """
    for slices in reversed(levels[1:]):
        fine = Level(fine, coarse, slices, correction=correction)
    return fine


def divide_outermost(fine: Propagator, coarse: Propagator | None, boundaries: list[Time], levels: Any) -> list[Time]:
    """Return the boundaries of the outermost level.

    Args:
        fine: the innermost fine propagator.
        coarse: the coarse propagator.
        boundaries: those of the outermost level, or its two ends, which are then divided.
        levels: numbers of slices, outermost first, as the user passed them.

    Raises:
        ValueError: if `levels` is not a sequence of whole numbers, or does not agree with the boundaries.
    """
    if not isinstance(levels, Sequence | np.ndarray) or not len(levels):
        raise ValueError(f"levels must be whole numbers of slices, outermost first, as in (12, 9), but was {levels!r}")
    counts = [whole_number("levels (outermost first, as in (12, 9)): a number in it", n, 1) for n in levels]
    if len(boundaries) == 2:
        nodes = needs_nodes(fine) or needs_nodes(coarse)
        count = min(counts[0], abs(int(boundaries[1]) - int(boundaries[0]))) if nodes else counts[0]
        boundaries = divide(boundaries[0], boundaries[1], count, nodes)
    if len(boundaries) != counts[0] + 1:
        raise ValueError(
            f"levels={tuple(counts)} requires {counts[0]} outermost slices, but there are {len(boundaries) - 1}: "
            f"pass {counts[0] + 1} boundaries, or only the two ends, with at least {counts[0]} steps between them"
        )
    return boundaries


def unroll(fine: Propagator, boundaries: list[Time]) -> tuple[Propagator, list[Time], list[int]]:
    """Return the innermost fine propagator, its boundaries, and the indices of the outer boundaries among them."""
    indices = list(range(len(boundaries)))
    while isinstance(fine, Level):
        inner = [fine.edges(a, b) for a, b in pairwise(boundaries)]
        # adjacent slices share a boundary, which is listed once; slices may differ in their numbers of inner slices
        offsets = [0]
        for edges in inner:
            offsets.append(offsets[-1] + len(edges) - 1)
        indices = [offsets[i] for i in indices]
        boundaries = [inner[0][0], *(t for edges in inner for t in edges[1:])]
        fine = fine.fine
    return fine, boundaries, indices


def check_levels(propagator: Propagator | None, correction: AbstractCorrection) -> None:
    """Raise `ValueError` if a nested level lacks the coarse propagator that its correction uses.

    Args:
        propagator: any propagator; all but a `Level` pass.
        correction: the correction of the level further out, which a level without its own follows.
    """
    if isinstance(propagator, Level):
        inherited = check_correction(propagator.correction or correction, propagator.coarse)
        check_levels(propagator.fine, inherited)
        check_levels(propagator.coarse, inherited)


def list_leaves(propagator: Propagator | None) -> list[Propagator]:
    """Return the propagators at the leaves of the tree of levels, which do the work; the innermost fine one first."""
    if isinstance(propagator, Level):
        return [*list_leaves(propagator.fine), *list_leaves(propagator.coarse)]
    return [] if propagator is None else [propagator]


def needs_nodes(propagator: Propagator | None) -> bool:
    """Return whether boundaries must be integer nodes, because a propagator is `Steps`."""
    return any(isinstance(p, Steps) for p in list_leaves(propagator))


def count_runs_until_exact(fine: Propagator) -> int:
    """Return the largest number of times that a fine propagator must run on one input until its result is exact."""
    if isinstance(fine, Level):
        # an inner solve becomes exact slice by slice, at the latest after one iteration per slice
        return fine.slices * count_runs_until_exact(fine.fine)
    return 2 if takes_iteration(fine) else 1  # an approximate result first, then one with `iteration=None`


def bound_iterations(runs: int, slices: int, window: int | None = None) -> int:
    """Return the iteration in which every boundary is final at the latest.

    Args:
        runs: `count_runs_until_exact` of the fine propagator.
        slices: number of slices.
        window: the window of the solve, or None.
    """
    if window is None and runs == 1:
        return slices  # boundary n is exact after iteration n
    # A slice whose input is final needs `runs` results, and one more iteration in which its output is found unchanged.
    # In the worst case the slices become final one after another.
    return slices * (runs + 1)


def check_leaves(name: str, propagator: Any, boundaries: list[Time]) -> None:
    """Raise `TypeError` or `ValueError` unless all propagators that do the work are valid and fit the boundaries.

    Args:
        name: `"fine"` or `"coarse"`, for messages.
        propagator: the argument of that name.
        boundaries: checked boundaries of the outermost level.
    """
    for leaf in list_leaves(propagator):
        check_propagator(name, leaf, boundaries)
