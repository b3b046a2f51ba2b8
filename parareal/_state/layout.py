"""Layouts: library, dtype, shape and device of the leaves of a state, and conversion of results to them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import torch

from parareal._state.trees import ARRAY, LEAF, REAL, Stack, State, tree_leaves, tree_map


@dataclass(frozen=True, slots=True)
class Leaf:
    """Library, dtype, shape and device of one leaf. Leaves that agree in all four can be added."""

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


def describe_leaf(x: Any) -> Leaf:
    """Return the description of one leaf.

    Raises:
        TypeError: if it is not a number, a NumPy array or a torch tensor.
    """
    if isinstance(x, torch.Tensor):
        return Leaf("torch", x.dtype, tuple(x.shape), str(x.device))
    if isinstance(x, REAL):
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
    """The structure of a state and the description of each leaf."""

    tree: Any
    """structure of the pytree, as optree describes it"""
    leaves: tuple[Leaf, ...]
    """descriptions of the leaves, in optree's order"""

    @staticmethod
    def of(state: State) -> "Layout":
        """Return the layout of a state."""
        if isinstance(state, ARRAY):  # without optree, which costs more than the rest
            return Layout(LEAF, (describe_leaf(state),))
        leaves, tree = optree.tree_flatten(state)
        return Layout(tree, tuple(describe_leaf(x) for x in leaves))

    @property
    def numbers(self) -> int:
        """The count of numbers in a state, over all leaves."""
        return sum(math.prod(kind.shape) for kind in self.leaves)

    def __str__(self) -> str:
        """Describe the layout for an error message."""
        if len(self.leaves) == 1 and self.tree.is_leaf():
            return str(self.leaves[0])
        return f"a tree of {', '.join(map(str, self.leaves)) or 'nothing'}"

    def fits(self, state: State) -> bool:
        """Return whether a state is one NumPy array of this layout: a fast check for the usual case.

        False does not mean that the state is wrong: for anything but one NumPy array, compare `Layout.of(state)`.
        """
        if type(state) is not np.ndarray or len(self.leaves) != 1 or self.tree is not LEAF:
            return False
        kind = self.leaves[0]
        return kind.library == "numpy" and state.dtype == kind.dtype and state.shape == kind.shape

    def row(self, stack: Stack, index: int) -> State:
        """Return one row of a stack. It is a copy, so that it does not keep the whole stack alive."""
        if self.tree == LEAF and len(self.leaves) == 1:
            return _row(stack, index, self.leaves[0])
        rows = [_row(x, index, kind) for x, kind in zip(tree_leaves(stack), self.leaves, strict=True)]
        return optree.tree_unflatten(self.tree, rows)


def canonicalize(state: State) -> State:
    """Return a state with Python integers as floats and NumPy scalars as arrays.

    The first propagation would turn it into such a state anyway, and results must have the type of the initial state.
    """
    return tree_map(_canonicalize, state)


def conform(state: State, layout: "Layout") -> State:
    """Return a result with its scalars in the form of the layout: Python numbers, or arrays without dimensions.

    NumPy and Python mix these forms freely, so a propagator that returns the other one is not at fault.
    """
    if isinstance(state, torch.Tensor):
        return state
    leaves, tree = optree.tree_flatten(state)
    if len(leaves) != len(layout.leaves):
        return state  # the caller compares layouts, and raises
    return optree.tree_unflatten(tree, [_conform(x, kind) for x, kind in zip(leaves, layout.leaves, strict=True)])


def _conform(x: Any, kind: Leaf) -> Any:
    if kind.library == "numpy" and isinstance(x, np.generic | float | complex):
        return np.asarray(x)
    if kind.dtype == "complex" and isinstance(x, int | float):
        return complex(x)
    return _canonicalize(x)


def _canonicalize(x: Any) -> Any:
    if isinstance(x, REAL):
        return float(x)
    if isinstance(x, complex):
        return complex(x)
    if isinstance(x, torch.Tensor):
        return x.detach()  # iterates must not keep a graph alive
    return np.asarray(x) if isinstance(x, np.generic) else x


def copy(state: State) -> State:
    """Return a copy that shares no memory with the state."""
    if isinstance(state, np.ndarray):  # the usual case, without a walk over the tree
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


def epsilon(layout: Layout) -> float:
    """Return the machine epsilon of the least precise dtype in a state; that of double precision if none is lower."""
    return max([float(np.finfo(np.float64).eps), *leaf_epsilons(layout)])


def leaf_epsilons(layout: Layout) -> tuple[float, ...]:
    """Return the machine epsilon of every leaf; that of double precision for Python numbers and integers."""
    return tuple(_epsilon(kind) for kind in layout.leaves)


def _epsilon(kind: Leaf) -> float:
    if kind.library == "torch" and (kind.dtype.is_floating_point or kind.dtype.is_complex):
        return float(torch.finfo(kind.dtype).eps)
    inexact = kind.library == "numpy" and np.issubdtype(kind.dtype, np.inexact)
    return float(np.finfo(kind.dtype if inexact else np.float64).eps)
