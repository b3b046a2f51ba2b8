"""The public calls `solve` and `refine`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from parareal._api.sequential import sequential
from parareal._checks import check_boundaries, no_unknown, whole_number
from parareal._criteria import AbstractCriterion
from parareal._execution.executors import AbstractExecutor
from parareal._iteration.messages import Kind
from parareal._planning.cost import Cost
from parareal._planning.divide import check_slices, divided_by_plan, divided_evenly
from parareal._problem.levels import divided, nested
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator
from parareal._results.outcome import Outcome, PararealError
from parareal._results.solution import Refinement, Solution
from parareal._run.loop import Options, Run
from parareal._run.progress import bar
from parareal._state import State

NOTE = "Solved step by step, in one slice, for in parallel it would not be faster here (slices='auto')."


def solve(
    fine: Propagator,
    coarse: Propagator,
    initial: State,
    boundaries: Any,
    *,
    batch_dims: int = 0,
    guess: Any = None,
    criterion: AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    executor: AbstractExecutor | Executor | None = None,
    window: int | None = None,
    eager: int | None = None,
    slices: int | str | None = None,
    cost: Cost | None = None,
    levels: Sequence[int] | None = None,
    callback: Callable[[Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    **unknown: Any,
) -> Solution:
    """Solve an initial value problem in parallel in time (Parareal; docs/theory.md, eq. 1).

    The result converges to what `sequential` returns, slice by slice `fine`, whatever `coarse` is.

    Args:
        fine: defines the answer. A function `f(state, t0, t1)` that maps a state across one slice; the same,
            marked `vectorized`; `Steps(stepper)`; or `Parareal(...)`. It must be deterministic and must not change its
            input. Plain functions are called one after the other; only the other forms are batched. In work and span a
            function counts 1 a call, or what its attribute `cost` or a returned `Costed` says. If it takes
            `iteration`, it may answer roughly when given a number, but not when given None (docs/executors.md).
        coarse: decides how fast the answer is reached; of any of these forms, and cheap.
        initial: the state at the first boundary: a Python number, a NumPy array, a torch tensor, or a pytree of them.
        boundaries: strictly monotone numbers, rising or falling, evenly spaced or not; two or more, and with
            `slices` just the two ends. A function is given two neighbours of them, unchanged. For `Steps` they are
            integer nodes.
        batch_dims: 0 for one sample; 1 where the leading axis of every array counts samples. Each sample then
            converges and retires alone, and functions are given the state of one sample.
        guess: states at all boundaries, stacked as in `Solution.states` or a sequence, to start from instead of
            the coarse sketch.
        criterion: when to stop; `Increment()` by default. To run to the end: `Iterations(number of slices)`.
        max_iterations: give up after so many iterations; by default never before the result is exact. With a window,
            iteration numbers run on from slice to slice, so leave it out.
        schedule: `"pipelined"` starts every propagation as soon as its input is known, `"synchronous"` waits for
            the end of each iteration. The iterates are the same.
        executor: `BatchedExecutor()` by default; `SerialExecutor()`; or any `concurrent.futures.Executor`, to which the
            fine propagations of a plain function are submitted as they become ready. Coarse ones run in this thread.
        window: let only so many slices, counted from the first that is not final, be under way; a slice that is let in
            starts from the newest state at its left boundary. Bounds work ahead of the front and states under way.
        eager: from this iteration on, fine propagations wait until it is known that the iteration's final state is not
            good enough; None for no waiting. Where that is the last iteration it spares work in vain, and else it costs
            the time of a coarse sweep, and the evaluations that F would have shared with G. It changes no iterate.
        slices: how many, in place of boundaries between the two ends, which `boundaries` then is. They are of equal
            length, for `Steps` up to whole nodes. `"auto"` takes as many as are predicted to be fastest by `cost`, and,
            unless you give it, `eager`; where slices would not pay it solves step by step, in one slice, with no coarse
            propagation, as `sequential`, and says so in `Solution.message`: the callback is then called once, with the
            final state, and what `fine` raises is passed on. With it a function's answer must not depend on where
            slices begin; they begin at whole steps.
        cost: a `Cost`, for `slices="auto"`. A plan is made once in a process.
        levels: slices of nested levels, outermost first, as in `(12, 9)`; `boundaries` are then those of the outermost
            level, or its two ends only. See `Parareal`.
        callback: called with a `Refinement` after every iteration; returning False cancels.
        progress: show a bar with the iteration, the worst increment and the boundaries left.
        throw: raise `PararealError`, which carries the solution, if the solve was cancelled, ran out of
            iterations, met a state that is not finite or a propagator's exception; otherwise return it.

    Raises:
        ValueError, TypeError: before any work, for bad input; at the first result, for a propagator that does not
            keep structure, shape and dtype of its input.
        PararealError: as described under `throw`.
    """
    no_unknown(solve, unknown)
    options = Options(guess, criterion, max_iterations, schedule, executor, window, eager)
    run, pays = _prepared(fine, coarse, initial, boundaries, batch_dims, levels, slices, cost, options)
    if not pays:
        solution = _in_one_slice(run, fine, initial, executor, throw)
        if callback is not None:
            callback(_only(solution))
        return solution
    with bar(run, progress):
        for iteration in run.iterations():
            if callback is not None and callback(run.refinement(iteration)) is False:
                run.cancelled = True
    solution = run.solution()
    if throw and solution.outcome.failed:
        raise PararealError(solution.message, solution) from run.error
    return solution


def refine(
    fine: Propagator,
    coarse: Propagator,
    initial: State,
    boundaries: Any,
    *,
    batch_dims: int = 0,
    guess: Any = None,
    criterion: AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    executor: AbstractExecutor | Executor | None = None,
    window: int | None = None,
    eager: int | None = None,
    slices: int | str | None = None,
    cost: Cost | None = None,
    levels: Sequence[int] | None = None,
    **unknown: Any,
) -> Iterator[Refinement]:
    """Yield the coarse sketch and then one iterate after the other; each is usable. Arguments as for `solve`.

    Work is done between two items only: stop asking and it stops. Raises `PararealError` where a state stops being
    finite or a propagator raises an error; running into `max_iterations` just ends the iterator. Where `slices="auto"`
    goes step by step there is one item, the sequential solution.
    """
    no_unknown(refine, unknown)
    options = Options(guess, criterion, max_iterations, schedule, executor, window, eager)
    run, pays = _prepared(fine, coarse, initial, boundaries, batch_dims, levels, slices, cost, options)
    if pays:
        return _refinements(run)
    return (_only(_in_one_slice(run, fine, initial, executor, True)) for _ in range(1))


def _prepared(
    fine: Propagator,
    coarse: Propagator,
    initial: State,
    boundaries: Any,
    batch_dims: int,
    levels: Sequence[int] | None,
    slices: int | str | None,
    cost: Cost | None,
    options: Options,
) -> tuple[Run, bool]:
    """Return the run, and whether it pays."""
    check_slices(slices, cost, levels, options.guess, len(check_boundaries(boundaries)))
    problem, pays = _problem(fine, coarse, initial, boundaries, batch_dims, levels), True
    if cost is not None:
        Run(problem, options).runner.close()  # looks at the options, before a plan is made
        problem, options, pays = divided_by_plan(problem, cost, options)
    elif slices is not None:
        problem = divided_evenly(problem, whole_number("slices", slices, 1))
    return Run(problem, options), pays


def _in_one_slice(
    run: Run, fine: Propagator, initial: State, executor: AbstractExecutor | Executor | None, throw: bool
) -> Solution:
    """Solve sequentially what would have been run, which has checked the options, in one slice."""
    run.runner.close()
    problem = run.problem
    solution = sequential(
        fine, initial, problem.boundaries, batch_dims=problem.batch_dims, executor=executor, throw=throw
    )
    return replace(solution, message=f"{solution.message} {NOTE}")


def _only(solution: Solution) -> Refinement:
    return Refinement(0, solution.final_state, solution.states, solution.increments[0], solution.error_estimate)


def _problem(
    fine: Propagator, coarse: Propagator, initial: State, boundaries: Any, batch_dims: int, levels: Sequence[int] | None
) -> Problem:
    problem = Problem.checked({Kind.FINE: fine, Kind.COARSE: coarse}, initial, boundaries, batch_dims)
    if levels is None:
        return problem
    times = divided(fine, coarse, problem.boundaries, levels)
    return replace(
        problem, propagators={Kind.FINE: nested(fine, coarse, levels), Kind.COARSE: coarse}, boundaries=times
    )


def _refinements(run: Run) -> Iterator[Refinement]:
    for iteration in run.iterations():
        yield run.refinement(iteration)
    solution = run.solution()
    if solution.outcome in (Outcome.NON_FINITE, Outcome.WORKER_LOST):
        raise PararealError(solution.message, solution) from run.error
