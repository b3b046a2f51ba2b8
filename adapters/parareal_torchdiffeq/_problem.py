"""What is to be solved, checked, in the form that torchdiffeq gives it: time that rises, one tensor for the state."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _check_inputs
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

from parareal._checks import one_of
from parareal_torchdiffeq._methods import METHODS

_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm")
_INTERP = ("linear", "cubic")
_ADVICE = f"choose one of {', '.join(map(repr, METHODS))}, or call torchdiffeq.odeint"


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """An initial value problem on torchdiffeq's grid. Where time falls it is negated, as in torchdiffeq."""

    method: str
    """its name, one of `METHODS`"""
    solver: FixedGridODESolver
    """torchdiffeq's, never run: it has the grid and the interpolation"""
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

    def some_times(self) -> Tensor:
        """Return some times of the grid as the user's function is told them."""
        times = self.times[:: max(1, self.steps // 3)].to(self.y0.dtype.to_real())
        return -times if self.falling else times

    @staticmethod
    def checked(
        func: Any, y0: Any, t: Any, rtol: Any, atol: Any, method: str | None, options: Mapping[str, Any] | None
    ) -> "Problem":
        """Check everything that can be checked before any work."""
        method = checked_method(method)
        _check_state(func, y0)
        _check_times(t)
        _check_gradients(func, y0, t)
        with torch.no_grad():
            shapes, wrapped, flat, points, _, _, _, options, _, falling = _check_inputs(
                func, y0, t, rtol, atol, method, _checked_options(options), None, SOLVERS
            )
            solver = SOLVERS[method](func=wrapped, y0=flat, rtol=rtol, atol=atol, **options)
            times = solver.grid_constructor(wrapped, flat, points)
        _check_grid(times, points)
        state = _promoted(flat.detach(), points)
        return Problem(method, solver, state, shapes, times.detach(), points.detach(), falling, flat.dtype)


def checked_method(method: str | None) -> str:
    """Return the method, or raise `ValueError` if its steps cannot be cut into slices, saying why."""
    if method is None or method in SOLVERS:
        if method is None or not issubclass(SOLVERS[method], FixedGridODESolver):
            which = "the default of torchdiffeq, dopri5," if method is None else repr(method)
            raise ValueError(
                f"method: {which} chooses its steps by what it has met so far, so that an interval solved in slices "
                f"has another answer than the whole: {_ADVICE}"
            )
        if method not in METHODS:
            raise ValueError(
                f"method: {method!r} computes a step from the slopes of earlier steps, so that slices that begin "
                f"without them have another answer than the whole: {_ADVICE}"
            )
    one_of("method", method, METHODS)
    return str(method)


def _check_state(func: Any, y0: Any) -> None:
    if not callable(func):
        raise TypeError(f"func must be a function func(t, y), not {type(func).__name__}")
    leaves = y0 if isinstance(y0, tuple) else (y0,)
    if not leaves or not all(isinstance(x, Tensor) for x in leaves):
        raise TypeError(f"y0 must be a tensor or a tuple of tensors, not {type(y0).__name__}")
    for x in leaves:
        if not (x.is_floating_point() or x.is_complex()):
            raise ValueError(f"y0 must be of a floating or complex dtype, not {x.dtype}: call y0.to(torch.float64)")
    if getattr(func, "callback_step", None) is not None:
        raise ValueError("func.callback_step: steps are made many at a time and again, so no callback sees each once")


def _check_times(t: Any) -> None:
    if not isinstance(t, Tensor) or t.ndim != 1 or not t.is_floating_point() or len(t) < 2:
        raise ValueError("t must be a tensor of floating dtype and shape (points,), two points or more")
    difference = t.detach().diff()
    if not (t.isfinite().all() and ((difference > 0).all() or (difference < 0).all())):
        raise ValueError("t must rise or fall strictly, and be finite")


def _check_gradients(func: Any, y0: Any, t: Tensor) -> None:
    if not torch.is_grad_enabled():
        return
    leaves = y0 if isinstance(y0, tuple) else (y0,)
    if t.requires_grad or any(x.requires_grad for x in leaves):
        raise ValueError(
            "y0 and t must not require grad, for nothing is differentiated here: pass y0.detach(), call it within "
            "torch.no_grad(), or use torchdiffeq.odeint or odeint_adjoint where you need gradients"
        )
    if isinstance(func, torch.nn.Module) and any(p.requires_grad for p in func.parameters()):
        warnings.warn(
            "the result is detached from func's parameters: call odeint within torch.no_grad(), or torchdiffeq.odeint "
            "where you need gradients",
            UserWarning,
            stacklevel=4,
        )


def _checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    options = dict(options or {})
    for name in options:
        one_of("options: a name in it", name, _OPTIONS)
    one_of("options: interp", options.get("interp", "linear"), _INTERP)
    step = options.get("step_size")
    if step is not None and not float(step) > 0:
        raise ValueError(f"options: step_size must be positive, also where t falls, got {step}")
    if step is not None and options.get("grid_constructor") is not None:
        raise ValueError("options: step_size and grid_constructor exclude each other: pass one of them")
    return options


def _check_grid(times: Any, points: Tensor) -> None:
    ends = isinstance(times, Tensor) and times.ndim == 1 and len(times) and times[0] == points[0]
    if not ends or times[-1] != points[-1]:
        raise ValueError("options: grid_constructor must return a tensor that begins with t[0] and ends with t[-1]")


def _promoted(y0: Tensor, points: Tensor) -> Tensor:
    """Return the state in the dtype that torchdiffeq's steps give it: a scalar takes on that of t where it is wider."""
    return y0 if y0.ndim else y0.to(torch.promote_types(y0.dtype, points.dtype))
