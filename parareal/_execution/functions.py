"""Running plain functions: one call per propagation, or one for many if the function is vectorized."""

import time
from typing import Any, final

import numpy as np
import torch

from parareal._execution.evaluations import Tally
from parareal._execution.queue import ByPriority, Queue
from parareal._iteration.messages import Delivery, Kind, Request, Result
from parareal._problem.propagators import Costed, Function, Propagator, Vectorized, takes_iteration
from parareal._problem.states import StructureError, check_result
from parareal._state import Layout, copy, has_rows, stack, structure, subtract, tree_leaves


@final
class CallingConvention:
    """The calling convention of a plain function: the arguments for a request, and the result for an answer.

    A function counts one unit of work per propagation, or the number in its attribute `cost`, or what it returns
    beside the state as `Costed`.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout):
        self.kind, self.function, self.layout = kind, function, layout
        self.cost = getattr(getattr(function, "function", function), "cost", 1)
        self.takes_iteration = kind is Kind.FINE and takes_iteration(function)

    def arguments(self, request: Request) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Return the arguments; where full accuracy is required, `iteration` is None."""
        iteration = None if request.needs_full_accuracy else request.outermost.iteration
        options = {"iteration": iteration} if self.takes_iteration else {}
        return (request.value.state, request.start, request.stop), options

    def result(self, request: Request, answer: Any) -> Result:
        """Check an answer and return the result."""
        costed = answer if isinstance(answer, Costed) else Costed(answer, self.cost)
        # copied, because it may be a buffer of the caller's, or a view
        state = copy(check_result(self.kind.value, costed.state, self.layout))
        cost, second = float(costed.cost), costed.embedded
        if not self.takes_iteration or request.needs_full_accuracy:
            difference = None if second is None else subtract(check_result(self.kind.value, second, self.layout), state)
            return Result(state, None, cost, embedded_difference=difference)
        return Result(state, None, cost, exact=False, accepted=False, full_cost=float("nan"))


@final
class FunctionQueue(Queue):
    """The propagations of one plain function, which run in this thread.

    `most` bounds the rows of one call of a vectorized function; None for no bound.
    """

    def __init__(self, kind: Kind, function: Function, layout: Layout, most: int | None, tally: Tally):
        self.kind, self.function, self.layout, self.tally = kind, function, layout, tally
        self.most = most if isinstance(function, Vectorized) else 1
        self.convention = CallingConvention(kind, function, layout)
        self.waiting = ByPriority()

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests."""
        self.waiting.add(requests)

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting

    def tick(self) -> list[Delivery]:
        """Make one call, for as many requests as it takes."""
        chosen = self.waiting.take(self.most)
        if not chosen:
            return []
        began = time.perf_counter()
        if not isinstance(self.function, Vectorized):
            result = self._one(chosen[0])
            self.tally.call(1, result.cost)
            return [Delivery(chosen[0], result, began)]
        results = self._many(chosen)
        self.tally.call(len(chosen), sum(r.cost for r in results))
        return [Delivery(request, result, began) for request, result in zip(chosen, results, strict=True)]

    def _one(self, request: Request) -> Result:
        arguments, options = self.convention.arguments(request)
        return self.convention.result(request, self.function(*arguments, **options))

    def _many(self, requests: list[Request]) -> list[Result]:
        count, cost = len(requests), self.convention.cost
        states = stack([r.value.state for r in requests])
        t0, t1 = self._times([r.start for r in requests]), self._times([r.stop for r in requests])
        answer = self.function(states, t0, t1)
        costed = answer if isinstance(answer, Costed) else Costed(answer, cost)
        ends = self._rows(costed.state, count)
        costs = np.broadcast_to(np.asarray(costed.cost, dtype=float), count).tolist()
        if costed.embedded is None:
            return [Result(end, None, cost) for end, cost in zip(ends, costs, strict=True)]
        seconds = self._rows(costed.embedded, count)
        differences = [subtract(second, end) for second, end in zip(seconds, ends, strict=True)]
        return [
            Result(end, None, cost, embedded_difference=difference)
            for end, cost, difference in zip(ends, costs, differences, strict=True)
        ]

    def _rows(self, stacked: Any, count: int) -> list[Any]:
        """Return the rows of an answer, each checked against the layout."""
        if not has_rows(stacked, count):
            shapes = [tuple(getattr(x, "shape", ())) for x in tree_leaves(stacked)]
            raise StructureError(
                f"the {self.kind.value} propagator is declared vectorized: given {count} stacked states it "
                f"must return as many, but the shapes it returned are {shapes}"
            )
        if structure(stacked) != self.layout.tree:
            check_result(self.kind.value, stacked, self.layout)
        return [check_result(self.kind.value, self.layout.row(stacked, i), self.layout) for i in range(count)]

    def _times(self, times: list[Any]) -> Any:
        if isinstance(times[0], torch.Tensor):
            return torch.stack(times)
        first = self.layout.leaves[0]
        whole = all(isinstance(t, int) for t in times)
        if first.library != "torch":
            return np.array(times) if whole or first.library == "python" else np.array(times, dtype=_real(first.dtype))
        return torch.tensor(times, dtype=torch.int64 if whole else _real_torch(first.dtype), device=first.device)


def _real_torch(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_floating_point or dtype.is_complex else torch.float64


def _real(dtype: np.dtype) -> np.dtype:
    return np.finfo(dtype).dtype if np.issubdtype(dtype, np.inexact) else np.dtype(np.float64)
