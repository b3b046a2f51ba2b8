"""The ways in which a right-hand side written for one state may take many rows at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _flat_to_shape, _TupleFunc

Func = Callable[[Any, Any], Any]


@final
@dataclass(frozen=True)
class RowsOf:
    """A right-hand side for rows: called with t of shape (rows,) and y of shape (rows, *state), it returns y's shape.

    A state that is a tuple is written as one vector, leaf after leaf.
    """

    form: str
    """`"broadcast"`, `"vector"`, `"vmap"` or `"rows"`"""
    function: Func

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate all rows."""
        return filled(self.function(t, y), y)


def filled(value: Tensor, like: Tensor) -> Tensor:
    """Return a slope for every entry of the state; adding it to the state would broadcast it too."""
    return value if value.shape == like.shape else value.expand(like.shape)


def one(func: Func, shapes: list[Size] | None) -> Func:
    """Return func for one state, a tuple written as one vector."""
    return func if shapes is None else _TupleFunc(func, shapes)


def batched(func: Func, shapes: list[Size] | None, y: Tensor) -> Iterator[RowsOf]:
    """Yield the forms that make one call, the cheapest first; the module `_batching_probe` describes them."""
    ranks = {y.ndim} if shapes is None else {len(shape) for shape in shapes}
    if len(ranks) == 1:
        ones = [1] * ranks.pop()
        many = func if shapes is None else _leading(func, shapes)
        yield RowsOf("broadcast", lambda t, y: many(t.reshape(-1, *ones), y))
        if ones:
            yield RowsOf("vector", many)
    yield RowsOf("vmap", torch.vmap(one(func, shapes)))


def one_by_one(func: Func, shapes: list[Size] | None) -> RowsOf:
    """Return the form that makes a call for each row."""
    single = one(func, shapes)
    return RowsOf("rows", lambda t, y: torch.stack([filled(single(*row), row[1]) for row in zip(t, y, strict=True)]))


def _leading(func: Func, shapes: list[Size]) -> Func:
    """Return func on rows of a tuple, written as rows of one vector."""

    def function(t: Tensor, y: Tensor) -> Tensor:
        leaves = _flat_to_shape(y, (len(y),), shapes)
        slopes = zip(func(t, leaves), leaves, strict=True)
        return torch.cat([filled(f, leaf).reshape(len(y), -1) for f, leaf in slopes], dim=1)

    return function
