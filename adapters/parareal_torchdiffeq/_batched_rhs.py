"""Forms in which a right-hand side written for one state can evaluate many rows in one call."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _flat_to_shape, _TupleFunc

Func = Callable[[Any, Any], Any]


@final
@dataclass(frozen=True)
class BatchedRhs:
    """A right-hand side for rows: maps t of shape (rows,) and y of shape (rows, *state) to slopes of the shape of y.

    The leaves of a tuple are concatenated into one vector per row, in order.
    """

    form: str
    """`"broadcast"`, `"vector"`, `"vmap"` or `"rows"`"""
    function: Func
    """the user's function, adapted to this form; its result may still need to be expanded to the shape of y"""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate all rows."""
        return expand_slope(self.function(t, y), y)


def expand_slope(slope: Tensor, like: Tensor) -> Tensor:
    """Return the slope in the shape of the state.

    torchdiffeq accepts a slope that broadcasts against the state, because it only adds it to the state. Slopes of
    several rows that are stacked or compared need the whole shape.
    """
    return slope if slope.shape == like.shape else slope.expand(like.shape)


def flatten_rhs(func: Func, shapes: list[Size] | None) -> Func:
    """Return func for one state; the leaves of a tuple are concatenated into one vector."""
    return func if shapes is None else _TupleFunc(func, shapes)


def iterate_batched_forms(func: Func, shapes: list[Size] | None, y: Tensor) -> Iterator[BatchedRhs]:
    """Yield the forms that need one call for all rows, the cheapest first. `_batching_probe` describes them."""
    ranks = {y.ndim} if shapes is None else {len(shape) for shape in shapes}
    # `broadcast` gives t the rank of the leaves, so they must be of one rank. For other tuples `vector` is not tried
    # either.
    if len(ranks) == 1:
        ones = [1] * ranks.pop()
        evaluate_rows = func if shapes is None else _flatten_rows(func, shapes)
        yield BatchedRhs("broadcast", lambda t, y: evaluate_rows(t.reshape(-1, *ones), y))
        if ones:  # for scalar states both forms are the same
            yield BatchedRhs("vector", evaluate_rows)
    yield BatchedRhs("vmap", torch.vmap(flatten_rhs(func, shapes)))


def call_per_row(func: Func, shapes: list[Size] | None) -> BatchedRhs:
    """Return the form that makes one call per row."""
    single = flatten_rhs(func, shapes)
    return BatchedRhs(
        "rows", lambda t, y: torch.stack([expand_slope(single(*row), row[1]) for row in zip(t, y, strict=True)])
    )


def _flatten_rows(func: Func, shapes: list[Size]) -> Func:
    """Return func for rows of a tuple, with the leaves of every row concatenated into one vector."""

    def function(t: Tensor, y: Tensor) -> Tensor:
        leaves = _flat_to_shape(y, (len(y),), shapes)
        slopes = zip(func(t, leaves), leaves, strict=True)
        # Expanded leaf by leaf, because in the concatenated vector it is unknown which leaf a smaller slope belongs to.
        return torch.cat([expand_slope(slope, leaf).reshape(len(y), -1) for slope, leaf in slopes], dim=1)

    return function
