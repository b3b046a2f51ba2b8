"""Queues for plain functions: one call per propagation, or one for many if the function is vectorized."""

import math
import time
from typing import Any, final

import numpy as np
import torch

from parareal._execution.evaluations import Tally
from parareal._execution.queue import Queue, RequestHeap
from parareal._iteration.messages import Delivery, Kind, Request, Result
from parareal._problem.propagators import Costed, Function, Propagator, Vectorized, takes_iteration
from parareal._problem.states import StructureError, check_result
from parareal._state import Layout, copy, has_rows, stack, structure, subtract, tree_leaves


@final
class CallingConvention:
    """The calling convention of a plain function: its arguments for a request, and the result from its return value.

    A function counts one unit of work per propagation, or the number in its attribute `cost`, or the cost that it
    returns together with the state as `Costed`.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout):
        self.kind, self.function, self.layout = kind, function, layout
        # a vectorized function is wrapped, and the attribute belongs to the function inside
        self.cost = getattr(getattr(function, "function", function), "cost", 1)
        self.takes_iteration = kind is Kind.FINE and takes_iteration(function)

    def arguments(self, request: Request) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Return the arguments; `iteration` is None where full accuracy is required."""
        # Within nested levels the function is given the outermost iteration: inner counts start again at 0 every time.
        iteration = None if request.needs_full_accuracy else request.outermost.iteration
        options = {"iteration": iteration} if self.takes_iteration else {}
        return (request.value.state, request.start, request.stop), options

    def result(self, request: Request, return_value: Any) -> Result:
        """Check the value that the function returned, and return the result."""
        costed = return_value if isinstance(return_value, Costed) else Costed(return_value, self.cost)
        # Copied, because the function may return a buffer that its next call overwrites, or a view of its input.
        state = copy(check_result(self.kind.value, costed.state, self.layout))
        cost, second = float(costed.cost), costed.embedded
        if not self.takes_iteration or request.needs_full_accuracy:
            difference = None if second is None else subtract(check_result(self.kind.value, second, self.layout), state)
            return Result(state, None, cost, embedded_difference=difference)
        # The function was given an iteration number and may have saved work, by an unknown amount. So the result is
        # not exact, and its error and the cost of the full computation are unknown.
        return Result(state, None, cost, exact=False, accepted=False, estimate=math.inf, full_cost=math.nan)


@final
class FunctionQueue(Queue):
    """The propagations by one plain function, which run in this thread.

    `max_rows` is the largest number of rows in one call of a vectorized function; None for no bound.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout, max_rows: int | None, tally: Tally):
        self.kind, self.function, self.layout, self.tally = kind, function, layout, tally
        self.max_rows = max_rows if isinstance(function, Vectorized) else 1
        self.convention = CallingConvention(kind, function, layout)
        self.waiting = RequestHeap()

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests."""
        self.waiting.add(requests)

    @property
    def idle(self) -> bool:
        """Whether no request waits."""
        return not self.waiting

    def tick(self) -> list[Delivery]:
        """Make one call, for all waiting requests if the function is vectorized, else for the first."""
        # One call per tick and not all that wait: its result may settle a slice, and cancel the others.
        requests = self.waiting.take(self.max_rows)
        if not requests:
            return []
        start_time = time.perf_counter()
        if not isinstance(self.function, Vectorized):
            result = self._call_one(requests[0])
            self.tally.call(1, result.cost)
            return [Delivery(requests[0], result, start_time)]
        results = self._call_stacked(requests)
        self.tally.call(len(requests), sum(r.cost for r in results))
        return [Delivery(request, result, start_time) for request, result in zip(requests, results, strict=True)]

    def _call_one(self, request: Request) -> Result:
        arguments, options = self.convention.arguments(request)
        return self.convention.result(request, self.function(*arguments, **options))

    def _call_stacked(self, requests: list[Request]) -> list[Result]:
        count, cost = len(requests), self.convention.cost
        states = stack([r.value.state for r in requests])
        t0, t1 = self._stack_times([r.start for r in requests]), self._stack_times([r.stop for r in requests])
        return_value = self.function(states, t0, t1)
        costed = return_value if isinstance(return_value, Costed) else Costed(return_value, cost)
        ends = self._split_rows(costed.state, count)
        costs = np.broadcast_to(np.asarray(costed.cost, dtype=float), count).tolist()
        if costed.embedded is None:
            return [Result(end, None, cost) for end, cost in zip(ends, costs, strict=True)]
        seconds = self._split_rows(costed.embedded, count)
        differences = [subtract(second, end) for second, end in zip(seconds, ends, strict=True)]
        return [
            Result(end, None, cost, embedded_difference=difference)
            for end, cost, difference in zip(ends, costs, differences, strict=True)
        ]

    def _split_rows(self, stacked: Any, count: int) -> list[Any]:
        """Return the rows of a returned stack as copies, each checked against the layout."""
        if not has_rows(stacked, count):
            shapes = [tuple(getattr(x, "shape", ())) for x in tree_leaves(stacked)]
            raise StructureError(
                f"the {self.kind.value} propagator is declared vectorized: given {count} stacked states it "
                f"must return {count} stacked states, but the shapes it returned are {shapes}"
            )
        if structure(stacked) != self.layout.tree:
            check_result(self.kind.value, stacked, self.layout)
        return [check_result(self.kind.value, self.layout.row(stacked, i), self.layout) for i in range(count)]

    def _stack_times(self, times: list[Any]) -> Any:
        """Return boundaries as a vector that suits the states: their library, device and real dtype."""
        if isinstance(times[0], torch.Tensor):  # the caller's own tensors keep their dtype
            return torch.stack(times)
        first = self.layout.leaves[0]
        # Integers stay integers: they may be nodes, by which the function looks something up.
        whole = all(isinstance(t, int) for t in times)
        if first.library != "torch":
            return np.array(times) if whole or first.library == "python" else np.array(times, dtype=_real(first.dtype))
        return torch.tensor(times, dtype=torch.int64 if whole else _real_torch(first.dtype), device=first.device)


def _real_torch(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_floating_point or dtype.is_complex else torch.float64


def _real(dtype: np.dtype) -> np.dtype:
    return np.finfo(dtype).dtype if np.issubdtype(dtype, np.inexact) else np.dtype(np.float64)
