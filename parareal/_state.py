"""Arithmetic on states: the one place that tells Python numbers, NumPy arrays and torch tensors apart.

A *state* is a Python number, a NumPy array, a torch tensor, or a pytree of them. A *stack* holds the states
of several rows: the same pytree with one more, leading, axis on every leaf. A stack's leaves are arrays, also
where the states are Python numbers.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import optree
import torch

State: TypeAlias = Any
Stack: TypeAlias = Any
Memory: TypeAlias = Any
"""what a method remembers between steps: arrays with a leading axis of rows, or None"""
Nodes: TypeAlias = Any
"""an integer vector of shape (rows,): a torch tensor on the state's device, or a NumPy array, as the state is"""
Time: TypeAlias = Any
"""a boundary: a Python number, or a 0-d tensor; functions are given what the caller gave"""
Index: TypeAlias = slice | np.ndarray


_LEAF = optree.treespec_leaf()
_REAL = (bool, int, float)
_ARRAY = (torch.Tensor, np.ndarray)
_SMALL = 4096  # bytes
_BARE = (torch.Tensor, np.ndarray, float, complex, NoneType)


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function leaf by leaf, without a detour through optree where the tree is one leaf or nothing."""
    if isinstance(trees[0], _BARE):
        return None if trees[0] is None else function(*trees)
    return optree.tree_map(function, *trees)


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, quickly where it is one leaf."""
    return [tree] if isinstance(tree, _ARRAY) else optree.tree_leaves(tree)


def structure(tree: Any) -> Any:
    """Return the structure of a tree, without its leaves."""
    return _LEAF if isinstance(tree, _ARRAY) else optree.tree_structure(tree)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What two leaves must share to be added: the library, the dtype, the shape and the device."""

    library: str
    dtype: Any
    shape: tuple[int, ...]
    device: str = ""

    def __str__(self) -> str:
        """Describe the leaf for an error message."""
        if self.library == "python":
            return f"a Python {self.dtype}"
        place = f" on {self.device}" if self.device not in ("", "cpu") else ""
        return f"a {self.library} array of shape {self.shape} and dtype {self.dtype}{place}"


def leaf(x: Any) -> Leaf:
    """Describe one leaf. Raises `TypeError` for anything but a number, a NumPy array or a torch tensor."""
    if isinstance(x, torch.Tensor):
        return Leaf("torch", x.dtype, tuple(x.shape), str(x.device))
    if isinstance(x, _REAL):
        return Leaf("python", "float", ())
    if isinstance(x, complex):
        return Leaf("python", "complex", ())
    if isinstance(x, np.ndarray | np.generic):
        return Leaf("numpy", x.dtype, x.shape)
    raise TypeError(
        f"a state must be a Python number, a NumPy array, a torch tensor or a pytree of them, not {type(x).__name__}"
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of a state and what each of its leaves is."""

    tree: Any
    leaves: tuple[Leaf, ...]

    @staticmethod
    def of(state: State) -> "Layout":
        """Describe `state`."""
        if isinstance(state, _ARRAY):
            return Layout(_LEAF, (leaf(state),))
        leaves, tree = optree.tree_flatten(state)
        return Layout(tree, tuple(leaf(x) for x in leaves))

    @property
    def numbers(self) -> int:
        """How many numbers a state has."""
        return sum(math.prod(kind.shape) for kind in self.leaves)

    def __str__(self) -> str:
        """Describe the layout for an error message."""
        if len(self.leaves) == 1 and self.tree.is_leaf():
            return str(self.leaves[0])
        return f"a tree of {', '.join(map(str, self.leaves)) or 'nothing'}"

    def fits(self, state: State) -> bool:
        """Return whether a state is one NumPy array, as this layout has it; False for all others, right or wrong."""
        if type(state) is not np.ndarray or len(self.leaves) != 1 or self.tree is not _LEAF:
            return False
        kind = self.leaves[0]
        return kind.library == "numpy" and state.dtype == kind.dtype and state.shape == kind.shape

    def row(self, stack: Stack, index: int) -> State:
        """Return a copy of one row of a stack, which then does not keep the whole stack alive."""
        if self.tree == _LEAF and len(self.leaves) == 1:
            return _row(stack, index, self.leaves[0])
        rows = [_row(x, index, kind) for x, kind in zip(tree_leaves(stack), self.leaves, strict=True)]
        return optree.tree_unflatten(self.tree, rows)


def canonical(state: State) -> State:
    """Turn integers into floats and NumPy scalars into arrays, so that results can keep the type."""
    return tree_map(_canonical, state)


def conform(state: State, layout: "Layout") -> State:
    """Return a result with its numbers written as the layout has them: Python's, or arrays without dimensions."""
    if isinstance(state, torch.Tensor):
        return state
    leaves, tree = optree.tree_flatten(state)
    if len(leaves) != len(layout.leaves):
        return state
    return optree.tree_unflatten(tree, [_conform(x, kind) for x, kind in zip(leaves, layout.leaves, strict=True)])


def _conform(x: Any, kind: Leaf) -> Any:
    if kind.library == "numpy" and isinstance(x, np.generic | float | complex):
        return np.asarray(x)
    if kind.dtype == "complex" and isinstance(x, int | float):
        return complex(x)
    return _canonical(x)


