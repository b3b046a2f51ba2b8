"""Finding out how a right-hand side written for one state takes many rows at once.

The user's `func(t, y)` is written for a scalar t and one state y. Tried in this order, on a few rows of different times
and states, and compared with as many calls of one row each:

1. `broadcast`: y with a leading axis of rows, t of shape (rows, 1, ..., 1) with as many dimensions as y;
2. `vector`: the same y, t of shape (rows,);
3. `vmap`: `torch.vmap` over both;
4. `rows`: one row after the other, with a warning.

A tuple's leaves get the leading axis each. Where they differ in rank no shape of t suits all of them, so that 1 and 2
are left out. Values of NaN in both count as equal.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, final

import torch
from torch import Size, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
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
        value = self.function(t, y)
        return value if value.shape == y.shape else value.expand(y.shape)


def find(func: Func, shapes: list[Size] | None, t: Tensor, y: Tensor) -> RowsOf:
    """Return the first form that agrees with calls of one row each.

    Args:
        func: the user's function.
        shapes: those of a tuple's leaves, None where the state is a tensor.
        t: times to try, shape (3,) or more; where shorter they repeat.
        y: a state.

    Raises:
        ValueError: where func returns something that is no derivative of its state.
    """
    single: Func = func if shapes is None else _TupleFunc(func, shapes)
    t, rows = _sample(t, y, [y.shape] if shapes is None else shapes)
    expected = torch.stack([_checked(single(*row), y) for row in zip(t, rows, strict=True)])
    reasons = []
    for form, function, watch in _forms(func, single, shapes, y):
        candidate = RowsOf(form, function)
        try:
            with watch:
                found = [candidate(t[:count], rows[:count]) for count in (len(t), 1)]
        except Exception as error:  # whatever a function not written for rows may raise
            reasons.append(f"{form}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            continue
        if all(_close(f, expected[: len(f)]) for f in found):
            return candidate
        reasons.append(f"{form}: rows differ from calls of one row each")
    warnings.warn(
        "func takes no rows, so they are evaluated one after the other, which gains nothing: write it with operations "
        f"on the last axes only, or such that torch.vmap takes it. Tried {'; '.join(reasons)}",
        UserWarning,
        stacklevel=3,
    )
    return RowsOf("rows", lambda t, y: torch.stack([_filled(single(*row), row[1]) for row in zip(t, y, strict=True)]))


def _forms(func: Func, single: Func, shapes: list[Size] | None, y: Tensor) -> Iterator[tuple[str, Func, Any]]:
    ranks = {y.ndim} if shapes is None else {len(shape) for shape in shapes}
    if len(ranks) == 1:
        ones = [1] * ranks.pop()
        many = func if shapes is None else _leading(func, shapes)
        yield "broadcast", lambda t, y: many(t.reshape(-1, *ones), y), _NoBranches()
        if ones:
            yield "vector", many, _NoBranches()
    yield "vmap", torch.vmap(single), nullcontext()


def _leading(func: Func, shapes: list[Size]) -> Func:
    """Return func on rows of a tuple, written as rows of one vector."""

    def function(t: Tensor, y: Tensor) -> Tensor:
        leaves = _flat_to_shape(y, (len(y),), shapes)
        slopes = zip(func(t, leaves), leaves, strict=True)
        return torch.cat([_filled(f, leaf).reshape(len(y), -1) for f, leaf in slopes], dim=1)

    return function


def _filled(value: Tensor, like: Tensor) -> Tensor:
    return value if value.shape == like.shape else value.expand(like.shape)


def _sample(t: Tensor, y: Tensor, shapes: list[Size]) -> tuple[Tensor, Tensor]:
    """Return times and slightly different states; their number is no dimension of the state, so that mix-ups show."""
    dimensions = {n for shape in shapes for n in shape}
    count = next(n for n in range(3, len(dimensions) + 4) if n not in dimensions)
    t = t[torch.arange(count, device=t.device) % len(t)]
    size = y.abs() + (y.abs().mean() or 1.0)
    pattern = torch.cos(torch.arange(prod(y.shape), device=y.device, dtype=size.dtype)).reshape(y.shape)
    rows = [y + 0.01 * i * pattern * size for i in range(count)]
    return t, torch.stack(rows)


def _checked(value: Any, y: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"func must return tensors like its state, not {type(value).__name__}")
    if value.dtype != y.dtype:
        raise ValueError(f"func returns {value.dtype} for a state of {y.dtype}: let it return the dtype of its state")
    try:
        return _filled(value, y).detach()
    except RuntimeError:
        raise ValueError(
            f"func returns shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}: "
            "let it return the shape of its state"
        ) from None


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results agree but for the rounding of other kernels."""
    tolerance = torch.finfo(expected.dtype).eps ** 0.4
    scale = expected.abs().nan_to_num(0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


class _NoBranches(TorchDispatchMode):
    """Refuse to read a number out of a tensor: a branch that one row takes must not be taken for all of them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let everything else pass."""
        if func is torch.ops.aten._local_scalar_dense.default:
            raise TypeError("it reads a number out of a tensor, with bool(), float() or item()")
        return func(*args, **(kwargs or {}))
