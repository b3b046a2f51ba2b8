"""Checks of states: the initial one, a guess, and what a propagator returns."""

from typing import Any

import torch

from parareal._state import Layout, State, canonicalize, conform, finite, stack, structure, take, tree_leaves, tree_map


class StructureError(TypeError, ValueError):
    """A propagator returned a state that cannot be added to the one it was given."""


def check_initial(initial: State, batch_dims: int) -> tuple[list[State], Layout]:
    """Split an initial state into its samples and describe one of them."""
    if batch_dims not in (0, 1):
        raise ValueError(f"batch_dims must be 0 (one sample) or 1 (leading axis counts samples), not {batch_dims!r}")
    initial = canonicalize(initial)
    whole = Layout.of(initial)
    if not whole.leaves:
        raise ValueError("initial holds no number and no array")
    for kind in whole.leaves:
        if (kind.library == "torch" and kind.dtype in (torch.float16, torch.bfloat16)) or str(kind.dtype) == "float16":
            raise TypeError(
                f"states must be float32 or float64, not {kind.dtype}: corrections would be lost in rounding. "
                "Keep the state in float32 and cast inside the propagator"
            )
        if "bool" in str(kind.dtype):
            raise TypeError("states must be numbers, not truth values: there is no difference of two of them")
    if not finite(initial):
        raise ValueError("initial holds a number that is not finite")
    if batch_dims == 0:
        samples = [initial]
    else:
        counts = {kind.shape[0] if kind.shape else 0 for kind in whole.leaves}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(
                "batch_dims=1 needs a leading axis of one common length on every array of the state, got "
                f"{whole}: pass batch_dims=0 for a single sample"
            )
        samples = [take_row(initial, i) for i in range(counts.pop())]
    return samples, Layout.of(samples[0])


def take_row(stacked: Any, row: int) -> State:
    """Return one row of stacked states as NumPy or torch arrays."""
    one = take(stacked, slice(row, row + 1))
    return tree_map(lambda x: x.reshape(x.shape[1:]), one)


def check_guess(guess: Any, boundaries: int, samples: int, layout: Layout, batch_dims: int) -> list[list[State]]:
    """Return `guess[sample][boundary]` from states stacked along boundaries, or a sequence of them."""
    wanted = f"{boundaries} states, one for each boundary, each like the initial state"
    if isinstance(guess, list | tuple) and structure(guess) != layout.tree:
        if len(guess) != boundaries:
            raise ValueError(f"guess must hold {wanted}, got a sequence of {len(guess)}")
        guess = stack([canonicalize(g) for g in guess])
    if structure(guess) != layout.tree:
        raise ValueError(f"guess must hold {wanted} ({layout}), got the structure {structure(guess)}")
    lead = (boundaries, samples)[: 1 + batch_dims]
    for x, kind in zip(tree_leaves(guess), layout.leaves, strict=True):
        if tuple(getattr(x, "shape", ())) != (*lead, *kind.shape):
            raise ValueError(f"guess must have shape {(*lead, *kind.shape)}, got {getattr(x, 'shape', ())}: {wanted}")
    if not finite(guess):
        raise ValueError("guess holds a number that is not finite")
    by_boundary = [take_row(guess, n) for n in range(boundaries)]
    columns = [[g] if batch_dims == 0 else [take_row(g, b) for b in range(samples)] for g in by_boundary]
    states = [[_like(column[b], layout) for column in columns] for b in range(samples)]
    found = Layout.of(states[0][0])
    if found != layout:
        raise ValueError(f"guess must hold states like the initial one ({layout}), got {found}")
    return states


def _like(state: State, layout: Layout) -> State:
    """Turn the 0-d arrays of a stack back into Python numbers where the state has those."""
    python = iter([kind.library == "python" for kind in layout.leaves])
    return tree_map(lambda x: x.item() if next(python) and hasattr(x, "item") else x, state)


def check_result(who: str, state: State, layout: Layout) -> State:
    """Return a propagator's result in canonical form, or raise `StructureError` naming what changed."""
    if layout.fits(state):  # the usual case, at the price of a few comparisons
        return state
    try:
        state = conform(state, layout)
        found = Layout.of(state)
    except TypeError as error:
        raise StructureError(f"the {who} propagator's result is no state: {error}") from None
    if found != layout:
        raise StructureError(
            f"the {who} propagator must return a state like the one it is given, {layout}, but returned {found}: "
            "keep structure, shape, dtype and device"
        )
    return state
