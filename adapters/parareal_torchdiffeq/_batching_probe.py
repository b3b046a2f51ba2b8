"""Selection of the form in which a right-hand side written for one state evaluates many rows.

The user's `func(t, y)` is written for a scalar t and one state y. The probe calls it with a few rows of different times
and states, in one form after the other, and compares the result with one call per row:

1. `broadcast`: y with a leading axis of rows; t of shape (rows, 1, ..., 1), of the same rank as y;
2. `vector`: the same y; t of shape (rows,);
3. `vmap`: `torch.vmap` over both;
4. `rows`: one call per row, with a warning.

Every leaf of a tuple has the leading axis. If the leaves differ in rank, 1 and 2 are skipped: in 1 no shape of t has
the rank of all leaves, and 2 is not tried for such tuples. Where both results are NaN, they count as equal.

A function may take another branch at states that the probe did not try (a limiter, `torch.where`). After the solve the
form is therefore compared again, at the states of the solution, by `matches_single_calls`. If it fails there, the solve
is repeated with the next form.
"""

import warnings
from collections.abc import Collection
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
from torch import Size, Tensor
from torch.overrides import TorchFunctionMode

from parareal_torchdiffeq._batched_rhs import (
    BatchedRhs,
    Func,
    call_per_row,
    expand_slope,
    flatten_rhs,
    iterate_batched_forms,
)

_READING_OPERATIONS = {torch.equal, torch.allclose, torch.is_nonzero} | {
    getattr(Tensor, name)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__", "equal", "allclose")
}
"""operations that turn values of a tensor into a Python value, on which a function can branch"""


def find_form(
    func: Func, shapes: list[Size] | None, t: Tensor, y: Tensor, rejected_forms: Collection[str] = ()
) -> BatchedRhs:
    """Return the first form whose result agrees with one call per row.

    Args:
        func: the user's function.
        shapes: shapes of the leaves of a tuple; None if the state is a tensor.
        t: times for the rows, shape (times,); repeated if more rows are needed.
        y: a state; the rows are small perturbations of it.
        rejected_forms: forms that are known to disagree, which are skipped.

    Raises:
        ValueError: if func does not return a tensor of the dtype and shape of its state.
    """
    single = flatten_rhs(func, shapes)
    t, rows = _build_probe_rows(t, y, [y.shape] if shapes is None else shapes)
    expected = torch.stack([_check_slope(single(*row), y) for row in zip(t, rows, strict=True)])
    reasons = [f"{form}: rows differ from calls of one row each, in the solution" for form in rejected_forms]
    for candidate in iterate_batched_forms(func, shapes, y):
        form = candidate.form
        if form in rejected_forms:
            continue
        try:
            # A function that reads a value could branch on it, and the branch would be taken for all rows at once.
            with nullcontext() if form == "vmap" else _BranchGuard():  # torch.vmap refuses such reads itself
                # One row alone, too: the engine also makes calls of one row, and some functions fail only there.
                results = [candidate(t[:count], rows[:count]) for count in (len(t), 1)]
        except Exception as error:  # a function that was not written for rows may raise anything
            reasons.append(f"{form}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            continue
        if all(_is_close(result, expected[: len(result)]) for result in results):
            return candidate
        reasons.append(f"{form}: rows differ from calls of one row each")
    warnings.warn(
        "func cannot evaluate several rows in one call, so rows are evaluated one after the other and nothing is "
        "gained. Write func with operations on the last axes only, or such that torch.vmap accepts it. "
        f"Tried {'; '.join(reasons)}",
        UserWarning,
        stacklevel=3,
    )
    return call_per_row(func, shapes)


def matches_single_calls(rhs: BatchedRhs, func: Func, shapes: list[Size] | None, t: Tensor, y: Tensor) -> bool:
    """Return whether a form agrees with one call per row at states of the solution, which the probe did not try.

    Args:
        rhs: the form to check; it evaluates all rows in one call.
        func: the user's function, called for at most eight of the rows.
        shapes: shapes of the leaves of a tuple; None if the state is a tensor.
        t: times, shape (rows,).
        y: states, shape (rows, *state). Rows that are not finite are ignored.
    """
    finite_rows = y.reshape(len(y), -1).isfinite().all(1)
    t, y = t[finite_rows], y[finite_rows]
    if rhs.form == "rows" or not len(y):
        return True
    indices = torch.linspace(0, len(y) - 1, min(len(y), 8)).round().long()
    single = flatten_rhs(func, shapes)
    expected = torch.stack([expand_slope(single(t[i], y[i]), y[i]) for i in indices.tolist()])
    # All rows in one call, although only some are compared: a result may depend on which rows share the call.
    return _is_close(rhs(t, y)[indices], expected)


def _build_probe_rows(t: Tensor, y: Tensor, shapes: list[Size]) -> tuple[Tensor, Tensor]:
    """Return times and states of the probe: three rows or a few more, each state slightly different."""
    # The number of rows must differ from all dimensions of the state. Otherwise a function that broadcasts rows
    # against an axis of the state would return the expected shape.
    dimensions = {n for shape in shapes for n in shape}
    count = next(n for n in range(3, len(dimensions) + 4) if n not in dimensions)
    t = t[torch.arange(count, device=t.device) % len(t)]
    # Row i differs from the state by about i %, also where an entry is zero, and by another share in every entry.
    size = y.abs() + (y.abs().mean() or 1.0)  # 1 for a state of zeros
    pattern = torch.cos(torch.arange(prod(y.shape), device=y.device, dtype=size.dtype)).reshape(y.shape)
    rows = [y + 0.01 * i * pattern * size for i in range(count)]
    return t, torch.stack(rows)


def _check_slope(value: Any, y: Tensor) -> Tensor:
    """Return the result of func for the state y in the shape of y, or raise `ValueError`."""
    if not isinstance(value, Tensor):
        raise ValueError(f"func must return tensors like its state, but returned {type(value).__name__}")
    if value.dtype != y.dtype:
        raise ValueError(f"func returned {value.dtype} for a state of {y.dtype}: let it return the dtype of its state")
    try:
        return expand_slope(value, y).detach()
    except RuntimeError:
        raise ValueError(
            f"func returned shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}: "
            "let it return the shape of its state"
        ) from None


def _is_close(result: Tensor, expected: Tensor) -> bool:
    """Return whether two results agree up to the rounding differences between kernels."""
    tolerance = 1e3 * torch.finfo(expected.dtype).eps
    # Relative to the largest entry: entries that nearly cancel carry the rounding errors of the larger ones.
    scale = expected.abs().nan_to_num(0.0, 0.0).max().item() if expected.numel() else 0.0
    return torch.allclose(result, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


class _BranchGuard(TorchFunctionMode):
    """A mode that raises `TypeError` when a function reads a Python value out of a tensor.

    A branch on such a value would be taken for all rows of a call, although it may be right for one row only.
    """

    # A function mode, not a dispatch mode: that one imports torch's compiler, which takes a second at the first call.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` unless it reads a value."""
        if func in _READING_OPERATIONS:
            raise TypeError(f"it reads a number out of a tensor, with {func.__name__}")
        return func(*args, **(kwargs or {}))
