"""Batches: the evaluations of many groups of rows, joined into one call.

At the start of a slice F and G of one iterate evaluate the network at the same state. That evaluation is made once, and
both rows receive its value. So one row of the batch may serve several rows of the groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._execution.rows import Group, make_start_key, pick
from parareal._state import Index, concatenate, same, take


@dataclass(slots=True)
class Batch:
    """The arguments of one batched evaluation, and the positions in it of each group's values."""

    arguments: list[Any]
    positions: list[Index]

    @staticmethod
    def of(groups: list[Group]) -> "Batch":
        """Join the evaluations of groups that use one network."""
        positions, new_rows = _assign_positions(groups)
        # a group whose rows are all duplicates adds nothing to the batch
        contributors = [(g, index) for g, index in zip(groups, new_rows, strict=True) if index is not None]
        arguments = [(g.state, g.where, *g.samples) for g, _ in contributors]
        parts = [[pick(x, index) for x in xs] for xs, (_, index) in zip(arguments, contributors, strict=True)]
        return Batch([concatenate(xs) for xs in zip(*parts, strict=True)], positions)


def group_by_evaluate(groups: list[Group]) -> list[list[Group]]:
    """Sort groups into lists that use the same network."""
    if len(groups) == 1:
        return [groups]
    # Searched with ==, not a dictionary: `evaluate` need not be hashable, and a method that is bound again at every
    # access is equal to itself but not the same object. There are few lists.
    lists: list[list[Group]] = []
    for group in groups:
        for others in lists:
            if others[0].stepper.evaluate == group.stepper.evaluate:
                others.append(group)
                break
        else:
            lists.append([group])
    return lists


def _assign_positions(groups: list[Group]) -> tuple[list[Index], list[Index | None]]:
    """Return, per group, the positions of its rows' values in the batch, and the rows that it adds to the batch."""
    first: dict[Any, tuple[int, int]] = {}
    positions: list[Index] = []
    new_rows: list[Index | None] = []
    total = 0
    for number, group in enumerate(groups):
        pairs, count = _find_duplicates(groups, number, first), len(group.rows)
        if not pairs:
            # The usual case. Slices, not arrays of integers, so that values are later taken out as views.
            positions.append(slice(total, total + count))
            new_rows.append(slice(0, count))
            total += count
            continue
        is_new = np.ones(count, dtype=bool)
        is_new[list(pairs)] = False
        # new rows are numbered on from `total`; the others are overwritten below
        position = total - 1 + np.cumsum(is_new)
        # appended before the loop, because a duplicate may refer to an earlier row of the same group
        positions.append(position)
        for i, (other, j) in pairs.items():
            there = positions[other]
            position[i] = there.start + j if isinstance(there, slice) else there[j]
        new = np.flatnonzero(is_new)
        new_rows.append(new if len(new) else None)
        total += len(new)
    return positions, new_rows


def _find_duplicates(groups: list[Group], number: int, first: dict[Any, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Map each duplicate row of a group to the (group, row) whose evaluation it reuses.

    `first` maps the start of a propagation to the first row that evaluates there; this function adds to it.
    """
    group, pairs = groups[number], {}
    if group.may_share:
        for i in np.flatnonzero(group.rows.steps_made == 0).tolist():
            there = first.setdefault(make_start_key(group.rows.requests[i]), (number, i))
            if there != (number, i):
                pairs[i] = there
    # The same state is not enough: both evaluations must also have the same time or noise level. Only the stepper knows
    # it, and yields it as `where`.
    for other in {other for other, _ in pairs.values()}:
        duplicates = {i: j for i, (at_other, j) in pairs.items() if at_other == other}
        # They nearly always agree, so all are compared at once, and row by row only if that fails.
        if not _agree(group, groups[other], duplicates):
            for i, j in duplicates.items():
                if not _agree(group, groups[other], {i: j}):
                    del pairs[i]
    return pairs


def _agree(a: Group, b: Group, duplicates: dict[int, int]) -> bool:
    """Return whether rows of two groups, paired by number, evaluate at the same `where`."""
    return same(take(a.where, np.array(list(duplicates))), take(b.where, np.array(list(duplicates.values()))))
