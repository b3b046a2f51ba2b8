"""Finding out how a right-hand side written for one state takes many rows at once.

The user's `func(t, y)` is written for a scalar t and one state y. Tried in this order, on a few rows of different times
and states, and compared with as many calls of one row each:

1. `broadcast`: y with a leading axis of rows, t of shape (rows, 1, ..., 1) with as many dimensions as y;
2. `vector`: the same y, t of shape (rows,);
3. `vmap`: `torch.vmap` over both;
4. `rows`: one row after the other, with a warning.

A tuple's leaves get the leading axis each. Where they differ in rank no shape of t suits all of them, so that 1 and 2
are left out. Values of NaN in both count as equal.

A function may take another branch where the probe has not looked (a limiter, `torch.where`), so the form is held
against the solution's own states at the end, by `agrees`; where it fails, the next form solves anew.
"""

import warnings
from collections.abc import Collection
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from torch import Size, Tensor
from torch.overrides import TorchFunctionMode

from parareal_torchdiffeq._batched_rhs import Func, RowsOf, batched, filled, one, one_by_one

_READS = {torch.equal, torch.allclose, torch.is_nonzero} | {
    getattr(Tensor, name)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__", "equal", "allclose")
}


def find(func: Func, shapes: list[Size] | None, t: Tensor, y: Tensor, refuted: Collection[str] = ()) -> RowsOf:
    """Return the first form that agrees with calls of one row each.

    Args:
        func: the user's function.
        shapes: those of a tuple's leaves, None where the state is a tensor.
        t: times to try, shape (3,) or more; where shorter they repeat.
        y: a state.
        refuted: forms that are known not to agree.

    Raises:
        ValueError: where func returns something that is no derivative of its state.
    """
    single = one(func, shapes)
    t, rows = _sample(t, y, [y.shape] if shapes is None else shapes)
    expected = torch.stack([_checked(single(*row), y) for row in zip(t, rows, strict=True)])
    reasons = [f"{form}: rows differ from calls of one row each, in the solution" for form in refuted]
    for candidate in batched(func, shapes, y):
        form = candidate.form
        if form in refuted:
            continue
        try:
            with nullcontext() if form == "vmap" else _NoBranches():  # vmap refuses branches itself
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
    return one_by_one(func, shapes)


def agrees(rows: RowsOf, func: Func, shapes: list[Size] | None, t: Tensor, y: Tensor) -> bool:
    """Return whether a form still agrees on many rows of the solution itself, where the probe may not have looked.

    All rows y, of shape (rows, *state), at times t are evaluated in one call, some of them alone.
    """
    known = y.reshape(len(y), -1).isfinite().all(1)
    t, y = t[known], y[known]
    if rows.form == "rows" or not len(y):
        return True
    some = torch.linspace(0, len(y) - 1, min(len(y), 8)).round().long()
    single = one(func, shapes)
    alone = torch.stack([filled(single(t[i], y[i]), y[i]) for i in some.tolist()])
    return _close(rows(t, y)[some], alone)


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
        return filled(value, y).detach()
    except RuntimeError:
        raise ValueError(
            f"func returns shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}: "
            "let it return the shape of its state"
        ) from None


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results agree but for the rounding of other kernels."""
    tolerance = 1e3 * torch.finfo(expected.dtype).eps
    scale = expected.abs().nan_to_num(0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


class _NoBranches(TorchFunctionMode):
    """Refuse to read a number out of a tensor: a branch that one row takes must not be taken for all of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let everything else pass."""
        if func in _READS:
            raise TypeError(f"it reads a number out of a tensor, with {func.__name__}")
        return func(*args, **(kwargs or {}))
