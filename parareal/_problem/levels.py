"""Nested levels: the fine propagator of a slice is itself a Parareal solve over slices within it."""

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
    """The settings of one nested level; `Parareal` is this and can be called."""

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
            raise TypeError(f"criterion must be an AbstractCriterion, not {type(self.criterion).__name__}")
        if self.criterion is not None and self.criterion.last_iteration == 0:
            raise ValueError(
                "criterion: an inner solve without an iteration never runs fine; use Iterations(1) or more"
            )
        if self.correction is not None:  # else it follows the level further out
            check_correction(self.correction, self.coarse)

    def edges(self, start: Time, stop: Time) -> list[Time]:
        """Return the boundaries of the slices within an interval."""
        nodes = needs_nodes(self)
        return divide(start, stop, min(self.slices, abs(int(stop) - int(start))) if nodes else self.slices, nodes)


def nest(
    fine: Propagator, coarse: Propagator | None, levels: Sequence[int], correction: AbstractCorrection | None = None
) -> Propagator:
    """Return the fine propagator of the outermost of several levels; `levels` counts slices, outermost first."""
    for slices in reversed(levels[1:]):
        fine = Level(fine, coarse, slices, correction=correction)
    return fine


def divide_outermost(fine: Propagator, coarse: Propagator | None, boundaries: list[Time], levels: Any) -> list[Time]:
    """Return the boundaries of the outermost level, which may be given as its two ends only."""
    if not isinstance(levels, Sequence | np.ndarray) or not len(levels):
        raise ValueError(f"levels must be whole numbers of slices, outermost first, as in (12, 9); got {levels!r}")
    counts = [whole_number("levels (outermost first, as in (12, 9)): a number in it", n, 1) for n in levels]
    if len(boundaries) == 2:
        nodes = needs_nodes(fine) or needs_nodes(coarse)
        count = min(counts[0], abs(int(boundaries[1]) - int(boundaries[0]))) if nodes else counts[0]
        boundaries = divide(boundaries[0], boundaries[1], count, nodes)
    if len(boundaries) != counts[0] + 1:
        raise ValueError(
            f"levels={tuple(counts)} asks for {counts[0]} outermost slices, but there are {len(boundaries) - 1}: "
            "give as many, or only the two ends, with as many steps between them"
        )
    return boundaries


def unroll(fine: Propagator, boundaries: list[Time]) -> tuple[Propagator, list[Time], list[int]]:
    """Return the innermost fine propagator and its boundaries, and where among them the given ones are."""
    at = list(range(len(boundaries)))
    while isinstance(fine, Level):
        inner = [fine.edges(a, b) for a, b in pairwise(boundaries)]
        counts = [0]
        for edge in inner:
            counts.append(counts[-1] + len(edge) - 1)
        at = [counts[i] for i in at]
        boundaries = [inner[0][0], *(t for edge in inner for t in edge[1:])]
        fine = fine.fine
    return fine, boundaries, at


def check_levels(propagator: Propagator | None, correction: AbstractCorrection) -> None:
    """Raise `ValueError` for nested levels without the coarse propagator that their correction uses."""
    if isinstance(propagator, Level):
        own = check_correction(propagator.correction or correction, propagator.coarse)
        check_levels(propagator.fine, own)
        check_levels(propagator.coarse, own)


def leaves(propagator: Propagator | None) -> list[Propagator]:
    """Return the propagators that do the work, the innermost fine one first."""
    if isinstance(propagator, Level):
        return [*leaves(propagator.fine), *leaves(propagator.coarse)]
    return [] if propagator is None else [propagator]


def needs_nodes(propagator: Propagator | None) -> bool:
    """Return whether boundaries must be integer nodes."""
    return any(isinstance(p, Steps) for p in leaves(propagator))


def answers_until_exact(fine: Propagator) -> int:
    """Return after how many answers to one state, at most, the fine propagator's is exact."""
    if isinstance(fine, Level):
        return fine.slices * answers_until_exact(fine.fine)
    return 2 if takes_iteration(fine) else 1


def last_iteration(answers: int, slices: int, window: int | None = None) -> int:
    """Return the iteration in which every boundary is final at the latest.

    `answers` is `answers_until_exact` of the fine propagator.
    """
    if window is None and answers == 1:
        return slices  # exact by then
    # a slice whose input has settled needs that many answers to it, and one iteration more to say that it stands
    return slices * (answers + 1)


def check_leaves(name: str, propagator: Any, boundaries: list[Time]) -> None:
    """Raise `TypeError` or `ValueError` unless all propagators fit together and to the boundaries."""
    for leaf in leaves(propagator):
        check_propagator(name, leaf, boundaries)
