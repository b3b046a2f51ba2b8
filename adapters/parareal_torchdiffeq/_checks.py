"""Checks of the arguments of `odeint`, made before any evaluation. Messages name the remedy."""

import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from math import isfinite
from operator import gt, lt
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

import parareal
from parareal.driver import Layout, check_initial, one_of, real_number
from parareal_torchdiffeq._methods import METHODS

_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm")
_INTERP = ("linear", "cubic")
_REMEDY = f"choose one of {', '.join(map(repr, METHODS))}, or call torchdiffeq.odeint"


def check_method(method: str | None) -> str:
    """Return the name of the method, or raise `ValueError` if its steps cannot be divided into slices."""
    if method is None or method in SOLVERS:
        if method is None or not issubclass(SOLVERS[method], FixedGridODESolver):
            name = "the default of torchdiffeq, dopri5," if method is None else repr(method)
            raise ValueError(
                f"method: {name} is adaptive: its steps depend on the trajectory, so slicing changes the result. "
                f"Remedy: {_REMEDY}"
            )
        if method not in METHODS:
            raise ValueError(
                f"method: {method!r} is a multistep method: a step uses the slopes of earlier steps, which a slice "
                f"does not have at its start, so slicing changes the result. Remedy: {_REMEDY}"
            )
    one_of("method", method, METHODS)
    return str(method)


def check_func_and_state(func: Any, y0: Any) -> None:
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
        raise ValueError(
            "func.callback_step is unsupported: steps are made in batches and more than once. "
            "Remove the attribute, or call torchdiffeq.odeint"
        )


def check_times(t: Any) -> None:
    """Raise `ValueError` unless t is a sequence of times."""
    if not isinstance(t, Tensor) or t.ndim != 1 or not t.is_floating_point() or len(t) < 2:
        actual = f"a tensor of {t.dtype} and shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"t must be a tensor of floating dtype and shape (points,), two points or more, not {actual}")
    times = t.tolist()
    rises, falls = (all(before(a, b) for a, b in pairwise(times)) for before in (lt, gt))
    if not (all(map(isfinite, times)) and (rises or falls)):
        raise ValueError(f"t must rise or fall strictly, and be finite, but was {t}")


def check_gradients(func: Any, y0: Any, t: Tensor) -> None:
    """Raise `ValueError` if y0 or t requires grad, and warn if a parameter of func does."""
    if not torch.is_grad_enabled():
        return
    leaves = y0 if isinstance(y0, tuple) else (y0,)
    if t.requires_grad or any(x.requires_grad for x in leaves):
        raise ValueError(
            "y0 and t must not require grad, because the result is not differentiable: pass y0.detach(), call odeint "
            "within torch.no_grad(), or use torchdiffeq.odeint or odeint_adjoint where you need gradients"
        )
    # Only a warning: parameters of a module require grad by default, also where the caller needs no gradients.
    if isinstance(func, torch.nn.Module) and any(p.requires_grad for p in func.parameters()):
        warnings.warn(
            "the result is detached from func's parameters: call odeint within torch.no_grad(), or torchdiffeq.odeint "
            "where you need gradients",
            UserWarning,
            stacklevel=4,
        )


def check_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of the options, or raise `ValueError` for one that torchdiffeq's fixed-grid solvers lack."""
    options = dict(options or {})
    for name in options:
        one_of("options: a name in it", name, _OPTIONS)
    one_of("options: interp", options.get("interp", "linear"), _INTERP)
    step = options.get("step_size")
    if step is not None and not float(step) > 0:
        raise ValueError(f"options: step_size must be positive, also where t falls, but was {step}")
    if step is not None and options.get("grid_constructor") is not None:
        raise ValueError("options: step_size and grid_constructor exclude each other: pass one of them")
    return options


def check_grid(times: Any, output_times: Tensor) -> None:
    """Raise `ValueError` unless the user's grid begins and ends with the output times, as torchdiffeq requires."""
    is_grid = isinstance(times, Tensor) and times.ndim == 1 and len(times) > 0
    if not is_grid or times[0] != output_times[0] or times[-1] != output_times[-1]:
        first, last = output_times[0].item(), output_times[-1].item()
        actual = f"shape {tuple(times.shape)}" if isinstance(times, Tensor) else type(times).__name__
        actual = f"{times[0].item()} to {times[-1].item()}" if is_grid else actual
        raise ValueError(
            "options: grid_constructor must return a tensor of shape (steps + 1,) that begins with t[0] and ends with "
            f"t[-1], here {first} and {last}, but returned {actual}"
        )


def check_initial_state(y: Tensor) -> None:
    """Raise the engine's error for an initial state of half precision, or one that is not finite."""
    # The engine's check is much slower than this test, so it runs only where it will raise, for its message.
    if torch.finfo(y.dtype).bits < 32 or not y.isfinite().all():
        check_initial(y, 0)


def check_tolerances(rtol: Any, atol: Any) -> tuple[float, float]:
    """Return the smallest entries of rtol and atol, each a number, a tensor, or a sequence of these per leaf.

    Raises:
        TypeError: if an entry is not a real number.
        ValueError: if an entry of rtol is not in [0, 1), or one of atol is negative or not finite.
    """
    remedy = "pass a fraction of the size of the state, such as 1e-6; atol is in units of the state"
    relative = min(real_number("rtol", x, remedy, least=0, below=1) for x in _list_entries(rtol))
    remedy = "pass a norm in units of the state, or 0 for rtol alone"
    return relative, min(real_number("atol", x, remedy, least=0) for x in _list_entries(atol))


def _list_entries(tolerance: Any) -> Iterator[Any]:
    """Yield the numbers of a tolerance; of a tensor only the smallest and the largest, which bound the others."""
    if isinstance(tolerance, tuple | list) and tolerance:
        for entry in tolerance:
            yield from _list_entries(entry)
    elif isinstance(tolerance, Tensor) and tolerance.numel() and not tolerance.is_complex():
        yield from (tolerance.min(), tolerance.max())  # both are NaN if any entry is
    elif isinstance(tolerance, np.ndarray) and tolerance.size:
        yield from tolerance.flat
    else:
        yield tolerance


# Cached, because short solves are often repeated, with the same tolerances each time.
@lru_cache
def build_increment_criterion(rtol: float, atol: float, dtype: torch.dtype) -> parareal.Increment:
    """Return the default criterion for torchdiffeq's tolerances.

    Raises:
        ValueError: if both tolerances are zero.
    """
    # The default rtol of 1e-7 is below the rounding errors of single precision, where it could not be met.
    criterion = parareal.Increment(max(rtol, 8 * torch.finfo(dtype).eps) if rtol > 0 else rtol, atol)
    criterion.resolve(Layout.of(torch.empty(1, dtype=dtype)))  # raises now, before any evaluation
    return criterion
