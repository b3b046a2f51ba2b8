"""Trees of arrays: the names for states in signatures, and walks over their leaves."""

from collections.abc import Callable
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


LEAF = optree.treespec_leaf()
REAL = (bool, int, float)
ARRAY = (torch.Tensor, np.ndarray)
BARE = (torch.Tensor, np.ndarray, float, complex, NoneType)


def tree_map(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function leaf by leaf, without a detour through optree where the tree is one leaf or nothing."""
    if isinstance(trees[0], BARE):
        return None if trees[0] is None else function(*trees)
    return optree.tree_map(function, *trees)


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, quickly where it is one leaf."""
    return [tree] if isinstance(tree, ARRAY) else optree.tree_leaves(tree)


def structure(tree: Any) -> Any:
    """Return the structure of a tree, without its leaves."""
    return LEAF if isinstance(tree, ARRAY) else optree.tree_structure(tree)
