"""How many slices pay for a right-hand side on this machine, and whether any do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from inspect import ismethod
from typing import Any, final
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torchdiffeq

import parareal
from parareal_torchdiffeq._batched_rhs import RowsOf
from parareal_torchdiffeq._batching_probe import find
from parareal_torchdiffeq._methods import METHODS, STAGES
from parareal_torchdiffeq._outputs import one_step
from parareal_torchdiffeq._problem import Problem
from parareal_torchdiffeq._state_format import Arrays

ITERATIONS = 3
"""what solves to torchdiffeq's default tolerances make, often (docs/odes.md)"""
SAMPLE = 16
"""steps that are timed"""
WORTHWHILE = 1.2
"""predicted speed-up from which slices are taken: what is predicted here is rougher than a `parareal.plan`"""
PATIENCE = 2
"""solves in slices, one after the other, that must have been slower than step by step before no more are tried"""


@final
@dataclass(frozen=True)
class Kept:
    """What is known of a function for states of one shape, one method and one number of steps."""

    form: str
    """in which it takes rows"""
    slices: int
    """1 for none"""
    step: float
    """seconds of one of torchdiffeq's steps"""
    slower: int = 0
    """solves in slices, the last ones in a row, that took longer than so many steps"""
    failed: float = float("inf")
    """the shortest interval on which slices failed, or were slower too often"""


_kept: "WeakKeyDictionary[Any, dict[Any, Kept]]" = WeakKeyDictionary()


def advised(func: Any, problem: Problem) -> tuple[int, RowsOf | None]:
    """Return the number of slices to take, 1 for none, and, if there are any, how func takes rows.

    The number is found by the times of some steps, of one row and of many. What is found is kept for the process, by
    function, shape, dtype, device, method, number of steps and threads; where it says step by step, func is not called.

    Raises:
        ValueError: where func returns something that is no derivative of its state.
    """
    if problem.steps == 1:
        return 1, None
    known, key = _known(func), _key(func, problem)
    kept = known.get(key)
    if kept is not None and (kept.slices == 1 or problem.length >= kept.failed):
        return 1, None
    with torch.no_grad(), np.errstate(all="ignore"):
        rows = find(func, problem.shapes, problem.some_times(), problem.y0)
        if kept is None or kept.form != rows.form:
            kept = known[key] = _measured(func, problem, rows)
    return kept.slices, rows


def learn(func: Any, problem: Problem, seconds: float) -> None:
    """Remember what a solve in slices took, infinitely long where it failed.

    Where it failed, or was slower than step by step `PATIENCE` times, intervals as long or longer go step by step.
    """
    known, key = _known(func), _key(func, problem)
    if key not in known:  # of a function to which there are no weak references
        return
    kept = known[key]
    slower = kept.slower + 1 if seconds > problem.steps * kept.step else 0
    over = slower >= PATIENCE or seconds == float("inf")
    known[key] = replace(kept, slower=slower, failed=min(kept.failed, problem.length) if over else kept.failed)


def _known(func: Any) -> dict[Any, Kept]:
    try:
        return _kept.setdefault(func.__self__ if ismethod(func) else func, {})  # a bound method is a new one each time
    except TypeError:  # no weak reference to it, nothing is kept
        return {}


def _key(func: Any, problem: Problem) -> tuple[Any, ...]:
    y, method = problem.y0, func.__func__ if ismethod(func) else None
    return method, y.shape, y.dtype, y.device, problem.method, problem.steps, torch.get_num_threads()


def _measured(func: Any, problem: Problem, rows: RowsOf) -> Kept:
    steps, root = problem.steps, (ITERATIONS * problem.steps) ** 0.5
    counts = sorted({n for f in (1.0, 1.5, 2.0) if 1 < (n := round(f * root)) <= steps / 2})
    if rows.form == "rows" or not counts:
        return Kept(rows.form, 1, 0.0)
    alone = _fastest(lambda: _sequential(func, problem, min(SAMPLE, steps))) / min(SAMPLE, steps)
    found = {count: _parallel(problem, rows, count) for count in counts}
    best = min(found, key=lambda count: found[count])
    return Kept(rows.form, best if steps * alone >= WORTHWHILE * found[best] else 1, alone)


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
