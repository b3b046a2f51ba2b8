"""Black boxes in the threads or processes of a `concurrent.futures.Executor`."""

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from parareal._execution.executors import AbstractExecutor
from parareal._execution.functions import Boxes, Call
from parareal._execution.runner import BoxPart, Runner
from parareal._execution.tally import Tally
from parareal._iteration.messages import Delivery, Kind, Request
from parareal._iteration.slice import Rules
from parareal._problem.levels import Parareal, leaves
from parareal._problem.propagators import Costed, Propagator, Steps, Vectorized
from parareal._state import Layout


@final
@dataclass(frozen=True)
class PoolExecutor(AbstractExecutor):
    """Fine propagations of plain functions in a pool; everything else in this thread, which has nothing better to do.

    A coarse propagation is short, and all slices to its right wait for it: in the pool it would queue behind long
    fine ones, and in another process it would pay for the journey.
    """

    pool: Executor

    def runner(self, propagators: dict[Kind, Propagator], layout: Layout, rules: Rules | None = None) -> Runner:
        """Return a runner that submits to the pool."""
        fine, *coarse = (leaves(p)[0] for p in propagators.values())
        if isinstance(fine, Steps | Vectorized):
            raise TypeError(
                f"a {type(self.pool).__name__} runs plain functions, but fine is "
                f"{'steppable' if isinstance(fine, Steps) else 'vectorized'} and made to be batched: "
                "leave executor out, or use BatchedExecutor"
            )
        if isinstance(self.pool, ProcessPoolExecutor):
            for function in [fine, *(p for p in coarse if isinstance(propagators[Kind.COARSE], Parareal))]:
                check_pickles(function)
        return Runner(propagators, layout, rules, most=None, make_boxes=partial(_boxes, self.pool))


def _boxes(pool: Executor, kind: Kind, box: Callable[..., Any], layout: Layout, tally: Tally) -> BoxPart:
    if kind is Kind.FINE and not isinstance(box, Vectorized):
        return Pooled(kind, box, layout, tally, pool)
    return Boxes(kind, box, layout, None, tally)


def _without_gradients(box: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a black box as this thread would: torch's switch for gradients is one for each thread."""
    with torch.no_grad():
        return box(*arguments, **options)


def check_pickles(function: Callable[..., Any]) -> None:
    """Raise `TypeError` for a function that cannot be sent to another process."""
    try:
        pickle.dumps(function)
    except Exception as error:  # pickle raises whatever the object's own code raises
        raise TypeError(_unpicklable("fine", error)) from error


def _unpicklable(name: str, error: BaseException) -> str:
    return (
        f"the {name} propagator, its state or its result cannot be sent to another process ({error}): define the "
        "function at the top of a module, and keep locks, open files and lambdas out of it; or use a "
        "ThreadPoolExecutor, or loky's executor, which pickles more"
    )


class Pooled:
    """One black box in a pool: as many propagations at a time as the pool has workers, by priority.

    Submitting no more than that keeps the choice of what runs next here, where the iterations are known.
    """

    def __init__(self, kind: Kind, box: Callable[..., Any], layout: Layout, tally: Tally, pool: Executor):
        self.kind, self.box, self.tally, self.pool = kind, box, tally, pool
        self.call = Call(kind, box, layout)
        self.workers = getattr(pool, "_max_workers", None) or os.cpu_count() or 1
        self.waiting: list[Request] = []
        self.running: dict[Future[Any], tuple[Request, float]] = {}
        self.abandoned: set[Future[Any]] = set()

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue, and submit those that a worker can take."""
        self.waiting += requests
        self._submit()

    def cancel(self, owner: int | Request) -> None:
        """Drop what is no longer waited for; what has begun runs on, and its result is ignored."""
        self.waiting = [r for r in self.waiting if not r.within(owner)]
        for future in [f for f, (request, _) in self.running.items() if request.within(owner)]:
            if future.cancel():
                del self.running[future]
            else:
                self.abandoned.add(future)

    def close(self) -> None:
        """Take back what has not begun."""
        self.waiting = []
        for future in self.running:
            if not future.cancel():  # it runs on for nothing, and that is work too
                self.tally.call(1, self.call.cost)
        self.running = {}

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not (self.waiting or self.running)

    def tick(self) -> list[Delivery]:
        """Submit what a worker can take, and wait for the first that is done."""
        self._submit()
        if not self.running:
            return []
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        results = []
        for future in sorted(done, key=lambda f: self.running[f][0].priority):
            request, began = self.running.pop(future)
            if future in self.abandoned:  # nobody waits for its result, nor for its exception
                self.abandoned.discard(future)
                answer = future.result() if future.exception() is None else None
                self.tally.call(1, float(answer.cost) if isinstance(answer, Costed) else self.call.cost)
                continue
            result = self.call.result(request, self._answer(future))
            self.tally.call(1, result.cost)
            results.append((request, result, began))
        return results

    def _submit(self) -> None:
        self.waiting.sort(key=lambda r: r.priority)
        while self.waiting and len(self.running) < self.workers:
            request = self.waiting.pop(0)
            arguments, options = self.call.arguments(request)
            future = self.pool.submit(_without_gradients, self.box, *arguments, **options)
            self.running[future] = (request, time.perf_counter())

    def _answer(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "pickle" in str(error) or isinstance(error, pickle.PicklingError):
                raise TypeError(_unpicklable(self.kind.value, error)) from error
            raise
