"""The number of slices for `slices="auto"`, which an advisor chooses from times measured on this machine."""

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
from parareal_torchdiffeq._batched_rhs import BatchedRhs
from parareal_torchdiffeq._batching_probe import find_form
from parareal_torchdiffeq._methods import METHODS, STAGES
from parareal_torchdiffeq._outputs import advance_one_step
from parareal_torchdiffeq._problem import FixedGridProblem
from parareal_torchdiffeq._state_format import StateFormat

TIMED_STEPS = 16
"""sequential steps that are timed"""


def choose_slices(func: Any, problem: FixedGridProblem) -> tuple[int, BatchedRhs | None]:
    """Return the number of slices, 1 for a sequential solve, and the batched form of func.

    The form is None for a sequential solve that needed no timing. If the advisor already knows that slices do not pay,
    func is not called.

    Raises:
        ValueError: if func does not return a tensor of the dtype and shape of its state.
    """
    advisor = _get_advisor(func, problem)
    if problem.steps == 1 or advisor.declines(problem.length):
        return 1, None
    with torch.no_grad(), np.errstate(all="ignore"):
        rhs = find_form(func, problem.shapes, problem.list_probe_times(), problem.y0)
        if rhs.form == "rows":
            # One call per row gains nothing on an interval of any length, so all lengths from 0 on are declined.
            advisor.learn_failure(0.0)
            return 1, None
        timer = _Timer(func, problem, rhs)
        plan = advisor.advise(
            problem.steps, tick_time=timer.measure_tick, sequential_time=timer.measure_sequential, kind=rhs.form
        )
    return plan.slices, rhs


def record_time(func: Any, problem: FixedGridProblem, seconds: float) -> None:
    """Record the time of a parallel solve for later calls; infinite if the solve failed."""
    advisor = _get_advisor(func, problem)
    if seconds == float("inf"):
        advisor.learn_failure(problem.length)
    else:
        advisor.learn_time(problem.length, seconds)


def explain_sequential(func: Any, problem: FixedGridProblem) -> str:
    """Return the sentence that says why a problem was solved sequentially."""
    return _get_advisor(func, problem).note(problem.length)


def _get_advisor(func: Any, problem: FixedGridProblem) -> Advisor:
    """Return the advisor for problems of this function, state, method, number of steps and number of threads."""
    # The length of the interval is not part of the key: what failed on one interval is assumed to fail on longer ones.
    y = problem.y0
    return advisor_for(func, (y.shape, y.dtype, y.device, problem.method, problem.steps, torch.get_num_threads()))


@final
@dataclass(frozen=True)
class _Timer:
    """Measured times of torchdiffeq's steps and of the engine's ticks for one problem."""

    func: Any
    problem: FixedGridProblem
    rhs: BatchedRhs

    def measure_sequential(self) -> float:
        """Return the seconds of torchdiffeq's own loop, extrapolated from its first steps."""
        steps = min(TIMED_STEPS, self.problem.steps)
        return self._measure(lambda: self._integrate_first_steps(steps)) / steps * self.problem.steps

    def measure_tick(self, rows: int, slices: int) -> float:
        """Return the seconds of one step of `rows` rows, in a solve with `slices` slices."""
        problem = self.problem
        state_format = StateFormat.choose(problem, slices, has_user_coarse=False)
        fine = state_format.build_method(problem, self.rhs)
        state = state_format.from_tensor(problem.y0.expand(rows, *problem.y0.shape).contiguous())
        step = self._measure(lambda: advance_one_step(fine, state, np.zeros(rows, dtype=np.int64)))
        # The engine adds its overhead to every batched call, and a step makes one per stage.
        return step + STAGES[problem.method] * _measure_engine_overhead()

    def _integrate_first_steps(self, steps: int) -> None:
        """Make the first steps by torchdiffeq's loop."""
        problem = self.problem
        t, y = problem.list_user_times(range(steps + 1)), problem.y0
        # The times of the nodes are passed as the grid: the user's grid_constructor must not run for a part of it.
        options = {"grid_constructor": lambda f, y, t: t, "perturb": problem.solver.perturb}
        if problem.shapes is not None:
            # A format only for its conversion to a tuple, which needs no dtype of the engine.
            y = StateFormat(False, problem.shapes, problem.dtype, None).to_user(y)
        torchdiffeq.odeint(self.func, y, t, method=problem.method, options=options)

    def _measure(self, call: Callable[[], Any], repeats: int = 3) -> float:
        """Return the shortest time of a few calls in seconds: the one that other processes disturbed least."""
        seconds = []
        for _ in range(repeats):
            start_time = time.perf_counter()
            call()
            if self.problem.y0.device.type == "cuda":
                torch.cuda.synchronize(self.problem.y0.device)  # a call returns before its kernels have finished
            seconds.append(time.perf_counter() - start_time)
            if seconds[0] > 0.2:  # other processes disturb a long call little, so one is enough
                break
        return min(seconds)


@cache
def _measure_engine_overhead() -> float:
    """Return the seconds that the engine itself adds to a batched call, measured once per process.

    The right-hand side of the solve that is timed costs almost nothing, so the time is that of the engine.
    """
    method = METHODS["euler"](lambda y, t: -y, np.linspace(0, 1, 129), np.dtype("float64"), False)
    fine, coarse = parareal.Steps(method), parareal.Steps(method, 1)
    seconds = []
    for _ in range(3):
        stats = parareal.solve(fine, coarse, np.ones(2), range(0, 129, 8), criterion=parareal.Iterations(1)).stats
        seconds.append(stats.wall_time / stats.calls)
    return min(seconds)
