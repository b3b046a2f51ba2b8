"""Pytrees of arrays: type aliases for signatures, and walks over leaves."""

from collections.abc import Callable
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import optree
import torch

State: TypeAlias = Any
"""the state of one sample: a Python number, a NumPy array, a torch tensor, or a pytree of them"""
Stack: TypeAlias = Any
"""the states of several rows: a pytree of arrays of shape (rows, *shape)"""
Memory: TypeAlias = Any
"""data that a method keeps between steps: a pytree of arrays of shape (rows, ...), or None"""
Nodes: TypeAlias = Any
"""an integer vector of shape (rows,): a torch tensor on the state's device, or a NumPy array, as the state is"""
Time: TypeAlias = Any
"""a boundary: a Python number, or a 0-d tensor; it is passed to functions as the caller gave it"""
Index: TypeAlias = slice | np.ndarray
"""rows of a stack: a slice, or an array of integers"""


LEAF = optree.treespec_leaf()
"""structure of a tree that is one leaf"""
REAL = (bool, int, float)
"""types of real Python numbers"""
ARRAY = (torch.Tensor, np.ndarray)
"""types of arrays"""
BARE = (torch.Tensor, np.ndarray, float, complex, NoneType)
"""types of trees that are one leaf or nothing, for which optree is not needed"""


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function leaf by leaf."""
    # Most states are one array, and memory is often None. optree would cost more than the function.
    if isinstance(trees[0], BARE):
        return None if trees[0] is None else function(*trees)
    return optree.tree_map(function, *trees)


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree."""
    return [tree] if isinstance(tree, ARRAY) else optree.tree_leaves(tree)


def structure(tree: Any) -> Any:
    """Return the structure of a tree, without its leaves."""
    return LEAF if isinstance(tree, ARRAY) else optree.tree_structure(tree)
