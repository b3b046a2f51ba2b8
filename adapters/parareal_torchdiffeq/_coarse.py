"""The coarse propagator: one step per slice by a method given by name, or the caller's own propagator."""

from collections.abc import Callable
from typing import Any

import torch
from torchdiffeq._impl.odeint import SOLVERS

import parareal
from parareal.driver import one_of
from parareal_torchdiffeq._methods import METHODS, RungeKuttaMethod
from parareal_torchdiffeq._problem import FixedGridProblem
from parareal_torchdiffeq._state_format import StateFormat


def check_coarse(coarse: Any, method: str) -> None:
    """Raise `ValueError` or `TypeError` for an invalid `coarse`.

    Args:
        coarse: a propagator, None, `"auto"`, or the name of a method.
        method: the fine method, whose order that of a named coarse method must not exceed.
    """
    if isinstance(coarse, str):
        lower = [name for name in METHODS if SOLVERS[name].order <= SOLVERS[method].order]
        one_of("coarse", coarse, ["auto", *lower])
    elif not (coarse is None or callable(coarse) or isinstance(coarse, parareal.Steps)):
        raise TypeError(
            "coarse must be 'auto', the name of a method, a function (y, t0, t1) or parareal.Steps, "
            f"not {type(coarse).__name__}"
        )


def build_coarse_propagator(
    coarse: Any,
    fine: RungeKuttaMethod,
    problem: FixedGridProblem,
    state_format: StateFormat,
    criterion: parareal.AbstractCriterion,
) -> Any:
    """Return the coarse propagator in a form that `parareal.solve` accepts.

    Args:
        coarse: the argument of `odeint`, checked by `check_coarse`.
        fine: the fine stepper. A named method uses its `evaluate`, so that both share the first evaluation of a slice.
        problem: source of the times for the caller's functions.
        state_format: conversion of states for the caller's functions.
        criterion: if it estimates errors from embedded pairs, a named method returns results of lower order, too.
    """
    embedded = isinstance(criterion, parareal.Tolerance) and criterion.estimator is parareal.propagated_error
    if coarse in (None, "auto"):
        return parareal.Steps(fine.with_embedded() if embedded else fine, 1)
    if isinstance(coarse, str):
        method = METHODS[coarse]
        same = isinstance(fine, method)
        stepper = fine if same else method(fine.evaluate, fine.times, fine.dtype, fine.perturb)
        return parareal.Steps(stepper.with_embedded() if embedded else stepper, 1)
    if isinstance(coarse, parareal.Steps):
        return coarse
    # The class of vectorized functions is not public, so it is taken from an example.
    if isinstance(coarse, type(parareal.vectorized(_adapt_function))):
        return parareal.vectorized(_adapt_function(coarse.function, problem, state_format))
    return _adapt_function(coarse, problem, state_format)


def _adapt_function(
    function: Callable[[Any, Any, Any], Any], problem: FixedGridProblem, state_format: StateFormat
) -> Callable[[Any, Any, Any], Any]:
    """Return a function of the engine's states and nodes that calls one of the user's states and times."""
    times = -problem.times if problem.falling else problem.times

    def propagate(y: torch.Tensor, start: Any, stop: Any) -> torch.Tensor:
        return state_format.from_user(function(state_format.to_user(y), times[start], times[stop]), y)

    # The engine reads the cost of a propagation from this attribute.
    setattr(propagate, "cost", getattr(function, "cost", 1))  # noqa: B010, a type checker would object
    return propagate