def _canonical(x: Any) -> Any:
    if isinstance(x, _REAL):
        return float(x)
    if isinstance(x, complex):
        return complex(x)
    if isinstance(x, torch.Tensor):
        return x.detach()
    return np.asarray(x) if isinstance(x, np.generic) else x


def copy(state: State) -> State:
    """Return a copy that shares no memory with the state."""
    if isinstance(state, np.ndarray):
        return state.copy()
    return tree_map(_copy, state)


def _copy(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.clone()
    return x.copy() if isinstance(x, np.ndarray) else x


def _row(x: Any, index: int, kind: Leaf) -> Any:
    if isinstance(x, torch.Tensor):
        return x[index].clone()
    return x[index].item() if kind.library == "python" else np.array(x[index])


def stack(states: Sequence[State]) -> Stack:
    """Stack states on a new leading axis."""
    return tree_map(lambda *xs: torch.stack(xs) if isinstance(xs[0], torch.Tensor) else np.stack(xs), *states)


def concatenate(stacks: Sequence[Stack]) -> Stack:
    """Join stacks along their leading axis; a single one is returned as it is."""
    if len(stacks) == 1:
        return stacks[0]
    return tree_map(lambda *xs: torch.cat(xs) if isinstance(xs[0], torch.Tensor) else np.concatenate(xs), *stacks)


def take(stacked: Stack, index: Index) -> Stack:
    """Return the rows of a stack that a slice (a view) or an array of integers (a copy) selects."""
    return tree_map(lambda x: x[_index(x, index)], stacked)


def _index(x: Any, index: Index) -> Any:
    """Return an index that suits the library and device of the array `x`."""
    if isinstance(index, slice) or not isinstance(x, torch.Tensor):
        return index
    return torch.from_numpy(index).to(x.device)


def rows(stacked: Stack) -> int:
    """Return the number of rows of a stack."""
    return len(stacked if isinstance(stacked, _ARRAY) else tree_leaves(stacked)[0])


def has_rows(stacked: Any, count: int) -> bool:
    """Return whether every leaf is an array with `count` rows."""
    if isinstance(stacked, _ARRAY):
        return stacked.ndim > 0 and len(stacked) == count
    return all(tuple(getattr(x, "shape", ()))[:1] == (count,) for x in tree_leaves(stacked))


def add(a: State, b: State) -> State:
    """Return a + b."""
    return _sum(a, b) if isinstance(a, _ARRAY) else tree_map(_sum, a, b)


def subtract(a: State, b: State) -> State:
    """Return a - b."""
    return _difference(a, b) if isinstance(a, _ARRAY) else tree_map(_difference, a, b)


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
        return a.tobytes() == b.tobytes() if a.nbytes < _SMALL else np.array_equal(_bits(a), _bits(b))
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


def _vector_norm(x: Any, order: float) -> tuple[float, int]:
    """Return the norm of one leaf and its number of entries, with neither overflow nor underflow of squares."""
    if isinstance(x, torch.Tensor):
        x = x if x.is_floating_point() or x.is_complex() else x.double()
        value, size = float(torch.linalg.vector_norm(x, order)) if x.numel() else 0.0, x.numel()
    else:
        x = np.asarray(x).ravel()
        if order == 2 and x.dtype.kind in "fc":
            square = float(np.vdot(x, x).real)
            if 1e-30 < square < 1e30:  # far from overflow and underflow in single and double precision
                return math.sqrt(square), x.size
        with np.errstate(over="ignore"):
            value, size = float(np.linalg.norm(x, order)) if x.size else 0.0, x.size
    if value in (0.0, math.inf) and order != math.inf:
        largest, _ = _vector_norm(x, math.inf)
        if 0 < largest < math.inf:
            value = largest * _vector_norm(x / largest, order)[0]
    return value, size


def _mean_norm(order: float) -> Callable[[State], float]:
    def norm(state: State) -> float:
        if isinstance(state, _ARRAY):
            value, size = _vector_norm(state, order)
            return value / size ** (1 / order) if size else 0.0
        parts = [_vector_norm(x, order) for x in tree_leaves(state)]
        largest = _largest(value for value, _ in parts)
        if largest == 0.0 or not math.isfinite(largest):
            return largest
        total = sum((value / largest) ** order for value, _ in parts)
        return largest * (total / sum(size for _, size in parts)) ** (1 / order)

    return norm


def _maximum(state: State) -> float:
    return _largest(_vector_norm(x, math.inf)[0] for x in tree_leaves(state))


def _largest(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if there is one, which `max` would overlook."""
    return float(np.max([0.0, *values]))


NORMS: dict[str, Callable[[State], float]] = {
    "rms": _mean_norm(2),  # root of the mean square
    "l1": _mean_norm(1),  # mean of the absolute values
    "max": _maximum,
}


def epsilon(layout: Layout) -> float:
    """Return the spacing at 1 of the coarsest floating dtype in a state; double precision where there is none."""
    spacings = [float(np.finfo(np.float64).eps)]
    for kind in layout.leaves:
        if kind.library == "torch" and (kind.dtype.is_floating_point or kind.dtype.is_complex):
            spacings.append(torch.finfo(kind.dtype).eps)
        elif kind.library == "numpy" and np.issubdtype(kind.dtype, np.inexact):
            spacings.append(float(np.finfo(kind.dtype).eps))
    return float(max(spacings))


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
