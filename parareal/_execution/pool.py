"""Plain functions in the threads or processes of a `concurrent.futures.Executor`."""

import os
import pickle
import time
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch

from parareal._execution.evaluations import Tally
from parareal._execution.executors import AbstractExecutor
from parareal._execution.functions import CallingConvention, FunctionQueue
from parareal._execution.queue import Queue, RequestHeap
from parareal._execution.steppers import StepperQueue
from parareal._iteration.messages import Delivery, Kind, PropagatorFailure, Request
from parareal._problem.levels import Level, list_leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import Costed, Function, Propagator, Steps, Vectorized
from parareal._state import Layout


@final
@dataclass(frozen=True)
class PoolExecutor(AbstractExecutor):
    """Fine propagations of plain functions in a pool, everything else in this thread.

    A coarse propagation is short, and all slices to its right wait for it. In the pool it would queue behind long
    fine propagations, and in another process its state would have to travel there and back.
    """

    pool: Executor

    def check(self, problem: Problem) -> None:
        """Raise `TypeError` if the fine propagator is batched in one thread, or cannot be sent to a process."""
        fine = list_leaves(problem.fine)[0]
        if isinstance(fine, Steps | Vectorized):
            raise TypeError(
                f"a {type(self.pool).__name__} runs plain functions, but fine is "
                f"{'steppable' if isinstance(fine, Steps) else 'vectorized'} and runs in batches: "
                "leave executor out, or use BatchedExecutor"
            )
        if isinstance(self.pool, ProcessPoolExecutor):
            check_pickles("fine", fine)
            # the coarse propagator runs here, unless it is nested: then its own fine propagator runs in the pool
            if isinstance(problem.coarse, Level):
                check_pickles("coarse", list_leaves(problem.coarse)[0])

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue in the pool for a fine plain function, and a queue in this thread for any other function."""
        if kind is Kind.FINE and not isinstance(function, Vectorized):
            return PoolQueue(kind, function, layout, tally, self.pool)
        return FunctionQueue(kind, function, layout, None, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that stacks all ready rows."""
        return StepperQueue(layout, None, tally)


def _call_without_gradients(function: Function, *arguments: Any, **options: Any) -> Any:
    """Call a function without gradients. A worker needs its own `no_grad`: torch keeps that switch per thread."""
    with torch.no_grad():
        return function(*arguments, **options)


def check_pickles(name: str, function: Propagator) -> None:
    """Raise `TypeError` if a function cannot be sent to another process."""
    try:
        pickle.dumps(function)
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TypeError(_pickling_message(name, error)) from error


def _pickling_message(name: str, error: BaseException) -> str:
    return (
        f"the {name} propagator, its state or its result cannot be sent to another process ({error}): define the "
        "function at the top of a module, and keep locks, open files and lambdas out of it; or use a "
        "ThreadPoolExecutor, or loky's executor, which pickles more"
    )


@final
class PoolQueue(Queue):
    """The propagations by one function in a pool: by priority, at most one per worker at a time.

    Submitting no more than that keeps the choice of the next propagation here, where the priorities are known and
    cancelled requests are dropped.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout, tally: Tally, pool: Executor):
        self.kind, self.function, self.tally, self.pool = kind, function, tally, pool
        self.convention = CallingConvention(kind, function, layout)
        # `concurrent.futures` has no public attribute for it; pools of other libraries may have none at all
        self.workers = getattr(pool, "_max_workers", None) or os.cpu_count() or 1
        self.waiting = RequestHeap()
        self.running: dict[Future[Any], tuple[Request, float]] = {}

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests, and submit those for which a worker is free.

        Workers then start before this thread goes on to coarse propagations.
        """
        self.waiting.add(requests)
        with suppress(PropagatorFailure):  # a failure in submitting recurs in `tick`, which raises it
            self._submit()

    def close(self) -> None:
        """Cancel submitted propagations that have not begun."""
        self.waiting.clear()
        for future in self.running:
            if not future.cancel():  # it runs on: its result is not needed any more, but its work is done
                self.tally.call(1, self.convention.cost)
        self.running = {}

    @property
    def idle(self) -> bool:
        """Whether no request waits and none runs."""
        return not (self.waiting or self.running)

    def tick(self) -> list[Delivery]:
        """Submit requests for which a worker is free, and wait for the first that ends."""
        # First cancel what has not begun, so that its workers are free for the requests that are submitted next.
        for future in [f for f, (request, _) in self.running.items() if request.cancelled and f.cancel()]:
            del self.running[future]
        self._submit()
        if not self.running:
            return []
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        results = []
        # `done` is a set: sorted, so that results that end together are delivered in the same order in every run
        for future in sorted(done, key=lambda f: self.running[f][0].priority):
            request, start_time = self.running.pop(future)
            if request.cancelled:
                # The solve that requested it has ended. Its cost counts, but an exception that it raised must not end
                # the solves of other samples.
                return_value = future.result() if future.exception() is None else None
                self.tally.call(
                    1, float(return_value.cost) if isinstance(return_value, Costed) else self.convention.cost
                )
                continue
            result = self.convention.result(request, self._get_return_value(future))
            self.tally.call(1, result.cost)
            results.append(Delivery(request, result, start_time))
        return results

    def _submit(self) -> None:
        """Submit requests until every worker has one."""
        while len(self.running) < self.workers and (requests := self.waiting.take(1)):
            (request,) = requests
            arguments, options = self.convention.arguments(request)
            try:
                future = self.pool.submit(_call_without_gradients, self.function, *arguments, **options)
            except Exception as error:  # a pool that is broken or was shut down
                # put back, so that the queue is not idle and `tick` meets the error again
                self.waiting.add(requests)
                raise PropagatorFailure(error) from error
            # A future does not report its start. The time of submission stands in for it: a worker is free, so the
            # propagation begins at once.
            self.running[future] = (request, time.perf_counter())

    def _get_return_value(self, future: Future[Any]) -> Any:
        """Return the value that the function returned, or raise its exception."""
        try:
            return future.result()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            # The executor pickles in another thread and stores the error in the future. The error's type depends on
            # the object. The function itself may raise the same types, so only the text tells the two cases apart.
            if "pickle" in str(error) or isinstance(error, pickle.PicklingError):
                raise TypeError(_pickling_message(self.kind.value, error)) from error
            raise
