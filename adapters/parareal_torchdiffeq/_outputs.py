"""The solution at the output times, which need not lie on boundaries of slices."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from parareal_torchdiffeq._methods import RungeKuttaMethod
from parareal_torchdiffeq._problem import FixedGridProblem
from parareal_torchdiffeq._state_format import StateFormat


@final
@dataclass(frozen=True)
class Outputs:
    """The output times of a problem, and the computation of the solution there.

    The solution at a boundary of slices is the state that the engine returned. For all other output times their slices
    are integrated once more from the left boundary: all slices in one batch, each as far as its last output time.
    Between nodes the solution is interpolated as in torchdiffeq.
    """

    problem: FixedGridProblem
    method: RungeKuttaMethod
    """fine method"""
    state_format: StateFormat
    boundary_nodes: np.ndarray
    """nodes of the boundaries, shape (boundaries,)"""

    def compute(self, states: Any, integrate: bool) -> Tensor:
        """Return the solution at the output times, shape (points, *state).

        Args:
            states: the engine's states at the boundaries, shape (boundaries, *state).
            integrate: integrate the slices of output times that are no boundaries; if False, those are NaN.
        """
        boundaries = self.state_format.to_tensor(states)
        outputs = boundaries.new_full((len(self.problem.output_times), *boundaries.shape[1:]), float("nan"))
        ends, on_node = self._locate()
        right_boundary = np.searchsorted(self.boundary_nodes, ends)
        on_boundary = on_node & (self.boundary_nodes[right_boundary] == ends)
        outputs[np.flatnonzero(on_boundary)] = boundaries[right_boundary[on_boundary]]
        if integrate and not on_boundary.all():
            points = np.flatnonzero(~on_boundary)
            # The first boundary at or after the end of a step is the right-hand boundary of its slice, so the slice's
            # number is one less.
            self._integrate_slices(boundaries, outputs, points, right_boundary[points] - 1, ends[points])
        return outputs

    def _locate(self) -> tuple[np.ndarray, np.ndarray]:
        """Return, per output time, the node at which its step ends, and whether it equals the time at that node."""
        times, points = self.problem.times, self.problem.output_times
        dtype = torch.promote_types(times.dtype, points.dtype)
        # torchdiffeq takes the first step that ends at or after the output time. A user's grid need not rise
        # everywhere. `searchsorted` needs sorted values, so the running maximum of the grid is searched. It reaches
        # every time at the same node as the grid does.
        ends = 1 + torch.searchsorted(times[1:].to(dtype).cummax(0).values, points.to(dtype))
        ends[0] = 0  # the first output time is the initial time
        return ends.cpu().numpy(), (times[ends] == points).cpu().numpy()

    def _integrate_slices(
        self, boundaries: Tensor, outputs: Tensor, points: np.ndarray, slices: np.ndarray, ends: np.ndarray
    ) -> None:
        """Fill in `outputs` by integrating slices from their left boundaries.

        Args:
            boundaries: states at the boundaries.
            outputs: array to fill in.
            points: indices of the output times to fill in.
            slices: the slice of each of these.
            ends: the node at which the step with each of these ends.
        """
        # One row per slice, and the row of every point.
        row_slices, point_rows = np.unique(slices, return_inverse=True)
        point_steps = ends - self.boundary_nodes[slices]
        row_steps = np.zeros_like(row_slices)  # steps to make per row: as far as its last point
        np.maximum.at(row_steps, point_rows, point_steps)
        state = self.state_format.from_tensor(boundaries[row_slices])
        for step in range(1, point_steps.max() + 1):
            active_rows = np.flatnonzero(row_steps >= step)
            before = state[active_rows]
            start_nodes = self.boundary_nodes[row_slices[active_rows]] + step - 1
            after, slope = advance_one_step(self.method, before, start_nodes)
            state[active_rows] = after
            reached = np.flatnonzero(point_steps == step)  # the points within this step
            if len(reached):
                # the positions of their rows among the active rows
                i = np.searchsorted(active_rows, point_rows[reached])
                states = before[i], slope[i], after[i]
                outputs[points[reached]] = self._interpolate(points[reached], ends[reached], *states)

    def _interpolate(self, points: np.ndarray, ends: np.ndarray, y0: Any, f0: Any, y1: Any) -> Tensor:
        """Return the solution at output times within steps, interpolated as in torchdiffeq.

        Args:
            points: indices of the output times.
            ends: the node at which the step of each ends.
            y0, y1: states at the start and the end of these steps.
            f0: slopes at the start.
        """
        solver, times, method = self.problem.solver, self.problem.times, self.method
        cubic = solver.interp == "cubic"
        # torchdiffeq evaluates the slope at the end without `perturb`. Linear interpolation needs no slopes.
        f1 = method.evaluate(y1, method.cast_time(method.times[ends])) if cubic else f0
        y0, f0, y1, f1 = map(self.state_format.to_tensor, (y0, f0, y1, f1))
        column = (-1, *[1] * (y0.ndim - 1))
        t0, t1, t = (x.reshape(column) for x in (times[ends - 1], times[ends], self.problem.output_times[points]))
        linear = y0 + (t - t0) / (t1 - t0) * (y1 - y0)
        y = solver._cubic_hermite_interp(t0, y0, f0, t1, y1, f1, t) if cubic else linear
        # At a node the state itself, without the rounding errors of the interpolation.
        return torch.where(t == t1, y1, y.to(y1.dtype))


def advance_one_step(method: RungeKuttaMethod, state: Any, node: np.ndarray) -> tuple[Any, Any]:
    """Return the states at the next nodes, and the slopes at the given nodes.

    Args:
        method: the method; its evaluations are made here, outside the engine.
        state: states, shape (rows, *state).
        node: the node of each row, shape (rows,).
    """
    routine = method.step(state, None, node, node + 1)
    first = value = method.evaluate(*next(routine))
    while True:
        try:
            value = method.evaluate(*routine.send(value))
        except StopIteration as end:  # the return value of the generator is the result of the step
            return end.value[0], first
