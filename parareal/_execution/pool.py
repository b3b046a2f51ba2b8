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
from parareal._execution.queue import ByPriority, Queue
from parareal._execution.steppers import StepperQueue
from parareal._iteration.messages import Delivery, Kind, PropagatorFailure, Request
from parareal._problem.levels import Level, leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import Costed, Function, Propagator, Steps, Vectorized
from parareal._state import Layout


@final
@dataclass(frozen=True)
class PoolExecutor(AbstractExecutor):
    """Fine propagations of plain functions in a pool, everything else in this thread.

    A coarse propagation is short, and all slices to its right wait for it: in the pool it would queue behind long
    fine ones, and in another process it would pay for the journey.
    """

    pool: Executor

    def check(self, problem: Problem) -> None:
        """Raise `TypeError` for a fine propagator that is made to be batched, or cannot be sent to a process."""
        fine = leaves(problem.fine)[0]
        if isinstance(fine, Steps | Vectorized):
            raise TypeError(
                f"a {type(self.pool).__name__} runs plain functions, but fine is "
                f"{'steppable' if isinstance(fine, Steps) else 'vectorized'} and made to be batched: "
                "leave executor out, or use BatchedExecutor"
            )
        if isinstance(self.pool, ProcessPoolExecutor):
            check_pickles("fine", fine)
            if isinstance(problem.coarse, Level):
                check_pickles("coarse", leaves(problem.coarse)[0])

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue in the pool for a fine plain function, and in this thread for others."""
        if kind is Kind.FINE and not isinstance(function, Vectorized):
            return PoolQueue(kind, function, layout, tally, self.pool)
        return FunctionQueue(kind, function, layout, None, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that stacks all ready rows."""
        return StepperQueue(layout, None, tally)


def _without_gradients(function: Function, *arguments: Any, **options: Any) -> Any:
    """Call a function as this thread would: torch's switch for gradients is one per thread."""
    with torch.no_grad():
        return function(*arguments, **options)


def check_pickles(name: str, function: Propagator) -> None:
    """Raise `TypeError` for a function that cannot be sent to another process."""
    try:
        pickle.dumps(function)
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TypeError(_unpicklable(name, error)) from error


def _unpicklable(name: str, error: BaseException) -> str:
    return (
        f"the {name} propagator, its state or its result cannot be sent to another process ({error}): define the "
        "function at the top of a module, and keep locks, open files and lambdas out of it; or use a "
        "ThreadPoolExecutor, or loky's executor, which pickles more"
    )


@final
class PoolQueue(Queue):
    """The propagations of one function in a pool: as many at a time as the pool has workers, by priority.

    Submitting no more than that keeps the choice of what runs next here, where the iterations are known.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout, tally: Tally, pool: Executor):
        self.kind, self.function, self.tally, self.pool = kind, function, tally, pool
        self.convention = CallingConvention(kind, function, layout)
        self.workers = getattr(pool, "_max_workers", None) or os.cpu_count() or 1
        self.waiting = ByPriority()
        self.running: dict[Future[Any], tuple[Request, float]] = {}

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests, and submit those that a worker can take: workers start before anything runs here."""
        self.waiting.add(requests)
        with suppress(PropagatorFailure):  # `tick` meets it again, and says so
            self._submit()

    def close(self) -> None:
        """Take back what has not begun."""
        self.waiting.clear()
        for future in self.running:
            if not future.cancel():  # its result is not needed any more, but it is work
                self.tally.call(1, self.convention.cost)
        self.running = {}

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.waiting or self.running)

    def tick(self) -> list[Delivery]:
        """Submit what a worker can take, and wait for the first that is done."""
        for future in [f for f, (request, _) in self.running.items() if request.cancelled and f.cancel()]:
            del self.running[future]
        self._submit()
        if not self.running:
            return []
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        results = []
        for future in sorted(done, key=lambda f: self.running[f][0].priority):
            request, began = self.running.pop(future)
            if request.cancelled:  # nobody waits for its result, nor for its exception
                answer = future.result() if future.exception() is None else None
                self.tally.call(1, float(answer.cost) if isinstance(answer, Costed) else self.convention.cost)
                continue
            result = self.convention.result(request, self._answer(future))
            self.tally.call(1, result.cost)
            results.append(Delivery(request, result, began))
        return results

    def _submit(self) -> None:
        while len(self.running) < self.workers and (chosen := self.waiting.take(1)):
            (request,) = chosen
            arguments, options = self.convention.arguments(request)
            try:
                future = self.pool.submit(_without_gradients, self.function, *arguments, **options)
            except Exception as error:  # a pool that is broken or was shut down
                self.waiting.add(chosen)
                raise PropagatorFailure(error) from error
            self.running[future] = (request, time.perf_counter())

    def _answer(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "pickle" in str(error) or isinstance(error, pickle.PicklingError):
                raise TypeError(_unpicklable(self.kind.value, error)) from error
            raise
