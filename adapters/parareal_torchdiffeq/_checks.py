"""Errors and warnings that say what to change, before any work."""

import warnings
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from math import isfinite
from operator import gt, lt
from typing import Any

import torch
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

import parareal
from parareal.driver import Layout, check_initial, one_of
from parareal_torchdiffeq._methods import METHODS

_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm")
_INTERP = ("linear", "cubic")
_ADVICE = f"choose one of {', '.join(map(repr, METHODS))}, or call torchdiffeq.odeint"


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


def check_state(func: Any, y0: Any) -> None:
    """Raise `TypeError` or `ValueError` unless func can be called and y0 is a state."""
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


def check_times(t: Any) -> None:
    """Raise `ValueError` unless t is a sequence of times."""
    if not isinstance(t, Tensor) or t.ndim != 1 or not t.is_floating_point() or len(t) < 2:
        raise ValueError("t must be a tensor of floating dtype and shape (points,), two points or more")
    times = t.tolist()
    rises, falls = (all(before(a, b) for a, b in pairwise(times)) for before in (lt, gt))
    if not (all(map(isfinite, times)) and (rises or falls)):
        raise ValueError("t must rise or fall strictly, and be finite")


def check_gradients(func: Any, y0: Any, t: Tensor) -> None:
    """Raise `ValueError` where gradients are asked for by y0 or t, and warn where func's parameters do."""
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


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options, which must be those of torchdiffeq's fixed-grid solvers."""
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


def check_grid(times: Any, points: Tensor) -> None:
    """Raise `ValueError` unless a grid has the ends that torchdiffeq asks of it."""
    ends = isinstance(times, Tensor) and times.ndim == 1 and len(times) and times[0] == points[0]
    if not ends or times[-1] != points[-1]:
        raise ValueError("options: grid_constructor must return a tensor that begins with t[0] and ends with t[-1]")


def check_start(y: Tensor) -> None:
    """Raise what the engine would of a state, in a fraction of the time where there is nothing to raise."""
    if torch.finfo(y.dtype).bits < 32 or not y.isfinite().all():
        check_initial(y, 0)


def smallest(tolerance: Any) -> float:
    """Return a tolerance, or the smallest of a tensor or of those for each leaf."""
    if isinstance(tolerance, float):
        return tolerance
    each = tolerance if isinstance(tolerance, tuple | list) else (tolerance,)
    return float(min(torch.as_tensor(x).min() for x in each))


@lru_cache
def increment(rtol: float, atol: float, dtype: torch.dtype) -> parareal.Increment:
    """Return the criterion for torchdiffeq's tolerances, or raise `ValueError` if they make no sense for a dtype."""
    criterion = parareal.Increment(max(rtol, 8 * torch.finfo(dtype).eps) if rtol > 0 else rtol, atol)
    criterion.resolved(Layout.of(torch.empty(1, dtype=dtype)))
    return criterion
