"""The solution at the times that were asked for, which need not lie on the boundaries of slices."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal_torchdiffeq._arrays import Arrays
from parareal_torchdiffeq._methods import Method
from parareal_torchdiffeq._problem import Problem


def outputs(problem: Problem, method: Method, arrays: Arrays, nodes: list[int], states: Any, whole: bool) -> Tensor:
    """Return the solution at `problem.points`, shape (points, *state), from the states at the slices' boundaries.

    A point on a boundary is read off. For all others their slices are stepped through once more, all slices at once
    and each as far as its last point, and points between nodes are interpolated as torchdiffeq does.

    Args:
        problem: what was solved.
        method: the fine method.
        arrays: how states are written.
        nodes: those of the boundaries.
        states: the engine's states there, shape (boundaries, *state).
        whole: step through slices; otherwise points that are no boundaries are NaN.
    """
    boundaries = arrays.tensor(states)
    found = boundaries.new_full((len(problem.points), *boundaries.shape[1:]), float("nan"))
    ends, on_node = _ends(problem)
    boundary = np.searchsorted(nodes, ends)
    read = on_node & (np.take(nodes, boundary) == ends)
    found[np.flatnonzero(read)] = boundaries[boundary[read]]
    if whole and not read.all():
        rest = np.flatnonzero(~read)
        _step_through(problem, method, arrays, np.array(nodes), boundaries, found, rest, boundary[rest] - 1, ends[rest])
    return found


def _ends(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the node at which the step with each point ends, and whether the point is that node.

    torchdiffeq takes the first step that ends at or after the point; its grid need not rise everywhere.
    """
    ends = 1 + torch.searchsorted(problem.times[1:].cummax(0).values, problem.points)
    ends[0] = 0
    return ends.cpu().numpy(), (problem.times[ends] == problem.points).cpu().numpy()


def _step_through(
    problem: Problem,
    method: Method,
    arrays: Arrays,
    nodes: np.ndarray,
    boundaries: Tensor,
    found: Tensor,
    points: np.ndarray,
    slices: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Fill in `found` at `points`, which lie in `slices`, in steps that end at the nodes `ends`."""
    rows, row = np.unique(slices, return_inverse=True)
    steps = ends - nodes[slices]
    last = np.zeros_like(rows)
    np.maximum.at(last, row, steps)
    state = arrays.of(boundaries[rows])
    for step in range(1, steps.max() + 1):
        active, here = np.flatnonzero(last >= step), np.flatnonzero(steps == step)
        before = state[active]
        after, slope = _one_step(method, before, nodes[rows[active]] + step - 1)
        state[active] = after
        if len(here):
            at = np.searchsorted(active, row[here])
            y0, f0, y1 = before[at], slope[at], after[at]
            found[points[here]] = _between(problem, method, arrays, ends[here], points[here], y0, f0, y1)


def _one_step(method: Method, state: Any, node: np.ndarray) -> tuple[Any, Any]:
    """Return the states at the next nodes, and the slopes at these."""
    routine = method.step(state, None, node, node + 1)
    first = value = method.evaluate(*next(routine))
    while True:
        try:
            value = method.evaluate(*routine.send(value))
        except StopIteration as end:
            return end.value[0], first


def _between(
    problem: Problem, method: Method, arrays: Arrays, ends: np.ndarray, points: np.ndarray, y0: Any, f0: Any, y1: Any
) -> Tensor:
    """Interpolate within steps that end at the nodes `ends`, from their states and first slopes."""
    cubic = problem.solver.interp == "cubic"
    f1 = method.evaluate(y1, method.at(method.times[ends])) if cubic else f0
    y0, f0, y1, f1 = map(arrays.tensor, (y0, f0, y1, f1))
    column = (-1, *[1] * (y0.ndim - 1))
    t0, t1, t = (x.reshape(column) for x in (problem.times[ends - 1], problem.times[ends], problem.points[points]))
    if cubic:
        y = problem.solver._cubic_hermite_interp(t0, y0, f0, t1, y1, f1, t)
    else:
        y = y0 + (t - t0) / (t1 - t0) * (y1 - y0)
    return torch.where(t == t1, y1, y.to(y1.dtype))
