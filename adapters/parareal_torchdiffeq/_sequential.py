"""Sequential solves by torchdiffeq's own loop, for problems where parallel-in-time is not faster, or failed."""

import time
from dataclasses import replace
from typing import Any

import torch

import parareal
from parareal.driver import finite
from parareal_torchdiffeq._methods import STAGES
from parareal_torchdiffeq._problem import FixedGridProblem


def solve_sequentially(
    problem: FixedGridProblem, y0: Any, throw: bool, return_solution: bool, note: str
) -> tuple[Any, parareal.Solution | None]:
    """Return torchdiffeq's result, and, if requested, a solution of one slice whose F is torchdiffeq's loop.

    Args:
        problem: the problem to solve.
        y0: the initial state as the user passed it.
        throw: raise `parareal.PararealError` if the final state is not finite.
        return_solution: return a `parareal.Solution` instead of None.
        note: the sentence that the message of the solution ends with.

    Raises:
        parareal.PararealError: as described under `throw`.
    """
    ys, elapsed = None, 0.0
    # If no solution is requested, torchdiffeq's loop is called without the engine, whose bookkeeping takes as long as a
    # few steps.
    if not return_solution:
        start_time = time.perf_counter()
        ys = problem.integrate()
        elapsed = time.perf_counter() - start_time
        if not throw or finite(_get_final_state(ys)):
            return ys, None

    # An error must carry a solution, so a solve that failed above continues here. `fine` then returns the states
    # computed above, so nothing is integrated twice.
    def fine(state: Any, start: int, stop: int) -> parareal.Costed:
        nonlocal ys
        ys = problem.integrate() if ys is None else ys
        return parareal.Costed(_get_final_state(ys), (stop - start) * STAGES[problem.method])

    solution = parareal.sequential(fine, y0, [0, problem.steps], throw=False)
    stats = replace(solution.stats, wall_time=solution.stats.wall_time + elapsed)
    solution = replace(solution, stats=stats, message=f"{solution.message} {note}")
    if throw and solution.outcome.failed:
        raise parareal.PararealError(
            "the final state of torchdiffeq's loop is not finite: use a smaller step_size or another method", solution
        )
    return ys, solution


def _get_final_state(ys: Any) -> Any:
    """Return the state at the last output time, in the user's form."""
    return ys[-1] if isinstance(ys, torch.Tensor) else tuple(y[-1] for y in ys)
