"""The checked initial value problem: propagators, samples, boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from parareal._checks import whole_number
from parareal._corrections.correction import AbstractCorrection
from parareal._corrections.elementary import check_correction
from parareal._problem.boundaries import Boundaries, check_boundaries, divide
from parareal._problem.levels import check_leaves, check_levels, divide_outermost, needs_nodes, nest
from parareal._problem.propagators import Propagator
from parareal._problem.states import check_initial
from parareal._state import Layout, Stack, State, Time, stack


@final
@dataclass(frozen=True)
class Problem:
    """An initial value problem whose parts have been checked. Build it with `Problem.create`."""

    fine: Propagator
    """the fine propagator of the outermost level"""
    coarse: Propagator | None
    """its coarse propagator; None if the correction uses none"""
    samples: list[State]
    """the initial state of each sample"""
    layout: Layout
    """structure, dtypes and shapes of one sample's state"""
    boundaries: list[Time]
    """of the outermost level"""
    batch_dims: int
    """1 if the caller's states have a leading axis of samples, else 0"""
    correction: AbstractCorrection
    """of the outermost level"""

    @staticmethod
    def create(
        fine: Propagator,
        coarse: Propagator | None,
        initial: State,
        boundaries: Boundaries,
        batch_dims: int,
        *,
        slices: int | None = None,
        levels: Sequence[int] | None = None,
        correction: AbstractCorrection | None = None,
    ) -> "Problem":
        """Check all that can be checked before any work, and return the problem.

        All arguments are those of `parareal.solve`.

        Raises:
            ValueError, TypeError: for invalid arguments; the message says what to change.
        """
        # Boundaries first: the checks of propagators need them, and they may be an iterator, which is read once.
        times = check_boundaries(boundaries)
        check_leaves("fine", fine, times)
        check_leaves("coarse", coarse, times)
        # levels nested in `fine` or `coarse` inherit this correction unless they have their own
        correction = check_correction(correction, coarse)
        check_levels(fine, correction)
        check_levels(coarse, correction)
        if slices is not None:
            times = _divide_evenly(fine, coarse, times, slices, levels)
        samples, layout = check_initial(initial, batch_dims)
        problem = Problem(fine, coarse, samples, layout, times, batch_dims, correction)
        if levels is None:
            return problem
        times = divide_outermost(fine, coarse, times, levels)
        return replace(problem, fine=nest(fine, coarse, levels, correction), boundaries=times)

    @property
    def slices(self) -> int:
        """The number of slices."""
        return len(self.boundaries) - 1

    def join(self, samples: list[State]) -> State:
        """Join the states of all samples into one state of the shape of the initial state."""
        return stack(samples) if self.batch_dims else samples[0]

    def stack(self, trajectories: list[list[State]]) -> Stack:
        """Stack `trajectories[sample][boundary]` into arrays of shape (boundaries, [samples,] *shape)."""
        return stack_trajectories(trajectories, self.batch_dims)


def stack_trajectories(trajectories: list[list[State]], batch_dims: int) -> Stack:
    """Stack `trajectories[sample][boundary]` into arrays of shape (boundaries, [samples,] *shape).

    A function in addition to the method, because a `Refinement` holds it and must be picklable, which the propagators
    of a problem need not be.
    """
    boundaries = zip(*trajectories, strict=True)
    return stack([stack(states) if batch_dims else states[0] for states in boundaries])


def _divide_evenly(
    fine: Propagator, coarse: Propagator | None, ends: list[Time], slices: Any, levels: Any
) -> list[Time]:
    """Return boundaries that divide the interval between two ends evenly; at whole nodes if a propagator is `Steps`.

    Raises:
        ValueError: for an invalid number of slices, or one that contradicts `levels` or the boundaries.
    """
    count = whole_number("slices", slices, 1)
    if levels is not None:
        raise ValueError(f"levels={levels!r} sets the numbers of slices: leave slices={slices!r} out")
    if len(ends) > 2:
        raise ValueError(
            f"slices={slices!r} divides the interval between two ends, but boundaries has {len(ends)} numbers: give "
            "the first and the last, or leave slices out"
        )
    whole = needs_nodes(fine) or needs_nodes(coarse)
    steps = abs(int(ends[1]) - int(ends[0]))
    if whole and count > steps:
        # more slices than steps would make slices without a step
        raise ValueError(f"slices must be at most the {steps} steps between the two ends, but was {count}")
    return divide(ends[0], ends[1], count, whole)
