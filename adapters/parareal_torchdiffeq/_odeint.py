"""`odeint`, with the signature and the result of `torchdiffeq.odeint`."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import parareal
from parareal.driver import divide_grid, optional_share
from parareal_torchdiffeq._batching_probe import find_form, matches_single_calls
from parareal_torchdiffeq._checks import build_increment_criterion, check_initial_state, check_tolerances
from parareal_torchdiffeq._coarse import build_coarse_propagator, check_coarse
from parareal_torchdiffeq._outputs import Outputs
from parareal_torchdiffeq._problem import FixedGridProblem
from parareal_torchdiffeq._sequential import solve_sequentially
from parareal_torchdiffeq._slice_count import choose_slices, explain_sequential, record_time
from parareal_torchdiffeq._state_format import StateFormat


def odeint(
    func: Callable[[Any, Any], Any],
    y0: Any,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 0.0,
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
    spot_check: float | None = None,
    progress: bool = False,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    throw: bool = True,
    return_solution: bool = False,
) -> Any:
    """Integrate an ordinary differential equation as `torchdiffeq.odeint` does, in parallel in time.

    The result is that of torchdiffeq on the same grid, by the Parareal iteration (docs/explained/theory.md, eq. 1). Run
    to the end, with `criterion=parareal.Iterations(slices)`, it equals torchdiffeq's to rounding. Otherwise it is as
    close as the criterion requires. The result is not differentiable.

    Args:
        func: right-hand side `func(t, y)` for a scalar t and one state y, as for torchdiffeq. It must be deterministic.
            A few calls before the solve find out in which form it evaluates many rows at once (docs/how-to/odes.md).
        y0: state at t[0]: a tensor of a floating or complex dtype of single or double precision, or a tuple of tensors.
        t: times at which the solution is returned, strictly rising or falling, of shape (points,) and a floating dtype.
        rtol: relative tolerance of the default criterion, `parareal.Increment`, from 0 to below 1. A positive one is
            raised to 8 units in the last place of the dtype of the state if it is smaller. A tuple holds one tolerance
            per leaf; the smallest is used for all leaves.
        atol: absolute tolerance of the default criterion, finite and 0 or more, in the units of y; a tuple as for
            `rtol`. The default is not torchdiffeq's 1e-9 but 0, so that the accuracy does not depend on the units of y.
        method: `"euler"`, `"midpoint"`, `"heun2"`, `"heun3"` or `"rk4"`. It is required, because torchdiffeq's default
            is adaptive and cannot be divided into slices.
        options: options of torchdiffeq's fixed-grid solvers: `step_size` or `grid_constructor`, `perturb`, `interp`.
        event_fn: unsupported; must be None.
        slices: number of slices, `"sqrt"` or `"auto"`. `"sqrt"` is the square root of the number of steps N, rounded,
            and deterministic. `"auto"` times some steps of one row and of many, once per function, shape and dtype of
            the state, method and number of steps. It takes the number that is predicted to be fastest
            (docs/how-to/slices.md). Since it depends on timing, results can differ within the tolerance between runs of
            one program. If torchdiffeq's own loop is predicted to be faster it is
            used instead, and `Solution.message` says so. The same applies if parallel solves of this function over an
            interval at most this long failed, or were slower twice in a row. With `levels`, `criterion`,
            `max_iterations`, `executor`, `window`, `callback` or your own coarse propagator nothing is timed, and the
            number is round(sqrt(3 N)).
        levels: numbers of slices of nested levels, outermost first, instead of `slices`.
        coarse: coarse propagator. `"auto"` or None is one step of `method` per slice. The name of a method of the same
            or a lower order is one step of that method per slice. A function `f(y, t0, t1)`, or `parareal.vectorized`
            of one, receives states in the form of y0, and times. `parareal.Steps` over the nodes of the grid is used
            unchanged, on tensors.
        criterion: stopping criterion of the engine, instead of `rtol` and `atol`.
        max_iterations: iterations after which the solve fails; None for no limit but that of the criterion.
        schedule: `"pipelined"` or `"synchronous"`, as for `parareal.solve`.
        executor: `parareal.BatchedExecutor` or another executor of the engine, as for `parareal.solve`.
        window: largest number of slices under way at a time, as for `parareal.solve`.
        spot_check: share of the slices on which `method` runs once more after the stop, as for `parareal.solve`.
        progress: show a progress bar.
        callback: as for `parareal.solve`; states have the form of y0.
        throw: raise `parareal.PararealError` if the solve fails; otherwise return what was reached.
        return_solution: return the pair of the result and the `parareal.Solution`. The states of the solution are those
            at the boundaries of slices, in the form of y0, and its boundaries are nodes of the grid.

    Returns:
        The solution at t, in the dtype of y0: a tensor of shape (points, *y0.shape), or a tuple of such tensors. If
        points of t are not boundaries of slices, their slices are integrated a second time after the solve, which the
        counts of the solution do not include.

    Raises:
        TypeError, ValueError: for an argument that is invalid or unsupported, before the solve; the message names the
            remedy.
        parareal.PararealError: as for `parareal.solve`; with `slices="auto"` also if the final state of torchdiffeq's
            own loop is not finite.
    """
    # before the problem, whose grid_constructor calls the user's code
    tolerances = _check_arguments(rtol, atol, event_fn, spot_check)
    problem = FixedGridProblem.create(func, y0, t, rtol, atol, method, options)
    check_coarse(coarse, problem.method)
    has_user_coarse = not (coarse is None or isinstance(coarse, str))
    # Any of these settings turns the advisor off, because its prediction assumes their defaults. A named coarse method
    # and `schedule` do not.
    settings = (levels, criterion, executor, window, spot_check, callback, max_iterations)
    uses_advisor = slices == "auto" and not has_user_coarse and all(x is None for x in settings)
    if criterion is None:
        criterion = build_increment_criterion(*tolerances, problem.y0.dtype)
    rhs, start_time = None, time.perf_counter()
    if uses_advisor:
        # The engine refuses some states that torchdiffeq's loop would accept. Both must be treated alike, whatever
        # the timing decides, so the state is checked before.
        check_initial_state(problem.y0)
        slice_count, rhs = choose_slices(func, problem)
        if slice_count == 1:
            ys, solution = solve_sequentially(problem, y0, throw, return_solution, explain_sequential(func, problem))
            return (ys, solution) if return_solution else ys
        slices = slice_count
    boundaries = divide_grid(slices, levels, problem.steps)
    state_format = StateFormat.choose(problem, len(boundaries) - 1, has_user_coarse=has_user_coarse)
    options = {
        "criterion": criterion,
        "max_iterations": max_iterations,
        "schedule": schedule,
        "executor": executor,
        "window": window,
        "spot_check": spot_check,
        "levels": levels,
        "callback": None if callback is None else state_format.wrap_callback(callback),
        "progress": progress,
    }
    rejected_forms: list[str] = []
    with torch.no_grad(), np.errstate(all="ignore"):  # torch does not warn of infinities either
        # The solve is repeated with the next form while the solution shows that the form is wrong. The last form, one
        # call per row, is never rejected, so the loop ends.
        while True:
            if rhs is None or rejected_forms:
                rhs = find_form(func, problem.shapes, problem.list_probe_times(), problem.y0, rejected_forms)
            fine = state_format.build_method(problem, rhs)
            coarse_steps = build_coarse_propagator(coarse, fine, problem, state_format, criterion)
            try:
                solution = parareal.solve(
                    parareal.Steps(fine), coarse_steps, state_format.from_tensor(problem.y0), boundaries, **options
                )
            except parareal.PararealError as error:
                # The slices were chosen here, and a fine step from a final state is not finite. torchdiffeq's loop
                # gives the answer, and intervals as long as this one are not tried in slices again.
                if uses_advisor and error.solution.outcome is parareal.Outcome.NON_FINITE:
                    record_time(func, problem, float("inf"))
                    ys, solution = solve_sequentially(
                        problem, y0, throw, return_solution, explain_sequential(func, problem)
                    )
                    return (ys, solution) if return_solution else ys
                solution = error.solution
                if throw:
                    raise parareal.PararealError(
                        str(error), state_format.convert_solution(solution)
                    ) from error.__cause__
            times = problem.list_user_times(solution.boundaries)
            # A func that has raised is not called again, for the check of its form or for the outputs.
            complete = solution.outcome is not parareal.Outcome.WORKER_LOST
            states = state_format.to_tensor(solution.states)
            if not complete or matches_single_calls(rhs, func, problem.shapes, times, states):
                break
            rejected_forms.append(rhs.form)
        outputs = Outputs(problem, fine, state_format, np.array(solution.boundaries))
        ys = state_format.to_user(outputs.compute(solution.states, integrate=complete))
    if uses_advisor:
        # With a critical path as long as torchdiffeq's loop nothing was gained, as where coarse steps overflow and
        # every slice waits for the fine steps of the one before. That holds for longer intervals, too.
        gained = not solution.stats.span >= solution.stats.sequential_span
        record_time(func, problem, time.perf_counter() - start_time if gained else float("inf"))
    return (ys, state_format.convert_solution(solution)) if return_solution else ys


def _check_arguments(rtol: Any, atol: Any, event_fn: Any, spot_check: Any) -> tuple[float, float]:
    """Return the tolerances as two numbers, and raise an error for an argument that is invalid or unsupported."""
    if event_fn is not None:
        raise ValueError(
            "event_fn is unsupported, because the end time is known only after everything before it is solved: pass "
            "None, or call torchdiffeq.odeint"
        )
    optional_share("spot_check", spot_check)
    return check_tolerances(rtol, atol)
