"""The checked initial value problem in torchdiffeq's internal form: rising time, and one tensor for the state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _check_inputs, _flat_to_shape
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from parareal_torchdiffeq._checks import (
    check_func_and_state,
    check_gradients,
    check_grid,
    check_method,
    check_options,
    check_times,
)


@final
@dataclass(frozen=True, eq=False)
class FixedGridProblem:
    """An initial value problem on the grid that torchdiffeq makes. Falling time is negated, as in torchdiffeq."""

    method: str
    """name of the method, one of `METHODS`"""
    solver: FixedGridODESolver
    """torchdiffeq's solver object: the source of its interpolation, and of its loop for sequential solves"""
    y0: Tensor
    """initial state; the leaves of a tuple are concatenated into one vector"""
    shapes: list[Size] | None
    """shapes of the leaves of a tuple; None if the user's state is a tensor"""
    times: Tensor
    """grid: the time at every node, shape (steps + 1,)"""
    output_times: Tensor
    """times at which the solution is returned, rising, shape (points,)"""
    falling: bool
    """whether the user's time falls, so all times here are its negatives"""
    dtype: torch.dtype
    """dtype of the returned solution"""

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.times) - 1

    @property
    def length(self) -> float:
        """The length of the time interval, from the first node to the last."""
        return float(self.times[-1] - self.times[0])

    def integrate(self) -> Any:
        """Return the result of `torchdiffeq.odeint`, computed by torchdiffeq's own loop."""
        with torch.no_grad():
            ys = self.solver.integrate(self.output_times)
        return ys if self.shapes is None else _flat_to_shape(ys, (len(self.output_times),), self.shapes)

    def list_probe_times(self) -> Tensor:
        """Return a few grid times spread over the interval, in the form that the user's function expects."""
        return self.list_user_times(range(0, self.steps + 1, max(1, self.steps // 3)))

    def list_user_times(self, nodes: Iterable[int]) -> Tensor:
        """Return the times at the nodes, with the sign and the dtype that the user's function expects."""
        # torchdiffeq casts the time to the real dtype of the state before it calls the user's function.
        times = self.times[list(nodes)].to(self.y0.dtype.to_real())
        return -times if self.falling else times

    @staticmethod
    def create(
        func: Any, y0: Any, t: Any, rtol: Any, atol: Any, method: str | None, options: Mapping[str, Any] | None
    ) -> "FixedGridProblem":
        """Return the problem that the arguments of `odeint` describe, after every check that needs no evaluation.

        Raises:
            TypeError, ValueError: for an argument that is invalid or unsupported.
        """
        # Our checks come first: torchdiffeq's are assertions, and accept methods and callbacks that slices do not.
        method = check_method(method)
        check_func_and_state(func, y0)
        check_times(t)
        check_gradients(func, y0, t)
        with torch.no_grad():
            # torchdiffeq's own normalisation, so that the grid and the wrapped function are exactly its own.
            shapes, wrapped, flat, output_times, _, _, _, options, _, falling = _check_inputs(
                func, y0, t, rtol, atol, method, check_options(options), None, SOLVERS
            )
            solver_options: dict[str, Any] = dict(options)  # pyright: ignore
            solver = SOLVERS[method](func=wrapped, y0=flat, rtol=rtol, atol=atol, **solver_options)
            times = solver.grid_constructor(wrapped, flat, output_times)
        if "grid_constructor" in solver_options:
            check_grid(times, output_times)
        # Both loops must run on the same grid, so torchdiffeq's must not call the user's grid_constructor again.
        solver.grid_constructor = lambda *_: times
        state = _promote_state(flat.detach(), output_times)
        times = times.detach().to(flat.device)
        return FixedGridProblem(method, solver, state, shapes, times, output_times.detach(), falling, flat.dtype)


def _promote_state(y0: Tensor, output_times: Tensor) -> Tensor:
    """Return the state in the dtype of torchdiffeq's intermediate states.

    A step adds `dt * slope` to the state. torch promotes a tensor of rank 0 to the dtype of dt if that is wider; a
    tensor of higher rank keeps its dtype, because dt is of rank 0.
    """
    return y0 if y0.ndim else y0.to(torch.promote_types(y0.dtype, output_times.dtype))
