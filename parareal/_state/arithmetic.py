"""Sums, differences and comparisons of states."""

from typing import Any

import numpy as np
import torch

from parareal._state.trees import ARRAY, State, structure, tree_leaves, tree_map

SMALL = 4096  # bytes


def add(a: State, b: State) -> State:
    """Return a + b."""
    return _sum(a, b) if isinstance(a, ARRAY) else tree_map(_sum, a, b)


def subtract(a: State, b: State) -> State:
    """Return a - b."""
    return _difference(a, b) if isinstance(a, ARRAY) else tree_map(_difference, a, b)


def _sum(x: Any, y: Any) -> Any:
    return _array(x + y)


def _difference(x: Any, y: Any) -> Any:
    return _array(x - y)


def _array(x: Any) -> Any:
    """Undo what NumPy does to arrays without dimensions: arithmetic turns them into scalars."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def same(a: Any, b: Any) -> bool:
    """Return whether two states are equal bit by bit, so that a deterministic map sends both to one result."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        # a copy of a small array costs less than the calls that spare it
        return a.tobytes() == b.tobytes() if a.nbytes < SMALL else np.array_equal(_bits(a), _bits(b))
    if a is None or b is None:
        return False
    xs, ys = tree_leaves(a), tree_leaves(b)
    return structure(a) == structure(b) and all(_same(x, y) for x, y in zip(xs, ys, strict=True))


def _same(x: Any, y: Any) -> bool:
    if x is y:
        return True
    # equality is cheap and nearly always settles it; the bytes tell 0.0 from -0.0
    if isinstance(x, torch.Tensor):
        return torch.equal(x, y) and (not _inexact(x) or torch.equal(_bytes(x), _bytes(y)))
    return np.array_equal(x, y) and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _bits(x: np.ndarray) -> np.ndarray:
    """View an array's bytes; only one that is not contiguous is copied."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def finite(state: State) -> bool:
    """Return whether every number in a state is finite."""
    return all(
        bool(torch.isfinite(x).all()) if isinstance(x, torch.Tensor) else bool(np.isfinite(x).all())
        for x in tree_leaves(state)
    )


def missing(state: State) -> State:
    """Return a state like this one that stands for one that was never made: NaN where the dtype has it."""
    return tree_map(lambda x: x * float("nan") if _inexact(x) else x, state)


def inexact_and_counts(tree: Any) -> tuple[list[Any], list[Any]]:
    """Return the leaves of a tree that have a size, and those, of integers, that only count or name."""
    leaves = tree_leaves(tree)
    return [x for x in leaves if _inexact(x)], [x for x in leaves if not _inexact(x)]


def _inexact(x: Any) -> bool:
    if isinstance(x, torch.Tensor):
        return x.is_floating_point() or x.is_complex()
    return bool(np.issubdtype(np.asarray(x).dtype, np.inexact))
