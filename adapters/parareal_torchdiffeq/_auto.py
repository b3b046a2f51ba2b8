"""How many slices pay for a right-hand side on this machine, and whether any do."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torchdiffeq

import parareal
from parareal_torchdiffeq._arrays import Arrays
from parareal_torchdiffeq._forms import RowsOf
from parareal_torchdiffeq._methods import METHODS, STAGES
from parareal_torchdiffeq._outputs import one_step
from parareal_torchdiffeq._problem import Problem

ITERATIONS = 3
"""what solves to torchdiffeq's default tolerances make, often (docs/odes.md)"""
SAMPLE = 16
"""steps that are timed"""
WORTHWHILE = 1.2
"""predicted speed-up from which slices are taken: what is predicted here is rougher than a `parareal.plan`"""

_kept: "WeakKeyDictionary[Any, dict[Any, int]]" = WeakKeyDictionary()


def advised(func: Any, problem: Problem, rows: RowsOf) -> int:
    """Return the number of slices to take, 1 for none: by the times of some steps, of one row and of many.

    What is found is kept for the process, by function, shape, dtype, device, method, number of steps and threads.
    """
    y, threads = problem.y0, torch.get_num_threads()
    key = (y.shape, y.dtype, y.device, problem.method, problem.steps, threads, rows.form)
    try:
        known = _kept.setdefault(func, {})
    except TypeError:  # no weak reference to it, nothing is kept
        known = {}
    if key not in known:
        known[key] = _slices(func, problem, rows)
    return known[key]


def _slices(func: Any, problem: Problem, rows: RowsOf) -> int:
    steps, root = problem.steps, (ITERATIONS * problem.steps) ** 0.5
    counts = sorted({n for f in (1.0, 1.5, 2.0) if 1 < (n := round(f * root)) <= steps / 2})
    if rows.form == "rows" or not counts:
        return 1
    alone = _fastest(lambda: _sequential(func, problem, min(SAMPLE, steps))) / min(SAMPLE, steps)
    found = {count: _parallel(problem, rows, count) for count in counts}
    best = min(found, key=lambda count: found[count])
    return best if steps * alone >= WORTHWHILE * found[best] else 1


def _sequential(func: Any, problem: Problem, steps: int) -> None:
    """Make the first steps as torchdiffeq does."""
    t = problem.user_times(range(steps + 1))
    options = {"grid_constructor": lambda f, y, t: t, "perturb": problem.solver.perturb}
    y = problem.y0 if problem.shapes is None else Arrays(False, problem.shapes, problem.dtype, None).user(problem.y0)
    torchdiffeq.odeint(func, y, t, method=problem.method, options=options)


def _parallel(problem: Problem, rows: RowsOf, count: int) -> float:
    """Return what a solve with so many slices is predicted to take: its span in steps, each of the rows of its mean."""
    arrays = Arrays.suited(problem, count, own=False)
    fine = arrays.method(problem, rows)
    span = ITERATIONS * problem.steps / count + count - ITERATIONS
    width = max(1, round(ITERATIONS * problem.steps / span))
    state = arrays.of(problem.y0.expand(width, *problem.y0.shape).contiguous())
    step = _fastest(lambda: one_step(fine, state, np.zeros(width, dtype=np.int64)))
    return span * (step + STAGES[problem.method] * _tick())


@cache
def _tick() -> float:
    """Return what a tick takes the engine, the work within aside."""
    method = METHODS["euler"](lambda y, t: -y, np.linspace(0, 1, 129), np.dtype("float64"), False)
    fine, coarse = parareal.Steps(method), parareal.Steps(method, 1)
    taken = []
    for _ in range(3):
        stats = parareal.solve(fine, coarse, np.ones(2), range(0, 129, 8), criterion=parareal.Iterations(1)).stats
        taken.append(stats.wall_time / stats.calls)
    return min(taken)


def _fastest(call: Callable[[], Any], repeats: int = 3) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a call returns before its kernels do
        taken.append(time.perf_counter() - began)
        if taken[0] > 0.2:  # seconds: no more of that
            break
    return min(taken)
