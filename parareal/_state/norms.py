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
    # Zero or infinity may be underflow or overflow of the squares. Then the entries are scaled by the largest first.
    # That is done only now, because it takes two further passes.
    if value in (0.0, math.inf) and order != math.inf:
        largest, _ = _vector_norm(x, math.inf)
        if 0 < largest < math.inf:
            value = largest * _vector_norm(x / largest, order)[0]
    return value, size


def _make_mean_norm(order: float) -> Callable[[State], float]:
    """Return the norm (mean of |x|^order)^(1/order) over all entries of a state."""

    def norm(state: State) -> float:
        if isinstance(state, ARRAY):
            value, size = _vector_norm(state, order)
            return value / size ** (1 / order) if size else 0.0
        # the leaves' norms are scaled by the largest, again because their powers may overflow
        parts = [_vector_norm(x, order) for x in tree_leaves(state)]
        largest = _largest(value for value, _ in parts)
        if largest == 0.0 or not math.isfinite(largest):
            return largest
        total = sum((value / largest) ** order for value, _ in parts)
        return largest * (total / sum(size for _, size in parts)) ** (1 / order)

    return norm


def _maximum(state: State) -> float:
    """Return the largest absolute value of all entries."""
    return _largest(_vector_norm(x, math.inf)[0] for x in tree_leaves(state))


def _largest(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if there is one, which Python's `max` may miss."""
    return float(np.max([0.0, *values]))


NORMS: dict[str, Callable[[State], float]] = {
    "rms": _make_mean_norm(2),  # root of the mean square
    "l1": _make_mean_norm(1),  # mean of the absolute values
    "max": _maximum,
}
