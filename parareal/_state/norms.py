"""Norms of states: Python floats, computed without overflow or underflow of squares."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from parareal._state.trees import ARRAY, State, tree_leaves


def _vector_norm(x: Any, order: float) -> tuple[float, int]:
    """Return the norm of one leaf and its number of entries."""
    if isinstance(x, torch.Tensor):
        x = x if x.is_floating_point() or x.is_complex() else x.double()
        value, size = float(torch.linalg.vector_norm(x, order)) if x.numel() else 0.0, x.numel()
    else:
        x = np.asarray(x).ravel()
        if order == 2 and x.dtype.kind in "fc":
            # faster than `np.linalg.norm`, which matters for the small states of plain ODEs
            square = float(np.vdot(x, x).real)
            if 1e-30 < square < 1e30:  # far from overflow and underflow in single and double precision
                return math.sqrt(square), x.size
        with np.errstate(over="ignore"):
            value, size = float(np.linalg.norm(x, order)) if x.size else 0.0, x.size
    # The squares of single precision underflow gradually below 1e-19, any squares at 0 and overflow at infinity. Then
    # the entries are scaled by the largest first. That is done only here, because it takes two further passes.
    if order != math.inf and (value in (0.0, math.inf) or (value < 1e-15 and x.real.dtype.itemsize <= 4)):
        largest, _ = _vector_norm(x, math.inf)
        if 0 < largest < math.inf:
            # `abs`: the division of a complex number by a subnormal one overflows
            value = largest * _vector_norm(abs(x) / largest, order)[0]
    return value, size


def _make_mean_norm(order: float) -> Callable[[State], float]:
    """Return the norm (mean of |x|^order)^(1/order) over all entries of a state."""

    def norm(state: State) -> float:
        if isinstance(state, ARRAY):
            return _mean(*_vector_norm(state, order), order)
        return _combine([_vector_norm(x, order) for x in tree_leaves(state)], order)

    return norm


def _mean(value: float, size: int, order: float) -> float:
    """Return the mean norm of one leaf from its vector norm; for an infinite order that is the vector norm itself."""
    return value / size ** (1 / order) if size else 0.0


def _combine(parts: list[tuple[float, int]], order: float) -> float:
    """Return the mean norm of a state from the vector norms and sizes of its leaves."""
    # the leaves' norms are scaled by the largest, again because their powers may overflow
    largest = largest_value(value for value, _ in parts)
    if order == math.inf or largest == 0.0 or not math.isfinite(largest):
        return largest
    total = sum((value / largest) ** order for value, _ in parts)
    return largest * (total / sum(size for _, size in parts)) ** (1 / order)


def _maximum(state: State) -> float:
    """Return the largest absolute value of all entries."""
    return largest_value(_vector_norm(x, math.inf)[0] for x in tree_leaves(state))


def largest_value(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if there is one, which Python's `max` may miss."""
    return float(np.max([0.0, *values]))


NORMS: dict[str, Callable[[State], float]] = {
    "rms": _make_mean_norm(2),  # root of the mean square
    "l1": _make_mean_norm(1),  # mean of the absolute values
    "max": _maximum,
}

_ORDERS = {"rms": 2, "l1": 1, "max": math.inf}


def measure_leaves(state: State, norm: str) -> tuple[float, tuple[float, ...]]:
    """Return the norm of a state, and those of its leaves, at the cost of one of them.

    Args:
        state: the state, or a difference of states.
        norm: a key of `NORMS`.
    """
    if isinstance(state, ARRAY):
        value = NORMS[norm](state)
        return value, (value,)
    order = _ORDERS[norm]
    parts = [_vector_norm(x, order) for x in tree_leaves(state)]
    return _combine(parts, order), tuple(_mean(value, size, order) for value, size in parts)
