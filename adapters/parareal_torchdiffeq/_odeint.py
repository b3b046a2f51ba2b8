"""`odeint`, with torchdiffeq's signature and result."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import parareal
from parareal.driver import divide_grid
from parareal_torchdiffeq._batching_probe import agrees, find
from parareal_torchdiffeq._checks import check_start, increment, smallest
from parareal_torchdiffeq._coarse import check_coarse, coarse_propagator
from parareal_torchdiffeq._outputs import Outputs
from parareal_torchdiffeq._problem import Problem
from parareal_torchdiffeq._sequential import step_by_step
from parareal_torchdiffeq._slice_count import advised, learn, note
from parareal_torchdiffeq._state_format import Arrays


def odeint(
    func: Callable[[Any, Any], Any],
    y0: Any,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: None = None,
    slices: int | str = "auto",
    levels: Any = None,
    coarse: Any = "auto",
    criterion: parareal.AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    executor: parareal.AbstractExecutor | None = None,
    window: int | None = None,
    progress: bool = False,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    throw: bool = True,
    return_solution: bool = False,
) -> Any:
    """Integrate an ordinary differential equation as `torchdiffeq.odeint` does, in parallel in time.

    The result is that of torchdiffeq on the same grid: to rounding when run to the end, with
    `criterion=parareal.Iterations(slices)`, and otherwise as close as the criterion asks. Nothing is differentiated.

    Args:
        func: the right-hand side `func(t, y)` for a scalar t and a state y, unchanged; how it takes many rows at once
            is found out by a few calls (docs/how-to/odes.md). It must be deterministic.
        y0: the state at t[0]: a tensor of a floating or complex dtype, or a tuple of tensors.
        t: times at which the solution is wanted, rising or falling, of shape (points,) and a floating dtype.
        rtol, atol: when to stop, as of `parareal.Increment`; rtol is raised to 8 units in the last place where the
            dtype resolves no less. Of tolerances for each leaf of a tuple the smallest counts.
        method: `"euler"`, `"midpoint"`, `"heun2"`, `"heun3"` or `"rk4"`. There is no default, because torchdiffeq's
            cannot be cut into slices.
        options: as of torchdiffeq's fixed-grid solvers: `step_size` or `grid_constructor`, `perturb`, `interp`.
        event_fn: not supported.
        slices: a number, `"sqrt"` or `"auto"`. `"auto"` is decided by timing, so results of one program can differ
            within the tolerance between runs: `"sqrt"`, the rounded root of the number of steps N, is deterministic.
            `"auto"` is what an advisor chooses from the times of some steps of one row and of many, taken once per
            function (docs/how-to/plan.md). If torchdiffeq's own loop is predicted to be faster it is used instead, and
            `Solution.message` says so. The same applies if parallel solves of this function over an interval at most
            this long failed, or were slower twice in a row. With `levels`, `criterion`, `max_iterations`, `executor`,
            `window`, `callback` or a coarse propagator of your own nothing is timed, and it is round(sqrt(3 N)).
        levels: numbers of slices within slices, the outer ones first, in place of `slices`.
        coarse: `"auto"` or None takes one step of the same method a slice; the name of a method of the same or a lower
            order takes one of that; a function `f(y, t0, t1)`, or `parareal.vectorized` of one, is given the user's
            states and times; `parareal.Steps` over the grid's nodes is used as it is, on tensors.
        criterion: another criterion of the engine, instead of `rtol` and `atol`.
        max_iterations, schedule, executor, window, progress, throw: as for `parareal.solve`.
        callback: as for `parareal.solve`, with states as y0.
        return_solution: return the pair of the result and the `parareal.Solution`, whose states are those at the
            boundaries of slices, and whose boundaries are nodes of the grid.

    Returns:
        The solution at t: a tensor of shape (points, *y0.shape), or a tuple of them, in the dtype of y0. Points that
        are no boundaries of slices cost one more pass over their slices, which the solution's counts do not include.

    Raises:
        TypeError, ValueError: before any work, with a sentence that says what to change.
        parareal.PararealError: as `parareal.solve`.
    """
    if event_fn is not None:
        raise ValueError("event_fn: where it ends is known only once all before is solved: call torchdiffeq.odeint")
    problem = Problem.checked(func, y0, t, rtol, atol, method, options)
    check_coarse(coarse, problem.method)
    own = not (coarse is None or isinstance(coarse, str))
    others = (levels, criterion, executor, window, callback, max_iterations)
    planned = slices == "auto" and not own and all(x is None for x in others)
    criterion = increment(smallest(rtol), smallest(atol), problem.y0.dtype) if criterion is None else criterion
    rows, began = None, time.perf_counter()
    if planned:
        check_start(problem.y0)
        found, rows = advised(func, problem)
        if found == 1:
            ys, solution = step_by_step(problem, y0, throw, return_solution, note(func, problem))
            return (ys, solution) if return_solution else ys
        slices = found
    boundaries = divide_grid(slices, levels, problem.steps)
    arrays = Arrays.suited(problem, len(boundaries) - 1, own=own)
    options = {
        "criterion": criterion,
        "max_iterations": max_iterations,
        "schedule": schedule,
        "executor": executor,
        "window": window,
        "levels": levels,
        "callback": None if callback is None else arrays.callback(callback),
        "progress": progress,
    }
    refuted: list[str] = []
    with torch.no_grad(), np.errstate(all="ignore"):  # torch does not warn of infinities either
        while True:
            if rows is None or refuted:
                rows = find(func, problem.shapes, problem.some_times(), problem.y0, refuted)
            fine = arrays.method(problem, rows)
            embedded = isinstance(criterion, parareal.Tolerance) and criterion.cumulative
            coarse_steps = coarse_propagator(coarse, fine, problem, arrays, embedded)
            try:
                solution = parareal.solve(
                    parareal.Steps(fine), coarse_steps, arrays.of(problem.y0), boundaries, **options
                )
            except parareal.PararealError as error:
                if planned and error.solution.outcome is parareal.Outcome.NON_FINITE:  # coarse steps were too long
                    learn(func, problem, float("inf"))
                    ys, solution = step_by_step(problem, y0, throw, return_solution, note(func, problem))
                    return (ys, solution) if return_solution else ys
                solution = error.solution
                if throw:
                    raise parareal.PararealError(str(error), arrays.solution(solution)) from error.__cause__
            times = problem.user_times(solution.boundaries)
            whole = solution.outcome is not parareal.Outcome.WORKER_LOST
            if not whole or agrees(rows, func, problem.shapes, times, arrays.tensor(solution.states)):
                break
            refuted.append(rows.form)
        ys = arrays.user(Outputs(problem, fine, arrays, np.array(solution.boundaries)).solution(solution.states, whole))
    if planned:
        learn(func, problem, time.perf_counter() - began)
    return (ys, arrays.solution(solution)) if return_solution else ys
