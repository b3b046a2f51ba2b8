"""`solve` and `refine`: one call for the solution, one for all iterates."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from typing import Any

from parareal._checks import resolve_renamed
from parareal._corrections.correction import AbstractCorrection
from parareal._criteria import AbstractCriterion
from parareal._execution.executors import AbstractExecutor
from parareal._problem.boundaries import Boundaries
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator
from parareal._results.solution import Outcome, PararealError, Refinement, Solution
from parareal._run.callback import check_callback, requests_cancellation
from parareal._run.loop import Run
from parareal._run.options import Options
from parareal._run.progress import show_bar
from parareal._state import Stack, State


def solve(
    fine: Propagator,
    coarse: Propagator | None,
    initial: State,
    boundaries: Boundaries,
    *,
    correction: AbstractCorrection | None = None,
    slices: int | None = None,
    batch_dims: int = 0,
    guess: Stack | Sequence[State] | None = None,
    criterion: AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    executor: AbstractExecutor | Executor | None = None,
    window: int | None = None,
    levels: Sequence[int] | None = None,
    speculate_until: int | None = None,
    spot_check: float | None = None,
    callback: Callable[[Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    eager: int | None = None,
) -> Solution:
    """Solve an initial value problem in parallel in time by the Parareal iteration.

    Iteration k = 0 is a sweep of the coarse propagator G. Iteration k >= 1 computes, with the fine propagator F,

        U(k, n+1) = F(U(k-1, n)) + G(U(k, n)) - G(U(k-1, n))

    at every boundary n (Lions, Maday and Turinici 2001; docs/explained/theory.md, eq. 1). The iterates converge to the
    result of `sequential`, which applies `fine` slice by slice. `coarse` affects the number of iterations, not the
    answer.

    Args:
        fine: the propagator that defines the answer, in one of four forms: a function `f(state, t0, t1)` that returns
            the state at t1; the same function marked by `vectorized`; `Steps(stepper)`; or a `Parareal`, which nests.
            It must be deterministic and must not change its input (`check` tests both). Plain functions are called one
            after another, with the state of one sample; the other forms are batched. In work and span, a function
            counts 1 per call, or the cost given by its attribute `cost` or by a returned `Costed`. A plain function
            with a parameter `iteration` receives the iteration number there and may then return a cheaper approximate
            result; for `iteration=None` it must be accurate (docs/how-to/pools.md).
        coarse: a cheap propagator in any of these forms. None for a correction that uses none; the prediction is then
            `guess`, or `initial` at every boundary.
        initial: the state at the first boundary: a Python number, a NumPy array, a torch tensor, or a pytree of them.
            Results keep its library, dtype, device and structure, except that Python integers become floats. Half
            precision is refused.
        boundaries: the times t_0 .. t_M that bound the M slices, in the time unit of the propagators: two or more
            finite numbers, strictly rising or falling, evenly spaced or not. With `slices`, only the two ends.
            Functions receive two adjacent ones, unchanged. For `Steps` they are integer nodes.
        correction: the operator C that replaces G in the formula above: `CoarseDifference()`, the default, is Parareal;
            `Identity()` is Picard iteration, `Zero()` is Jacobi iteration; or your own `AbstractCorrection`.
        slices: number of slices M into which the interval between two `boundaries` is divided, of equal length (for
            `Steps`, up to rounding to nodes). None if `boundaries` holds all of them.
        batch_dims: 0 if the state is that of one sample; 1 if the leading axis of every array counts samples. Samples
            converge and retire independently, and plain functions are called without the sample axis.
        guess: states at all M + 1 boundaries to start from, in place of the coarse prediction: stacked on a leading
            axis as in `Solution.states`, or a sequence of states.
        criterion: decides when to stop. Default `Increment()`. `Tolerance(rtol)` stops by the estimated error of the
            final state; `Iterations(M)` runs to the end, which gives the sequential solution.
        max_iterations: the largest number of iterations. By default the solve may go on until it is exact, which takes
            at most M iterations, or more with a `window` or an approximate `fine`. Leave it out with a `window`, where
            later slices begin in later iterations.
        schedule: `"pipelined"` starts each propagation as soon as its input is known; `"synchronous"` starts an
            iteration when the previous one has ended. The iterates are the same.
        executor: where propagations run: `BatchedExecutor()`, the default; `SerialExecutor()`; or any
            `concurrent.futures.Executor`, to which the fine propagations of a plain function are submitted, while the
            coarse ones run in the calling thread.
        window: the largest number of slices under way at a time, counted from the first slice that is not final; None
            for no bound. A slice that the window admits starts from the newest state at its left boundary. A window
            bounds memory and wasted work.
        levels: numbers of slices of nested levels, outermost first, as in `(12, 9)`. `boundaries` are then those of the
            outermost level, or its two ends. See `Parareal`.
        speculate_until: from this iteration on, do not speculate: start fine propagations only after the final state
            has been rejected. None to speculate always. Saves wasted work if that iteration is the last; otherwise
            adds the latency of one coarse sweep, and F no longer shares its first evaluations with G. The iterates are
            the same.
        spot_check: share of the slices, above 0 and at most 1, on which F runs once more after the stop, on states that
            the criterion accepted; at least one slice per sample that is not exact. None or 0 for none. The defects
            are in `Solution.spot_check`; one that contradicts the criterion changes the outcome to `CONTRADICTED`
            (`SpotCheck` gives the rule). Adds one F to the span, or that of a whole slice with nested levels.
        callback: function called with a `Refinement` after the prediction and after every iteration. If it returns
            False, or any value other than None that Python takes for false, the solve is cancelled.
        progress: whether to show a progress bar with the iteration, the largest increment, and the number of boundaries
            that are not final.
        throw: whether to raise `PararealError` if the solve fails: if it was cancelled or reached `max_iterations`, if
            F is not finite from a final state, if its spot check contradicts the criterion, or if a propagator raised
            an exception. If False, the solution is returned, and `Solution.outcome` tells what happened.
        eager: deprecated name of `speculate_until`.

    Returns:
        A `Solution` with the final state, the states at all boundaries, the outcome, and the cost.

    Raises:
        ValueError, TypeError: for invalid arguments, before any work; and for a propagator whose result differs from
            its input in structure, shape, dtype or device, at its first result; and for a `callback` that returns a
            value without truth value, such as an array of several numbers.
        PararealError: for a failed solve, unless `throw` is False. Its attribute `solution` holds all that was
            computed; its cause is the exception of a propagator, if there was one.

    Examples:
        >>> import parareal
        >>> def euler(u, t0, t1, steps):
        ...     for _ in range(steps):
        ...         u = u - (t1 - t0) / steps * u
        ...     return u
        >>> def fine(u, t0, t1):
        ...     return euler(u, t0, t1, 100)
        >>> def coarse(u, t0, t1):
        ...     return euler(u, t0, t1, 1)
        >>> solution = parareal.solve(fine, coarse, 1.0, (0.0, 2.0), slices=8)
        >>> round(solution.final_state, 4), solution.iterations
        (0.135, 6)
    """
    check_callback(callback)
    problem = Problem.create(
        fine, coarse, initial, boundaries, batch_dims, slices=slices, levels=levels, correction=correction
    )
    run = Run(
        problem,
        Options(
            guess=guess,
            criterion=criterion,
            max_iterations=max_iterations,
            schedule=schedule,
            executor=executor,
            window=window,
            speculate_until=resolve_renamed("eager", eager, "speculate_until", speculate_until),
            spot_check=spot_check,
        ),
    )
    # `run` carries requests between the algorithm (`_iteration`) and the queues (`_execution`); see `_run/loop.py`.
    with show_bar(run, progress), closing(run.iterations()) as iterations:
        for iteration in iterations:
            if callback is not None and requests_cancellation(callback(run.refinement(iteration))):
                run.cancelled = True  # instead of `break`, so that the run itself ends and takes its wall time
    solution = run.solution()  # after `closing`, which takes back what a pool has not begun
    if throw and solution.outcome.failed:
        raise PararealError(solution.message, solution) from run.error
    return solution


def refine(
    fine: Propagator,
    coarse: Propagator | None,
    initial: State,
    boundaries: Boundaries,
    *,
    correction: AbstractCorrection | None = None,
    slices: int | None = None,
    batch_dims: int = 0,
    guess: Stack | Sequence[State] | None = None,
    criterion: AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    executor: AbstractExecutor | Executor | None = None,
    window: int | None = None,
    levels: Sequence[int] | None = None,
    speculate_until: int | None = None,
    spot_check: float | None = None,
    eager: int | None = None,
) -> Iterator[Refinement]:
    """Solve as `solve` does, and yield every iterate: the coarse prediction first, then one per iteration.

    Each `Refinement` is usable at once. The work of an iteration is done when the next item is requested, so to stop
    early, stop iterating. Arguments are checked when `refine` is called.

    Args:
        fine: the propagator that defines the answer. This and all other arguments are described under `solve`.
        coarse: a cheap propagator, or None.
        initial: the state at the first boundary.
        boundaries: the times that bound the slices, or two ends.
        correction: by default `CoarseDifference()`.
        slices: number of slices between two ends.
        batch_dims: 0 for one sample, 1 if the leading axis of every array counts samples.
        guess: states at all boundaries, in place of the coarse prediction.
        criterion: by default `Increment()`.
        max_iterations: the largest number of iterations; None to go on until the criterion stops.
        schedule: `"pipelined"` or `"synchronous"`.
        executor: by default `BatchedExecutor()`.
        window: the largest number of slices under way at a time; None for no bound.
        levels: numbers of slices of nested levels, outermost first.
        speculate_until: iteration from which no fine propagation starts before the final state has been rejected.
        spot_check: share of the slices on which F runs once more after the last iterate.
        eager: deprecated name of `speculate_until`.

    Yields:
        The newest iterate, with its iteration number and estimated error.

    Raises:
        ValueError, TypeError: as `solve`.
        PararealError: if F is not finite from a final state, a propagator raises an exception, or the spot check
            contradicts the criterion. Reaching `max_iterations` ends the iterator without an error.

    Examples:
        `for refinement in parareal.refine(fine, coarse, u, times): show(refinement.final_state)`
    """
    problem = Problem.create(
        fine, coarse, initial, boundaries, batch_dims, slices=slices, levels=levels, correction=correction
    )
    run = Run(
        problem,
        Options(
            guess=guess,
            criterion=criterion,
            max_iterations=max_iterations,
            schedule=schedule,
            executor=executor,
            window=window,
            speculate_until=resolve_renamed("eager", eager, "speculate_until", speculate_until),
            spot_check=spot_check,
        ),
    )
    # a generator of its own: a `yield` in `refine` itself would put off the checks above until the first item
    return _iterate(run)


def _iterate(run: Run) -> Iterator[Refinement]:
    """Yield the iterates of a run, and raise at its end if it failed."""
    for iteration in run.iterations():
        yield run.refinement(iteration)
    solution = run.solution()
    # the caller has every iterate and decides which one to use, so reaching the iteration limit is no failure here
    if solution.outcome in (Outcome.CONTRADICTED, Outcome.NON_FINITE, Outcome.WORKER_LOST):
        raise PararealError(solution.message, solution) from run.error
