"""The solution at the times that were asked for, which need not lie on the boundaries of slices."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from parareal_torchdiffeq._methods import Method
from parareal_torchdiffeq._problem import Problem
from parareal_torchdiffeq._state_format import Arrays


@final
@dataclass(frozen=True)
class Outputs:
    """Where each of the points stands on the grid, and how to get the solution there.

    A point on a boundary is read off. For all others their slices are stepped through once more, all slices at once
    and each as far as its last point, and points between nodes are interpolated as torchdiffeq does.
    """

    problem: Problem
    method: Method
    """the fine one"""
    arrays: Arrays
    nodes: np.ndarray
    """those of the boundaries, shape (boundaries,)"""

    def solution(self, states: Any, whole: bool) -> Tensor:
        """Return the solution at `problem.points`, shape (points, *state), from the engine's states at the boundaries.

        With `whole` false no slice is stepped through, and points that are no boundaries are NaN.
        """
        boundaries = self.arrays.tensor(states)
        found = boundaries.new_full((len(self.problem.points), *boundaries.shape[1:]), float("nan"))
        ends, on_node = self._ends()
        boundary = np.searchsorted(self.nodes, ends)
        read = on_node & (self.nodes[boundary] == ends)
        found[np.flatnonzero(read)] = boundaries[boundary[read]]
        if whole and not read.all():
            rest = np.flatnonzero(~read)
            self._step_through(boundaries, found, rest, boundary[rest] - 1, ends[rest])
        return found

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the node at which the step with each point ends, and whether the point is that node.

        torchdiffeq takes the first step that ends at or after the point; its grid need not rise everywhere.
        """
        times, points = self.problem.times, self.problem.points
        dtype = torch.promote_types(times.dtype, points.dtype)
        ends = 1 + torch.searchsorted(times[1:].to(dtype).cummax(0).values, points.to(dtype))
        ends[0] = 0
        return ends.cpu().numpy(), (times[ends] == points).cpu().numpy()

    def _step_through(
        self, boundaries: Tensor, found: Tensor, points: np.ndarray, slices: np.ndarray, ends: np.ndarray
    ) -> None:
        """Fill in `found` at `points`, which lie in `slices`, in steps that end at the nodes `ends`."""
        rows, row = np.unique(slices, return_inverse=True)
        steps = ends - self.nodes[slices]
        last = np.zeros_like(rows)
        np.maximum.at(last, row, steps)
        state = self.arrays.of(boundaries[rows])
        for step in range(1, steps.max() + 1):
            active, here = np.flatnonzero(last >= step), np.flatnonzero(steps == step)
            before = state[active]
            after, slope = one_step(self.method, before, self.nodes[rows[active]] + step - 1)
            state[active] = after
            if len(here):
                at = np.searchsorted(active, row[here])
                found[points[here]] = self._between(points[here], ends[here], before[at], slope[at], after[at])

    def _between(self, points: np.ndarray, ends: np.ndarray, y0: Any, f0: Any, y1: Any) -> Tensor:
        """Interpolate within steps that end at the nodes `ends`, from the states there and the first slopes."""
        solver, times, method = self.problem.solver, self.problem.times, self.method
        cubic = solver.interp == "cubic"
        f1 = method.evaluate(y1, method.at(method.times[ends])) if cubic else f0
        y0, f0, y1, f1 = map(self.arrays.tensor, (y0, f0, y1, f1))
        column = (-1, *[1] * (y0.ndim - 1))
        t0, t1, t = (x.reshape(column) for x in (times[ends - 1], times[ends], self.problem.points[points]))
        linear = y0 + (t - t0) / (t1 - t0) * (y1 - y0)
        y = solver._cubic_hermite_interp(t0, y0, f0, t1, y1, f1, t) if cubic else linear
        return torch.where(t == t1, y1, y.to(y1.dtype))


def one_step(method: Method, state: Any, node: np.ndarray) -> tuple[Any, Any]:
    """Return the states at the next nodes, and the slopes at these."""
    routine = method.step(state, None, node, node + 1)
    first = value = method.evaluate(*next(routine))
    while True:
        try:
            value = method.evaluate(*routine.send(value))
        except StopIteration as end:
            return end.value[0], first
