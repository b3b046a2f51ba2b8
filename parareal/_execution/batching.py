"""Joining the evaluations of many groups of rows into one batched call.

At the start of a slice F and G of one iterate evaluate the network at the same state: that evaluation is made once, and
its value goes to both rows. So a row of the batch may serve several rows of the groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._execution.rows import Group, pick, start_key
from parareal._state import concatenate, same, take

Index = np.ndarray | slice


@dataclass(slots=True)
class Batch:
    """The arguments of one batched evaluation, and where in it each group's rows find their values."""

    arguments: list[Any]
    positions: list[Index]

    @staticmethod
    def of(groups: list[Group]) -> "Batch":
        """Join the evaluations of groups that use one network."""
        positions, own = _positions(groups)
        asking = [(g, index) for g, index in zip(groups, own, strict=True) if index is not None]
        arguments = [(g.state, g.where, *g.samples) for g, _ in asking]
        picked = [[pick(x, index) for x in xs] for xs, (_, index) in zip(arguments, asking, strict=True)]
        return Batch([concatenate(xs) for xs in zip(*picked, strict=True)], positions)


def by_evaluate(groups: list[Group]) -> list[list[Group]]:
    """Sort groups into lists that use the same network."""
    if len(groups) == 1:
        return [groups]
    lists: list[list[Group]] = []
    for group in groups:
        for others in lists:
            if others[0].stepper.evaluate == group.stepper.evaluate:
                others.append(group)
                break
        else:
            lists.append([group])
    return lists


def _positions(groups: list[Group]) -> tuple[list[Index], list[Index | None]]:
    """Return, per group, the positions of its rows' values in the batch, and the rows that it adds to the batch."""
    first: dict[Any, tuple[int, int]] = {}
    positions: list[Index] = []
    own: list[Index | None] = []
    total = 0
    for at, group in enumerate(groups):
        pairs, count = _shared(groups, at, first), len(group.rows)
        if not pairs:
            positions.append(slice(total, total + count))
            own.append(slice(0, count))
            total += count
            continue
        alone = np.ones(count, dtype=bool)
        alone[list(pairs)] = False
        position = total - 1 + np.cumsum(alone)
        positions.append(position)
        for i, (other, j) in pairs.items():
            there = positions[other]
            position[i] = there.start + j if isinstance(there, slice) else there[j]
        new = np.flatnonzero(alone)
        own.append(new if len(new) else None)
        total += len(new)
    return positions, own


def _shared(groups: list[Group], at: int, first: dict[Any, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Map each duplicate row of group `at` to the (group, row) whose evaluation it reuses."""
    group, pairs = groups[at], {}
    if group.shares:
        for i in np.flatnonzero(group.rows.steps_made == 0).tolist():
            there = first.setdefault(start_key(group.rows.requests[i]), (at, i))
            if there != (at, i):
                pairs[i] = there
    for other in {other for other, _ in pairs.values()}:
        alike = {i: j for i, (at_other, j) in pairs.items() if at_other == other}
        if not _agree(
            group, groups[other], alike
        ):  # they nearly always do, all at once: compared row by row only otherwise
            for i, j in alike.items():
                if not _agree(group, groups[other], {i: j}):
                    del pairs[i]
    return pairs


def _agree(a: Group, b: Group, alike: dict[int, int]) -> bool:
    """Return whether rows of two groups, paired by number, evaluate at the same places."""
    return same(take(a.where, np.array(list(alike))), take(b.where, np.array(list(alike.values()))))
