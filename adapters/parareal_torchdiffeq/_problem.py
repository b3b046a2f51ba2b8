"""What is to be solved, checked, in the form that torchdiffeq gives it: time that rises, one tensor for the state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _check_inputs, _flat_to_shape
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from parareal_torchdiffeq._checks import (
    check_gradients,
    check_grid,
    check_state,
    check_times,
    checked_method,
    checked_options,
)


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem on torchdiffeq's grid. Where time falls it is negated, as in torchdiffeq."""

    method: str
    """its name, one of `METHODS`"""
    solver: FixedGridODESolver
    """torchdiffeq's: it has the grid and the interpolation, and its loop is run where slices would not pay"""
    y0: Tensor
    """the initial state; a tuple as one vector"""
    shapes: list[Size] | None
    """those of a tuple's leaves"""
    times: Tensor
    """the grid: the time at every node, shape (steps + 1,)"""
    points: Tensor
    """the times at which the solution is wanted, rising"""
    falling: bool
    dtype: torch.dtype
    """that of the solution"""

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.times) - 1

    @property
    def length(self) -> float:
        """The time from the first node to the last."""
        return float(self.times[-1] - self.times[0])

    def integrated(self) -> Any:
        """Return what `torchdiffeq.odeint` returns, by its loop."""
        with torch.no_grad():
            ys = self.solver.integrate(self.points)
        return ys if self.shapes is None else _flat_to_shape(ys, (len(self.points),), self.shapes)

    def some_times(self) -> Tensor:
        """Return some times of the grid as the user's function is told them."""
        return self.user_times(range(0, self.steps + 1, max(1, self.steps // 3)))

    def user_times(self, nodes: Iterable[int]) -> Tensor:
        """Return the times at some nodes as the user's function is told them."""
        times = self.times[list(nodes)].to(self.y0.dtype.to_real())
        return -times if self.falling else times

    @staticmethod
    def checked(
        func: Any, y0: Any, t: Any, rtol: Any, atol: Any, method: str | None, options: Mapping[str, Any] | None
    ) -> "Problem":
        """Check everything that can be checked before any work."""
        method = checked_method(method)
        check_state(func, y0)
        check_times(t)
        check_gradients(func, y0, t)
        with torch.no_grad():
            shapes, wrapped, flat, points, _, _, _, options, _, falling = _check_inputs(
                func, y0, t, rtol, atol, method, checked_options(options), None, SOLVERS
            )
            given: dict[str, Any] = dict(options)  # pyright: ignore
            solver = SOLVERS[method](func=wrapped, y0=flat, rtol=rtol, atol=atol, **given)
            times = solver.grid_constructor(wrapped, flat, points)
        if "grid_constructor" in given:
            check_grid(times, points)
        solver.grid_constructor = lambda *_: times  # one grid for all, made once
        state = _promoted(flat.detach(), points)
        times = times.detach().to(flat.device)
        return Problem(method, solver, state, shapes, times, points.detach(), falling, flat.dtype)


def _promoted(y0: Tensor, points: Tensor) -> Tensor:
    """Return the state in the dtype that torchdiffeq's steps give it: a scalar takes on that of t where it is wider."""
    return y0 if y0.ndim else y0.to(torch.promote_types(y0.dtype, points.dtype))
