"""The coarse propagator: a step of a named method a slice, or the caller's own."""

from collections.abc import Callable
from typing import Any

import torch
from torchdiffeq._impl.odeint import SOLVERS

import parareal
from parareal.driver import one_of
from parareal_torchdiffeq._methods import METHODS, Method
from parareal_torchdiffeq._problem import Problem
from parareal_torchdiffeq._state_format import Arrays


def check_coarse(coarse: Any, method: str) -> None:
    """Raise unless `coarse` is a propagator, or names a method of at most the order of the fine one."""
    if isinstance(coarse, str):
        lower = [name for name in METHODS if SOLVERS[name].order <= SOLVERS[method].order]
        one_of("coarse", coarse, ["auto", *lower])
    elif not (coarse is None or callable(coarse) or isinstance(coarse, parareal.Steps)):
        raise TypeError(
            "coarse must be 'auto', the name of a method, a function (y, t0, t1) or parareal.Steps, "
            f"not {type(coarse).__name__}"
        )


def coarse_propagator(coarse: Any, fine: Method, problem: Problem, arrays: Arrays, embedded: bool) -> Any:
    """Return what the engine is given. A method named shares the first evaluation of a slice with the fine one.

    `embedded` asks for a second result of lower order, where there is one.
    """
    if coarse in (None, "auto"):
        return parareal.Steps(fine.with_embedded() if embedded else fine, 1)
    if isinstance(coarse, str):
        method = METHODS[coarse]
        same = isinstance(fine, method)
        named = fine if same else method(fine.evaluate, fine.times, fine.dtype, fine.perturb)
        return parareal.Steps(named.with_embedded() if embedded else named, 1)
    if isinstance(coarse, parareal.Steps):
        return coarse
    if isinstance(coarse, type(parareal.vectorized(_timed))):
        return parareal.vectorized(_timed(coarse.function, problem, arrays))
    return _timed(coarse, problem, arrays)


def _timed(
    function: Callable[[Any, Any, Any], Any], problem: Problem, arrays: Arrays
) -> Callable[[Any, Any, Any], Any]:
    """Return a function of states and times as one of the engine's states and nodes."""
    times = -problem.times if problem.falling else problem.times

    def propagate(y: torch.Tensor, start: Any, stop: Any) -> torch.Tensor:
        return arrays.one(function(arrays.user(y), times[start], times[stop]), y)

    setattr(propagate, "cost", getattr(function, "cost", 1))  # noqa: B010, a type checker would object
    return propagate
