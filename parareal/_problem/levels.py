"""Parareal as a propagator, so that levels nest: the fine propagator of a slice is a solve over slices within it."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, final

from parareal._checks import whole_number
from parareal._criteria import AbstractCriterion
from parareal._problem.boundaries import edges
from parareal._problem.propagators import Propagator, Steps, check_propagator, takes_iteration
from parareal._state import State


@final
@dataclass(frozen=True)
class Parareal:
    """A solve as an object, and a propagator: `solve(Parareal(fine, coarse, 9), coarse, u, boundaries)` has two levels.

    Within an outer solve each slice is divided into `slices`, evenly (where any propagator is steppable, at whole
    nodes; a slice that has fewer steps has as many slices). Its solve starts from the trajectory that the
    iteration before it left there. Steppers of all levels share ticks and evaluations.

    An inner solve that stops before its end does not count as exact: the next outer iteration goes on with it, also
    from an unchanged state, and no boundary settles by an answer that the inner criterion has not accepted. Run to the
    end on all levels, as by `Iterations(number of slices)`, the result is the sequential one.

    Args:
        fine: defines the answer; any propagator, also another `Parareal`.
        coarse: any propagator.
        slices: how many.
        criterion: when an inner solve stops; None to follow the outer one (`AbstractCriterion.nested`).
        inner_iterations: how many iterations an inner solve makes, at most, in one outer iteration; None for as many
            as its criterion asks. Few are best: the outer level's error would undo what more of them gain
            (docs/levels.md). A criterion that fixes the number has the last word.
    """

    fine: Propagator
    coarse: Propagator
    slices: int
    _: KW_ONLY
    criterion: AbstractCriterion | None = None
    inner_iterations: int | None = 1

    def __post_init__(self) -> None:
        whole_number("slices", self.slices, 1)
        if self.inner_iterations is not None:
            whole_number("inner_iterations", self.inner_iterations, 1)
        if self.criterion is not None and not isinstance(self.criterion, AbstractCriterion):
            raise TypeError(f"criterion must be one of this package, not {type(self.criterion).__name__}")
        if self.criterion is not None and self.criterion.last_iteration == 0:
            raise ValueError(
                "criterion: an inner solve without an iteration never runs fine; use Iterations(1) or more"
            )

    def edges(self, start: Any, stop: Any) -> list[Any]:
        """Return the boundaries of the slices within an interval."""
        nodes = whole(self)
        return edges(start, stop, min(self.slices, abs(int(stop) - int(start))) if nodes else self.slices, nodes)

    def solve(self, initial: State, start: Any, stop: Any, **options: Any) -> Any:
        """Solve from `start` to `stop` and return a `Solution`; options as for `parareal.solve`."""
        from parareal._api.solve import solve

        options.setdefault("criterion", self.criterion)
        return solve(self.fine, self.coarse, initial, self.edges(start, stop), **options)

    def __call__(self, state: State, t0: Any, t1: Any) -> State:
        """Propagate, as any function `f(state, t0, t1)` does."""
        return self.solve(state, t0, t1).final_state


def nested(fine: Propagator, coarse: Propagator, levels: Sequence[int]) -> Propagator:
    """Return the fine propagator of the outermost of several levels; `levels` counts slices, outermost first."""
    for slices in reversed(levels[1:]):
        fine = Parareal(fine, coarse, slices)
    return fine


def divided(fine: Propagator, coarse: Propagator, boundaries: list[Any], levels: Any) -> list[Any]:
    """Return the boundaries of the outermost level, which may be given as its two ends only."""
    if not isinstance(levels, Sequence) or not levels:
        raise ValueError(f"levels must be whole numbers of slices, outermost first, as in (12, 9); got {levels!r}")
    counts = [whole_number("levels (outermost first, as in (12, 9)): a number in it", n, 1) for n in levels]
    if len(boundaries) == 2:
        outermost = Parareal(fine, coarse, counts[0])
        boundaries = outermost.edges(*boundaries)
    if len(boundaries) != counts[0] + 1:
        raise ValueError(
            f"levels={tuple(counts)} asks for {counts[0]} outermost slices, but there are {len(boundaries) - 1}: "
            "give as many, or only the two ends, with as many steps between them"
        )
    return boundaries


def unrolled(fine: Propagator, boundaries: list[Any]) -> tuple[Propagator, list[Any], list[int]]:
    """Return the innermost fine propagator and its boundaries, and where among them the given ones are."""
    at = list(range(len(boundaries)))
    while isinstance(fine, Parareal):
        inner = [fine.edges(a, b) for a, b in pairwise(boundaries)]
        counts = [0]
        for edge in inner:
            counts.append(counts[-1] + len(edge) - 1)
        at = [counts[i] for i in at]
        boundaries = [inner[0][0], *(t for edge in inner for t in edge[1:])]
        fine = fine.fine
    return fine, boundaries, at


def leaves(propagator: Propagator) -> list[Propagator]:
    """Return the propagators that do the work, the innermost fine one first."""
    if isinstance(propagator, Parareal):
        return [*leaves(propagator.fine), *leaves(propagator.coarse)]
    return [propagator]


def whole(propagator: Propagator) -> bool:
    """Return whether boundaries must be whole nodes."""
    return any(isinstance(p, Steps) for p in leaves(propagator))


def rounds(fine: Propagator) -> int:
    """Return after how many answers to one state, at most, the fine propagator's is exact."""
    if isinstance(fine, Parareal):
        return fine.slices * rounds(fine.fine)
    return 2 if takes_iteration(fine) else 1


def last_iteration(answers: int, slices: int, window: int | None = None) -> int:
    """Return the iteration in which every boundary is final at the latest; `answers` are the `rounds` of F."""
    if window is None and answers == 1:
        return slices  # exact by then
    # a slice whose input has settled needs so many answers to it, and one iteration more to say that it stands
    return slices * (answers + 1)


def check_leaves(name: str, propagator: Any, boundaries: list[Any]) -> None:
    """Raise `TypeError` or `ValueError` unless all propagators fit together and to the boundaries."""
    for leaf in leaves(propagator):
        check_propagator(name, leaf, boundaries)
