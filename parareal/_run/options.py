"""Options of a solve, checked, and the rules that follow from them."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import final

from parareal._checks import one_of, optional_share, optional_whole_number
from parareal._criteria import AbstractCriterion, Increment, Tolerance
from parareal._execution.executors import AbstractExecutor
from parareal._iteration.rules import Rules
from parareal._problem.levels import bound_iterations, count_runs_until_exact, list_leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import make_memory_correction
from parareal._state import Stack, State

SCHEDULES = ("pipelined", "synchronous")


@final
@dataclass(frozen=True)
class Options:
    """Options of a solve. The fields have the names and the meaning of the keywords of `parareal.solve`.

    Raises:
        ValueError, TypeError: if a value is unsupported, with a message that names it and the remedy.
    """

    guess: Stack | Sequence[State] | None = None
    criterion: AbstractCriterion | None = None
    max_iterations: int | None = None
    schedule: str = "pipelined"
    executor: AbstractExecutor | Executor | None = None
    window: int | None = None
    speculate_until: int | None = None
    spot_check: float | None = None

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        optional_whole_number("max_iterations", self.max_iterations, 0)
        optional_whole_number("window", self.window, 1)
        optional_whole_number("speculate_until", self.speculate_until, 0)
        optional_share("spot_check", self.spot_check)
        if self.criterion is not None and not isinstance(self.criterion, AbstractCriterion):
            raise TypeError(
                "criterion must be Increment(), Defect(), Tolerance(), Iterations(), LastChange() or an "
                "AbstractCriterion of your own, "
                f"not {type(self.criterion).__name__}"
            )

    def build_rules(self, problem: Problem) -> Rules:
        """Return the rules for the machines of a problem.

        Raises:
            ValueError: if criterion, window and problem do not fit together.
        """
        criterion = (Increment() if self.criterion is None else self.criterion).resolve(problem.layout)
        if isinstance(criterion, Tolerance) and not problem.correction.estimates_errors:
            raise ValueError(
                "Tolerance stops by error estimates, which are not known to hold for the correction "
                f"{type(problem.correction).__name__}: use Increment, Defect or Iterations"
            )
        window = self._window(criterion, problem.slices)
        runs_to_exact = count_runs_until_exact(problem.fine)
        # Finite termination sets the limit if `max_iterations` and the criterion set none.
        last = bound_iterations(runs_to_exact, problem.slices, window)
        limits = (last, self.max_iterations, criterion.last_iteration)
        return Rules(
            criterion=criterion,
            correction=problem.correction,
            layout=problem.layout,
            limit=min(int(limit) for limit in limits if limit is not None),
            boundaries=problem.boundaries,
            # with nested levels, the memory that crosses boundaries is that of the innermost fine stepper
            correct_memory=make_memory_correction(list_leaves(problem.fine)[0]),
            has_coarse=problem.coarse is not None,
            synchronous=self.schedule == "synchronous",
            window=window,
            speculate_until=float("inf") if self.speculate_until is None else self.speculate_until,
            inexact=runs_to_exact > 1,
            # A run to the end replaces every approximate result by an exact one, so approximate results would be
            # wasted work.
            full_accuracy=(criterion.last_iteration or 0) >= problem.slices,
        )

    def _window(self, criterion: AbstractCriterion, slices: int) -> int | None:
        """Return the window, or None if it holds all slices.

        Raises:
            ValueError: if the criterion does not make slices final, so that the window could not move on.
        """
        if self.window is None or self.window >= slices:
            return None
        last = criterion.last_iteration
        if not criterion.local or (last is not None and last < slices):
            raise ValueError(
                f"window={self.window} over {slices} slices moves on when slices become final, but {criterion} makes "
                "no slice final before the end: use Increment, Defect, Tolerance or another local criterion, or run "
                f"to the end with Iterations({slices})"
            )
        return int(self.window)
