"""Running black boxes: one call a propagation, or one for many where the caller declared that."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parareal._checks import StructureError, check_result
from parareal._propagators import Vectorized
from parareal._state import Layout, copy, has_rows, stack, structure, tree_leaves
from parareal._tally import Tally
from parareal._values import Kind, Request, Result


class Boxes:
    """The waiting propagations of one black box.

    A box counts one unit of work a propagation, or the number in the attribute `cost` of the caller's function.
    """

    def __init__(
        self, kind: Kind, box: Callable[..., Any], boundaries: list[Any], layout: Layout, most: int | None, tally: Tally
    ):
        self.kind, self.box, self.boundaries, self.layout, self.tally = kind, box, boundaries, layout, tally
        self.most = most if isinstance(box, Vectorized) else 1
        self.cost = getattr(getattr(box, "function", box), "cost", 1)
        self.waiting: list[Request] = []

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        self.waiting += requests

    def cancel(self, sample: int) -> None:
        """Drop what a sample that is done still waits for."""
        self.waiting = [r for r in self.waiting if r.sample != sample]

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return not self.waiting

    def tick(self) -> list[tuple[Request, Result, float]]:
        """Make one call, for as many requests as it takes; return results with the time at which they began."""
        if not self.waiting:
            return []
        self.waiting.sort(key=lambda r: r.priority)
        count = len(self.waiting) if self.most is None else self.most
        chosen, self.waiting = self.waiting[:count], self.waiting[count:]
        began = time.perf_counter()
        states = self._many(chosen) if isinstance(self.box, Vectorized) else [self._one(chosen[0])]
        self.tally.call(len(chosen), self.cost)
        return [(r, Result(u, None, self.cost), began) for r, u in zip(chosen, states, strict=True)]

    def _one(self, request: Request) -> Any:
        t0, t1 = self.boundaries[request.slice], self.boundaries[request.slice + 1]
        end = check_result(self.kind.value, self.box(request.value.state, t0, t1), self.layout)
        return copy(end)  # it may be a buffer of the caller's, or a view that keeps a whole trajectory alive

    def _many(self, requests: list[Request]) -> list[Any]:
        states = stack([r.value.state for r in requests])
        t0 = self._times([self.boundaries[r.slice] for r in requests])
        t1 = self._times([self.boundaries[r.slice + 1] for r in requests])
        ends = self.box(states, t0, t1)
        if not has_rows(ends, len(requests)):
            found = [tuple(getattr(x, "shape", ())) for x in tree_leaves(ends)]
            raise StructureError(
                f"the {self.kind.value} propagator is declared vectorized: given {len(requests)} stacked states it "
                f"must return as many, but the shapes it returned are {found}"
            )
        if structure(ends) != self.layout.tree:
            check_result(self.kind.value, ends, self.layout)
        rows = [self.layout.row(ends, i) for i in range(len(requests))]
        return [check_result(self.kind.value, row, self.layout) for row in rows]

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
