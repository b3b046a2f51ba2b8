"""torchdiffeq's own loop, where solving in parallel in time would not be faster, or fails."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torchdiffeq

import parareal
from parareal_torchdiffeq._methods import STAGES
from parareal_torchdiffeq._problem import Problem

NOTE = "Solved step by step by torchdiffeq, for in parallel it would not be faster here, or failed (slices='auto')."


def step_by_step(
    func: Any, y0: Any, t: torch.Tensor, problem: Problem, options: Mapping[str, Any] | None, throw: bool
) -> tuple[Any, parareal.Solution]:
    """Return what torchdiffeq returns, and a solution of one slice whose F it is.

    Raises:
        parareal.PararealError: where the final state is not finite, unless `throw` is False.
    """
    kept: list[Any] = []

    def fine(state: Any, start: int, stop: int) -> parareal.Costed:
        with torch.no_grad():
            kept.append(torchdiffeq.odeint(func, y0, t, method=problem.method, options=options))
        last = kept[0][-1] if isinstance(kept[0], torch.Tensor) else tuple(x[-1] for x in kept[0])
        return parareal.Costed(last, (stop - start) * STAGES[problem.method])

    solution = parareal.sequential(fine, y0, [0, problem.steps], throw=throw)
    return kept[0], replace(solution, message=f"{solution.message} {NOTE}")
