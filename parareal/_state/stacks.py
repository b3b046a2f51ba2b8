"""Stacks: the states of several rows, with one additional leading axis on every leaf."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from parareal._state.trees import ARRAY, Index, Stack, State, tree_leaves, tree_map


def stack(states: Sequence[State]) -> Stack:
    """Stack states on a new leading axis."""
    return tree_map(lambda *xs: torch.stack(xs) if isinstance(xs[0], torch.Tensor) else np.stack(xs), *states)


def concatenate(stacks: Sequence[Stack]) -> Stack:
    """Join stacks along their leading axis; a single one is returned as it is."""
    if len(stacks) == 1:  # no copy: most batches are one group
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


def count_rows(stacked: Stack) -> int:
    """Return the number of rows of a stack."""
    return len(stacked if isinstance(stacked, ARRAY) else tree_leaves(stacked)[0])


def has_rows(stacked: Any, count: int) -> bool:
    """Return whether every leaf is an array with `count` rows."""
    if isinstance(stacked, ARRAY):
        return stacked.ndim > 0 and len(stacked) == count
    return all(tuple(getattr(x, "shape", ()))[:1] == (count,) for x in tree_leaves(stacked))
