"""The public calls `solve` and `refine`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from parareal._checks import no_unknown
from parareal._criteria import AbstractCriterion
from parareal._executors import AbstractExecutor
from parareal._outcome import Outcome, PararealError
from parareal._parareal import divided, nested
from parareal._problem import Problem
from parareal._progress import bar
from parareal._propagators import Propagator
from parareal._run import Options, Run
from parareal._solution import Refinement, Solution
from parareal._state import State
from parareal._values import Kind


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
        boundaries: strictly monotone numbers, rising or falling, evenly spaced or not; two or more. A function is
            given two neighbours of them, unchanged. For `Steps` they are integer nodes.
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
    problem = _problem(fine, coarse, initial, boundaries, batch_dims, levels)
    run = Run(problem, Options(guess, criterion, max_iterations, schedule, executor, window, eager))
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
    levels: Sequence[int] | None = None,
    **unknown: Any,
) -> Iterator[Refinement]:
    """Yield the coarse sketch and then one iterate after the other; each is usable. Arguments as for `solve`.

    Work is done between two items only: stop asking and it stops. Raises `PararealError` where a state stops being
    finite or a propagator raises an error; running into `max_iterations` just ends the iterator.
    """
    no_unknown(refine, unknown)
    problem = _problem(fine, coarse, initial, boundaries, batch_dims, levels)
    run = Run(problem, Options(guess, criterion, max_iterations, schedule, executor, window, eager))
    return _refinements(run)


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
