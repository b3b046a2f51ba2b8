"""torchdiffeq's own loop, where solving in parallel in time is not predicted to be faster, or fails."""

import time
from dataclasses import replace
from typing import Any

import torch

import parareal
from parareal.driver import finite
from parareal_torchdiffeq._methods import STAGES
from parareal_torchdiffeq._problem import Problem


def step_by_step(
    problem: Problem, y0: Any, throw: bool, wanted: bool, note: str
) -> tuple[Any, parareal.Solution | None]:
    """Return torchdiffeq's result, and, where it is wanted, a solution of one slice whose F is torchdiffeq's loop.

    Args:
        problem: the problem to solve.
        y0: the initial state as the user gave it.
        throw: raise `parareal.PararealError` where the final state is not finite.
        wanted: whether a solution is.
        note: a sentence for its message.
    """
    ys, before = None, 0.0
    if not wanted:  # to keep books takes as long as some steps
        began = time.perf_counter()
        ys = problem.integrated()
        before = time.perf_counter() - began
        if not throw or finite(_last(ys)):
            return ys, None

    def fine(state: Any, start: int, stop: int) -> parareal.Costed:
        nonlocal ys
        ys = problem.integrated() if ys is None else ys
        return parareal.Costed(_last(ys), (stop - start) * STAGES[problem.method])

    solution = parareal.sequential(fine, y0, [0, problem.steps], throw=False)
    stats = replace(solution.stats, wall_time=solution.stats.wall_time + before)
    solution = replace(solution, stats=stats, message=f"{solution.message} {note}")
    if throw and solution.outcome.failed:
        raise parareal.PararealError("the final state of torchdiffeq's loop is not finite", solution)
    return ys, solution


def _last(ys: Any) -> Any:
    return ys[-1] if isinstance(ys, torch.Tensor) else tuple(y[-1] for y in ys)
