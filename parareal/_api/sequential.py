"""The reference: the fine propagator, slice by slice."""

import time
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch

from parareal._corrections.elementary import Zero
from parareal._execution.choose import runner_for
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
    """Apply `fine` slice by slice: the answer that `solve` converges to, with its cost.

    Arguments as for `solve`. Raises `PararealError` if the final state is not finite, unless `throw` is False.
    """
    given = Problem.checked(fine, None, initial, boundaries, batch_dims, correction=Zero())
    fine, times, at = unroll(fine, given.boundaries)
    problem = replace(given, fine=fine, boundaries=times)
    runner = runner_for(problem, executor)
    history = History(given.slices + 1, len(problem.samples))
    paths = [[Value(0, state, exact=True)] for state in problem.samples]
    began = time.perf_counter()
    with closing(runner), torch.no_grad():
        for n in range(problem.slices):
            ends = problem.boundaries[n], problem.boundaries[n + 1]
            runner.add(
                [Request(i, n, 0, Kind.FINE, path[-1], *ends, full_accuracy=True) for i, path in enumerate(paths)]
            )
            while any(len(path) < n + 2 for path in paths):
                results = runner.tick()
                history.propagated(results, began)
                for request, result, _ in results:
                    depth = request.value.depth + result.cost
                    paths[request.sample].append(Value(0, result.state, result.memory, exact=True, depth=depth))
    wall_time = time.perf_counter() - began

    span, tally = max(path[-1].depth for path in paths), runner.tally
    outcome = Outcome.EXACT if all(finite(path[-1].state) for path in paths) else Outcome.NON_FINITE
    increments, defects = history.tables(0)
    solution = Solution(
        final_state=problem.join([path[-1].state for path in paths]),
        states=problem.stack([[path[i].state for i in at] for path in paths]),
        boundaries=given.boundaries,
        outcome=outcome,
        message=outcome.value,
        iterations=0,
        slice_iterations=np.zeros((given.slices, len(paths)), dtype=np.int64),
        increments=increments,
        defects=defects,
        error_estimate=np.zeros(len(paths)),
        stats=Stats(tally.work, span, tally.calls, tally.peak_batch, wall_time, tally.work, span),
        propagations=history.propagations,
    )
    if throw and outcome.failed:
        raise PararealError("the sequential solution's final state is not finite", solution)
    return solution
