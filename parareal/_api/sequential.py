"""`sequential`: the reference solution, by the fine propagator alone."""

import time
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from parareal._corrections.elementary import Zero
from parareal._execution.choose import build_runner
from parareal._execution.executors import AbstractExecutor
from parareal._iteration.messages import Kind, Request, Value
from parareal._problem.boundaries import Boundaries
from parareal._problem.levels import unroll
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator
from parareal._results.history import History
from parareal._results.solution import Outcome, PararealError, Solution, Stats
from parareal._state import State, finite


def sequential(
    fine: Propagator,
    initial: State,
    boundaries: Boundaries,
    *,
    batch_dims: int = 0,
    executor: AbstractExecutor | Executor | None = None,
    throw: bool = True,
) -> Solution:
    """Solve sequentially: apply `fine` slice by slice, and return the answer that `solve` converges to.

    This is the reference for errors, work and speed. Of nested levels, the innermost fine propagator is applied to all
    inner slices in turn.

    Args:
        fine: the propagator, as for `solve`.
        initial: the state at the first boundary, as for `solve`.
        boundaries: the times that bound the slices, as for `solve`.
        batch_dims: 0 for the state of one sample, 1 if the leading axis of every array counts samples.
        executor: where propagations run, as for `solve`.
        throw: whether to raise `PararealError` if the final state is not finite; otherwise the solution is returned.

    Returns:
        A `Solution` with `iterations` 0 and outcome `EXACT`, or `NON_FINITE`.

    Raises:
        ValueError, TypeError: for invalid arguments, and for results that differ in structure, shape or dtype from the
            state.
        PararealError: if the final state is not finite, unless `throw` is False.
        Exception: an exception raised by `fine`, unchanged.

    Examples:
        `reference = parareal.sequential(fine, u, times).final_state`
    """
    # without a coarse propagator: `Zero` is the correction that needs no G and no earlier states
    outer = Problem.create(fine, None, initial, boundaries, batch_dims, correction=Zero())
    # With nested levels, `times` holds the innermost boundaries and `indices` the positions of the outer ones in it.
    fine, times, indices = unroll(fine, outer.boundaries)
    problem = replace(outer, fine=fine, boundaries=times)
    runner = build_runner(problem, executor)
    history = History(outer.slices + 1, len(problem.samples))
    paths = [[Value(0, state, exact=True)] for state in problem.samples]
    start_time = time.perf_counter()
    with closing(runner), torch.no_grad():
        for n in range(problem.slices):
            ends = problem.boundaries[n], problem.boundaries[n + 1]
            # All samples cross a slice together, so a batching executor runs them in one call per step. Full accuracy
            # is required because a variable-accuracy `fine` must give the answer itself here.
            runner.add(
                [Request(i, n, 0, Kind.FINE, path[-1], *ends, full_accuracy=True) for i, path in enumerate(paths)]
            )
            # a pool delivers the results of the samples one after another
            while any(len(path) < n + 2 for path in paths):
                results = runner.tick()
                history.record_propagations(results, start_time)
                for request, result, _ in results:
                    depth = request.value.depth + result.cost
                    paths[request.sample].append(Value(0, result.state, result.memory, exact=True, depth=depth))
    wall_time = time.perf_counter() - start_time

    span, tally = max(path[-1].depth for path in paths), runner.tally
    outcome = Outcome.EXACT if all(finite(path[-1].state) for path in paths) else Outcome.NON_FINITE
    increments, defects = history.tables(0)
    solution = Solution(
        final_state=problem.join([path[-1].state for path in paths]),
        states=problem.stack([[path[i].state for i in indices] for path in paths]),
        boundaries=outer.boundaries,
        outcome=outcome,
        message=outcome.value,
        iterations=0,
        slice_iterations=np.zeros((outer.slices, len(paths)), dtype=np.int64),
        increments=increments,
        defects=defects,
        error_estimate=np.zeros(len(paths)),
        stats=Stats(tally.work, span, tally.calls, tally.peak_batch, wall_time, tally.work, span),
        propagations=history.propagations,
    )
    if throw and outcome.failed:
        raise PararealError(
            "the sequential solution's final state is not finite: take smaller fine steps, or check fine for NaN",
            solution,
        )
    return solution
