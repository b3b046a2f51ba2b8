"""torchdiffeq's own loop, where solving in parallel in time would not be faster, or fails."""

from dataclasses import replace
from typing import Any

import torch

import parareal
from parareal.driver import finite
from parareal_torchdiffeq._methods import STAGES
from parareal_torchdiffeq._problem import Problem

NOTE = "Solved step by step by torchdiffeq, for in parallel it would not be faster here, or failed (slices='auto')."


def step_by_step(problem: Problem, y0: Any, throw: bool, wanted: bool) -> tuple[Any, parareal.Solution | None]:
    """Return what torchdiffeq returns, and, where it is wanted, a solution of one slice whose F it is.

    Args:
        problem: what is to be solved.
        y0: the initial state as the user gave it.
        throw: raise `parareal.PararealError` where the final state is not finite.
        wanted: whether a solution is.
    """
    if not wanted:  # to keep books takes as long as some steps
        ys = problem.integrated()
        if not throw or finite(_last(ys)):
            return ys, None
    kept: list[Any] = []

    def fine(state: Any, start: int, stop: int) -> parareal.Costed:
        kept.append(problem.integrated())
        return parareal.Costed(_last(kept[0]), (stop - start) * STAGES[problem.method])

    solution = parareal.sequential(fine, y0, [0, problem.steps], throw=throw)
    return kept[0], replace(solution, message=f"{solution.message} {NOTE}")


def _last(ys: Any) -> Any:
    return ys[-1] if isinstance(ys, torch.Tensor) else tuple(y[-1] for y in ys)
