"""The number of slices for `slices="auto"`: times of a right-hand side on this machine, handed to an advisor."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import torch
import torchdiffeq

import parareal
from parareal.driver import Advisor, advisor_for
from parareal_torchdiffeq._batched_rhs import RowsOf
from parareal_torchdiffeq._batching_probe import find
from parareal_torchdiffeq._methods import METHODS, STAGES
from parareal_torchdiffeq._outputs import one_step
from parareal_torchdiffeq._problem import Problem
from parareal_torchdiffeq._state_format import Arrays

SAMPLE = 16
"""sequential steps that are timed"""


def advised(func: Any, problem: Problem) -> tuple[int, RowsOf | None]:
    """Return the number of slices to take, 1 for none, and, if there are any, how func takes rows.

    Where the advisor declines, func is not called.

    Raises:
        ValueError: where func returns something that is no derivative of its state.
    """
    advisor = _advisor(func, problem)
    if problem.steps == 1 or advisor.declines(problem.length):
        return 1, None
    with torch.no_grad(), np.errstate(all="ignore"):
        rows = find(func, problem.shapes, problem.some_times(), problem.y0)
        if rows.form == "rows":  # they are evaluated one after the other, which gains nothing on any interval
            advisor.learn_failure(0.0)
            return 1, None
        timer = _Timer(func, problem, rows)
        plan = advisor.advise(
            problem.steps, tick_time=timer.tick_time, sequential_time=timer.sequential_time, kind=rows.form
        )
    return plan.slices, rows


def learn(func: Any, problem: Problem, seconds: float) -> None:
    """Record the time of a solve in slices, infinite where it failed."""
    advisor = _advisor(func, problem)
    if seconds == float("inf"):
        advisor.learn_failure(problem.length)
    else:
        advisor.learn_time(problem.length, seconds)


def note(func: Any, problem: Problem) -> str:
    """Return the sentence that says why a problem was solved sequentially."""
    return _advisor(func, problem).note(problem.length)


def _advisor(func: Any, problem: Problem) -> Advisor:
    y = problem.y0
    return advisor_for(func, (y.shape, y.dtype, y.device, problem.method, problem.steps, torch.get_num_threads()))


@final
@dataclass(frozen=True)
class _Timer:
    """Times of torchdiffeq's steps, and of the engine's."""

    func: Any
    problem: Problem
    rows: RowsOf

    def sequential_time(self) -> float:
        """Return the seconds of torchdiffeq's own loop, from its first steps."""
        steps = min(SAMPLE, self.problem.steps)
        return self._fastest(lambda: self._integrate(steps)) / steps * self.problem.steps

    def tick_time(self, rows: int, slices: int) -> float:
        """Return the seconds of one step of `rows` rows, in a solve with `slices` slices."""
        problem = self.problem
        arrays = Arrays.suited(problem, slices, own=False)
        fine = arrays.method(problem, self.rows)
        state = arrays.of(problem.y0.expand(rows, *problem.y0.shape).contiguous())
        step = self._fastest(lambda: one_step(fine, state, np.zeros(rows, dtype=np.int64)))
        return step + STAGES[problem.method] * _engine_tick()

    def _integrate(self, steps: int) -> None:
        """Make the first steps as torchdiffeq does."""
        problem = self.problem
        t, y = problem.user_times(range(steps + 1)), problem.y0
        options = {"grid_constructor": lambda f, y, t: t, "perturb": problem.solver.perturb}
        if problem.shapes is not None:
            y = Arrays(False, problem.shapes, problem.dtype, None).user(y)
        torchdiffeq.odeint(self.func, y, t, method=problem.method, options=options)

    def _fastest(self, call: Callable[[], Any], repeats: int = 3) -> float:
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            call()
            if self.problem.y0.device.type == "cuda":
                torch.cuda.synchronize(self.problem.y0.device)  # a call returns before its kernels do
            taken.append(time.perf_counter() - began)
            if taken[0] > 0.2:  # seconds: no more of that
                break
        return min(taken)


@cache
def _engine_tick() -> float:
    """Return the seconds that the engine itself adds to a tick."""
    method = METHODS["euler"](lambda y, t: -y, np.linspace(0, 1, 129), np.dtype("float64"), False)
    fine, coarse = parareal.Steps(method), parareal.Steps(method, 1)
    taken = []
    for _ in range(3):
        stats = parareal.solve(fine, coarse, np.ones(2), range(0, 129, 8), criterion=parareal.Iterations(1)).stats
        taken.append(stats.wall_time / stats.calls)
    return min(taken)
