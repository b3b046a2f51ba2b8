"""The public calls `solve` and `refine`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from typing import Any

from parareal._checks import renamed
from parareal._corrections.correction import AbstractCorrection
from parareal._criteria import AbstractCriterion
from parareal._execution.executors import AbstractExecutor
from parareal._problem.boundaries import Boundaries
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator
from parareal._results.solution import Outcome, PararealError, Refinement, Solution
from parareal._run.loop import Run
from parareal._run.options import Options
from parareal._run.progress import bar
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
    callback: Callable[[Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    eager: int | None = None,
) -> Solution:
    """Solve an initial value problem in parallel in time (Parareal; docs/explained/theory.md, eq. 1).

    The result converges to what `sequential` returns, slice by slice `fine`, whatever `coarse` is.

    Args:
        fine: defines the answer. A function `f(state, t0, t1)` that maps a state across one slice; the same,
            marked `vectorized`; `Steps(stepper)`; or `Parareal(...)`. It must be deterministic and must not change its
            input. Plain functions are called one after the other; only the other forms are batched. In work and span a
            function counts 1 per call, or what its attribute `cost` or a returned `Costed` says. If it takes
            `iteration`, it may answer approximately when given a number, but not when given None (docs/how-to/pools.md).
        coarse: decides how fast the answer is reached; of any of these forms, and cheap. None for a correction that
            uses none: the prediction is then `guess`, or `initial` at every boundary.
        initial: the state at the first boundary: a Python number, a NumPy array, a torch tensor, or a pytree of them.
        boundaries: strictly monotone numbers, rising or falling, evenly spaced or not; two or more, and with
            `slices` just the two ends. A function is given two neighbours of them, unchanged. For `Steps` they are
            integer nodes.
        correction: C in U(k, n+1) = F(k-1, n) + C(U(k, n)) - C(U(k-1, n)): `CoarseDifference()` by default, which is
            Parareal; `Identity()` (Picard), `Zero()` (Jacobi), or an `AbstractCorrection` of your own.
        slices: how many, in place of boundaries between the two ends, which `boundaries` then is. They are of equal
            length, for `Steps` up to whole nodes.
        batch_dims: 0 for one sample; 1 where the leading axis of every array counts samples. Each sample then
            converges and retires alone, and functions are given the state of one sample.
        guess: states at all boundaries, stacked as in `Solution.states` or a sequence, to start from instead of
            the coarse prediction.
        criterion: when to stop; `Increment()` by default. To run to the end: `Iterations(number of slices)`.
        max_iterations: the largest number of iterations; by default never less than it takes to be exact. With a
            window, iteration numbers run on from slice to slice, so leave it out.
        schedule: `"pipelined"` starts every propagation as soon as its input is known, `"synchronous"` waits for
            the end of each iteration. The iterates are the same.
        executor: `BatchedExecutor()` by default; `SerialExecutor()`; or any `concurrent.futures.Executor`, to which the
            fine propagations of a plain function are submitted as they become ready. Coarse ones run in this thread.
        window: let only this many slices, counted from the first that is not final, be under way; a slice that is
            admitted starts from the newest state at its left boundary. Bounds work ahead and states under way.
        levels: slices of nested levels, outermost first, as in `(12, 9)`; `boundaries` are then those of the outermost
            level, or its two ends only. See `Parareal`.
        speculate_until: from this iteration on, do not speculate: start fine propagations only after the final state
            has been rejected; None to speculate always. Saves wasted work if that iteration is the last; otherwise
            adds one coarse sweep of latency, and the evaluations that F would have shared with G. No iterate changes.
        callback: called with a `Refinement` after every iteration; returning False cancels.
        progress: show a bar with the iteration, the worst increment and the boundaries left.
        throw: raise `PararealError`, which carries the solution, if the solve was cancelled, ran out of
            iterations, met a state that is not finite or a propagator's exception; otherwise return it.
        eager: the old name of `speculate_until`, accepted with a warning for one release.

    Raises:
        ValueError, TypeError: before any work, for bad input; at the first result, for a propagator that does not
            keep structure, shape and dtype of its input.
        PararealError: as described under `throw`.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Refinement, or None, not {type(callback).__name__}")
    problem = Problem.checked(
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
            speculate_until=renamed("eager", eager, "speculate_until", speculate_until),
        ),
    )
    with bar(run, progress), closing(run.iterations()) as iterations:
        for iteration in iterations:
            if callback is not None and callback(run.refinement(iteration)) is False:
                run.cancelled = True
    solution = run.solution()
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
    eager: int | None = None,
) -> Iterator[Refinement]:
    """Yield the coarse prediction and then one iterate after the other; each is usable. Arguments as for `solve`.

    Work is done between two items only: stop asking and it stops. Raises `PararealError` where a state stops being
    finite or a propagator raises an error; running into `max_iterations` just ends the iterator.
    """
    problem = Problem.checked(
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
            speculate_until=renamed("eager", eager, "speculate_until", speculate_until),
        ),
    )
    return _refinements(run)


def _refinements(run: Run) -> Iterator[Refinement]:
    for iteration in run.iterations():
        yield run.refinement(iteration)
    solution = run.solution()
    if solution.outcome in (Outcome.NON_FINITE, Outcome.WORKER_LOST):
        raise PararealError(solution.message, solution) from run.error
