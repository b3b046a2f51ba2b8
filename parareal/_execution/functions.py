"""Running black boxes: one call a propagation, or one for many where the caller declared that."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parareal._checks import StructureError, check_result
from parareal._execution.tally import Tally
from parareal._iteration.messages import Delivery, Kind, Request, Result
from parareal._problem.propagators import Costed, Vectorized, takes_iteration
from parareal._state import Layout, copy, has_rows, stack, structure, subtract, tree_leaves


class Call:
    """What calling a black box for one request means: its arguments, and what its answer is worth.

    A box counts one unit of work a propagation, or the number in the attribute `cost` of the caller's function, or
    what it returns beside the state as `Costed`.
    """

    def __init__(self, kind: Kind, box: Callable[..., Any], layout: Layout):
        self.kind, self.box, self.layout = kind, box, layout
        self.cost = getattr(getattr(box, "function", box), "cost", 1)
        self.graded = kind is Kind.FINE and takes_iteration(box)

    def arguments(self, request: Request) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Return the arguments; a box that takes `iteration` is given None where it must answer in full."""
        options = {"iteration": None if request.in_full else request.outermost.iteration} if self.graded else {}
        return (request.value.state, request.start, request.stop), options

    def result(self, request: Request, answer: Any) -> Result:
        """Check an answer and say what it cost."""
        costed = answer if isinstance(answer, Costed) else Costed(answer, self.cost)
        state = copy(
            check_result(self.kind.value, costed.state, self.layout)
        )  # it may be a buffer of the caller's, or a view
        cost, second = float(costed.cost), costed.embedded
        if not self.graded or request.in_full:
            gap = None if second is None else subtract(check_result(self.kind.value, second, self.layout), state)
            return Result(state, None, cost, gap=gap)
        return Result(state, None, cost, exact=False, accepted=False, serial=float("nan"))


class Boxes:
    """The waiting propagations of one black box."""

    def __init__(self, kind: Kind, box: Callable[..., Any], layout: Layout, most: int | None, tally: Tally):
        self.kind, self.box, self.layout, self.tally = kind, box, layout, tally
        self.most = most if isinstance(box, Vectorized) else 1
        self.call = Call(kind, box, layout)
        self.waiting: list[Request] = []

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        self.waiting += requests

    def cancel(self, owner: int | Request) -> None:
        """Drop what is no longer waited for."""
        self.waiting = [r for r in self.waiting if not r.within(owner)]

    def close(self) -> None:
        """Do nothing: nothing was handed to others."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting

    def tick(self) -> list[Delivery]:
        """Make one call, for as many requests as it takes; return results with the time at which they began."""
        if not self.waiting:
            return []
        self.waiting.sort(key=lambda r: r.priority)
        count = len(self.waiting) if self.most is None else self.most
        chosen, self.waiting = self.waiting[:count], self.waiting[count:]
        began = time.perf_counter()
        results = self._many(chosen) if isinstance(self.box, Vectorized) else [self._one(chosen[0])]
        self.tally.call(len(chosen), sum(r.cost for r in results))
        return [(request, result, began) for request, result in zip(chosen, results, strict=True)]

    def _one(self, request: Request) -> Result:
        arguments, options = self.call.arguments(request)
        return self.call.result(request, self.box(*arguments, **options))

    def _many(self, requests: list[Request]) -> list[Result]:
        states = stack([r.value.state for r in requests])
        t0, t1 = self._times([r.start for r in requests]), self._times([r.stop for r in requests])
        ends = self.box(states, t0, t1)
        costed = ends if isinstance(ends, Costed) else Costed(ends, self.call.cost)
        ends, cost = costed.state, costed.cost
        if not has_rows(ends, len(requests)):
            found = [tuple(getattr(x, "shape", ())) for x in tree_leaves(ends)]
            raise StructureError(
                f"the {self.kind.value} propagator is declared vectorized: given {len(requests)} stacked states it "
                f"must return as many, but the shapes it returned are {found}"
            )
        if structure(ends) != self.layout.tree:
            check_result(self.kind.value, ends, self.layout)
        rows = [self.layout.row(ends, i) for i in range(len(requests))]
        costs = np.broadcast_to(np.asarray(cost, dtype=float), len(rows)).tolist()
        gaps = None if costed.embedded is None else subtract(costed.embedded, ends)
        found = [None if gaps is None else self.layout.row(gaps, i) for i in range(len(rows))]
        return [
            Result(check_result(self.kind.value, row, self.layout), None, c, gap=gap)
            for row, c, gap in zip(rows, costs, found, strict=True)
        ]

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
