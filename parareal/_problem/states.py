"""Checks of states: the initial state, a guess, and the results of propagators."""

from typing import Any

import torch

from parareal._state import Layout, State, canonicalize, conform, finite, stack, structure, take, tree_leaves, tree_map


class StructureError(TypeError, ValueError):
    """A propagator returned a state whose structure, shape, dtype or device differs from its input's.

    It is also raised where a stepper or its `evaluate` breaks its contract.
    """


def check_initial(initial: State, batch_dims: int) -> tuple[list[State], Layout]:
    """Return the states of the samples of an initial state, and the layout of one of them.

    Python integers become floats, and NumPy scalars become arrays.

    Args:
        initial: the state, as the caller passed it.
        batch_dims: 0 for one sample; 1 if the leading axis of every array counts samples.

    Raises:
        ValueError, TypeError: for a state that `solve` does not support.
    """
    if batch_dims not in (0, 1):
        raise ValueError(f"batch_dims must be 0 (one sample) or 1 (leading axis counts samples), not {batch_dims!r}")
    initial = canonicalize(initial)
    whole = Layout.of(initial)
    if not whole.leaves:
        raise ValueError("initial holds no number and no array: pass a state with at least one")
    for kind in whole.leaves:
        if (kind.library == "torch" and kind.dtype in (torch.float16, torch.bfloat16)) or str(kind.dtype) == "float16":
            raise TypeError(
                f"states must be float32 or float64, not {kind.dtype}: corrections would be lost in rounding. "
                "Keep the state in float32 and cast inside the propagator"
            )
        if "bool" in str(kind.dtype):  # the name, because NumPy and torch have different dtype objects
            raise TypeError(
                "states must be numbers, not truth values, which cannot be subtracted: convert them to floats"
            )
    if not finite(initial):
        raise ValueError("initial holds a number that is not finite: replace NaN and infinity")
    if batch_dims == 0:
        samples = [initial]
    else:
        counts = {kind.shape[0] if kind.shape else 0 for kind in whole.leaves}  # 0 for a leaf without a leading axis
        if len(counts) != 1 or counts == {0}:
            raise ValueError(
                "batch_dims=1 needs a leading axis of one common length on every array of the state, but initial was "
                f"{whole}: pass batch_dims=0 for a single sample"
            )
        samples = [take_row(initial, i) for i in range(counts.pop())]
    return samples, Layout.of(samples[0])


def take_row(stacked: Any, row: int) -> State:
    """Return one row of stacked states, in arrays without the leading axis."""
    # A slice and a reshape instead of an index: an index would turn rows of 1-D NumPy arrays into NumPy scalars.
    one = take(stacked, slice(row, row + 1))
    return tree_map(lambda x: x.reshape(x.shape[1:]), one)


def check_guess(guess: Any, boundaries: int, samples: int, layout: Layout, batch_dims: int) -> list[list[State]]:
    """Return a guess as `states[sample][boundary]`.

    Args:
        guess: states at all boundaries, stacked on a leading axis or in a sequence, as the caller passed it.
        boundaries: number of boundaries.
        samples: number of samples.
        layout: of one sample's state.
        batch_dims: as for `solve`.

    Raises:
        ValueError: if the guess has another form, or holds a number that is not finite.
    """
    wanted = f"{boundaries} states, one for each boundary, each like the initial state"
    # a list or tuple may also be the pytree of stacked arrays itself; then it has the structure of a state
    if isinstance(guess, list | tuple) and structure(guess) != layout.tree:
        if len(guess) != boundaries:
            raise ValueError(f"guess must hold {wanted}, but was a sequence of {len(guess)}")
        guess = stack([canonicalize(g) for g in guess])
    if structure(guess) != layout.tree:
        raise ValueError(f"guess must hold {wanted} ({layout}), but had the structure {structure(guess)}")
    lead = (boundaries, samples)[: 1 + batch_dims]
    for x, kind in zip(tree_leaves(guess), layout.leaves, strict=True):
        if tuple(getattr(x, "shape", ())) != (*lead, *kind.shape):
            raise ValueError(
                f"guess must have shape {(*lead, *kind.shape)}, but had {tuple(getattr(x, 'shape', ()))}: {wanted}"
            )
    if not finite(guess):
        raise ValueError("guess holds a number that is not finite: replace NaN and infinity")
    by_boundary = [take_row(guess, n) for n in range(boundaries)]
    by_sample = [[g] if batch_dims == 0 else [take_row(g, i) for i in range(samples)] for g in by_boundary]
    states = [[_restore_numbers(row[i], layout) for row in by_sample] for i in range(samples)]
    guess_layout = Layout.of(states[0][0])  # all rows come from the same arrays
    if guess_layout != layout:
        raise ValueError(f"guess must hold states like the initial one ({layout}), but held {guess_layout}")
    return states


def _restore_numbers(state: State, layout: Layout) -> State:
    """Return a row of a stack with its 0-d arrays as Python numbers where the layout has those."""
    python = iter([kind.library == "python" for kind in layout.leaves])
    return tree_map(lambda x: x.item() if next(python) and hasattr(x, "item") else x, state)


def check_result(kind: str, state: State, layout: Layout) -> State:
    """Return a propagator's result in the form that the layout describes.

    Args:
        kind: `"fine"` or `"coarse"`, for messages.
        state: the result.
        layout: of one sample's state.

    Raises:
        StructureError: if structure, shape, dtype or device differ; the message names both layouts.
    """
    if layout.fits(state):  # the usual case, which costs a few comparisons; this runs for every result
        return state
    try:
        state = conform(state, layout)
        result_layout = Layout.of(state)
    except TypeError as error:
        raise StructureError(f"the {kind} propagator's result is no state: {error}") from None
    if result_layout != layout:
        raise StructureError(
            f"the {kind} propagator must return a state like its input, {layout}, but returned {result_layout}: "
            "keep structure, shape, dtype and device"
        )
    return state
