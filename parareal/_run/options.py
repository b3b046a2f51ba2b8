"""Options: how a problem is solved, checked."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import final

from parareal._checks import one_of, optional_whole_number
from parareal._criteria import AbstractCriterion, Increment, Tolerance
from parareal._execution.executors import AbstractExecutor
from parareal._iteration.rules import Rules
from parareal._problem.levels import runs_until_exact, last_iteration, leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import make_memory_correction
from parareal._state import Stack, State

SCHEDULES = ("pipelined", "synchronous")


@final
@dataclass(frozen=True)
class Options:
    """How to solve a problem; fields as the keywords of `parareal.solve`.

    Raises:
        ValueError, TypeError: for bad values, with a sentence that says what to change.
    """

    guess: Stack | Sequence[State] | None = None
    criterion: AbstractCriterion | None = None
    max_iterations: int | None = None
    schedule: str = "pipelined"
    executor: AbstractExecutor | Executor | None = None
    window: int | None = None
    speculate_until: int | None = None

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        optional_whole_number("max_iterations", self.max_iterations, 0)
        optional_whole_number("window", self.window, 1)
        optional_whole_number("speculate_until", self.speculate_until, 0)
        if self.criterion is not None and not isinstance(self.criterion, AbstractCriterion):
            raise TypeError(
                "criterion must be Increment(), Defect(), Tolerance(), Iterations(), LastChange() or an "
                "AbstractCriterion of your own, "
                f"not {type(self.criterion).__name__}"
            )

    def rules(self, problem: Problem) -> Rules:
        """Return the rules by which a problem's machines go.

        Raises:
            ValueError: where criterion, window and problem do not go together.
        """
        criterion = (Increment() if self.criterion is None else self.criterion).resolved(problem.layout)
        if isinstance(criterion, Tolerance) and not problem.correction.estimates_errors:
            raise ValueError(
                "Tolerance stops by error estimates, which are not known to hold for the correction "
                f"{type(problem.correction).__name__}: use Increment, Defect or Iterations"
            )
        window = self._window(criterion, problem.slices)
        answers = runs_until_exact(problem.fine)
        last = last_iteration(answers, problem.slices, window)
        limits = (last, self.max_iterations, criterion.last_iteration)
        return Rules(
            criterion=criterion,
            correction=problem.correction,
            layout=problem.layout,
            limit=min(int(limit) for limit in limits if limit is not None),
            boundaries=problem.boundaries,
            correct_memory=make_memory_correction(leaves(problem.fine)[0]),
            predicts=problem.coarse is not None,
            synchronous=self.schedule == "synchronous",
            window=window,
            speculate_until=float("inf") if self.speculate_until is None else self.speculate_until,
            inexact=answers > 1,
            full_accuracy=(criterion.last_iteration or 0) >= problem.slices,
        )

    def _window(self, criterion: AbstractCriterion, slices: int) -> int | None:
        """Return the window, None if it holds all slices; it needs a criterion that makes slices final."""
        if self.window is None or self.window >= slices:
            return None
        last = criterion.last_iteration
        if not criterion.local or (last is not None and last < slices):
            raise ValueError(
                f"a window of {self.window} over {slices} slices moves on when slices are final, which "
                f"{criterion} does not make them: use Increment, Defect, Tolerance or another local criterion, or run "
                f"to the end with Iterations({slices})"
            )
        return int(self.window)
