"""Sums, differences and comparisons of states."""

from typing import Any

import numpy as np
import torch

from parareal._state.trees import ARRAY, State, structure, tree_leaves, tree_map

SMALL_BYTES = 4096
"""size below which arrays are compared as byte strings"""


def add(a: State, b: State) -> State:
    """Return a + b."""
    # arrays skip `tree_map`, whose call is a large part of the time on small states
    return _sum(a, b) if isinstance(a, ARRAY) else tree_map(_sum, a, b)


def subtract(a: State, b: State) -> State:
    """Return a - b."""
    return _difference(a, b) if isinstance(a, ARRAY) else tree_map(_difference, a, b)


def _sum(x: Any, y: Any) -> Any:
    return _array(x + y)


def _difference(x: Any, y: Any) -> Any:
    return _array(x - y)


def _array(x: Any) -> Any:
    """Return a NumPy scalar as an array: NumPy's arithmetic turns arrays without dimensions into scalars."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def same(a: Any, b: Any) -> bool:
    """Return whether two states are equal bit by bit, so that a deterministic map has one result for both.

    0.0 and -0.0 differ: a division tells them apart. States that hold NaN may count as different.
    """
    # The usual case first: an exact boundary passes on the same object in every iteration.
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        # for a small array copying its bytes costs less than the NumPy calls that avoid the copy
        return a.tobytes() == b.tobytes() if a.nbytes < SMALL_BYTES else np.array_equal(_bits(a), _bits(b))
    if a is None or b is None:
        return False
    xs, ys = tree_leaves(a), tree_leaves(b)
    return structure(a) == structure(b) and all(_same(x, y) for x, y in zip(xs, ys, strict=True))


def _same(x: Any, y: Any) -> bool:
    """Return whether two leaves are equal bit by bit."""
    if x is y:
        return True
    # Equality is cheap, and states that differ nearly always differ here. The bytes tell 0.0 from -0.0.
    if isinstance(x, torch.Tensor):
        return torch.equal(x, y) and (not _inexact(x) or torch.equal(_bytes(x), _bytes(y)))
    return np.array_equal(x, y) and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _bits(x: np.ndarray) -> np.ndarray:
    """Return an array's bytes as a view; an array that is not contiguous is copied."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor's bytes as a view; a copy if it is not contiguous, or not conjugated or negated yet."""
    return x.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def finite(state: State) -> bool:
    """Return whether every number in a state is finite."""
    return all(
        bool(torch.isfinite(x).all()) if isinstance(x, torch.Tensor) else bool(np.isfinite(x).all())
        for x in tree_leaves(state)
    )


def nan_like(state: State) -> State:
    """Return a state of NaN like this one, in place of a state that does not exist; integers are kept as they are."""
    return tree_map(lambda x: x * float("nan") if _inexact(x) else x, state)


def split_inexact(tree: Any) -> tuple[list[Any], list[Any]]:
    """Split the leaves of a tree into those of real or complex numbers, and those of integers, which count or name."""
    leaves = tree_leaves(tree)
    return [x for x in leaves if _inexact(x)], [x for x in leaves if not _inexact(x)]


def _inexact(x: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return x.is_floating_point() or x.is_complex()
    return bool(np.issubdtype(np.asarray(x).dtype, np.inexact))
