"""Rows of steppers that wait for their next step, and the choice among them where not all may advance at once."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from parareal._execution.rows import Rows, start_key
from parareal._iteration.messages import Request, Scope
from parareal._problem.propagators import Stepper

Key = tuple[int, int, int]
"""a sample, the id of a state, and a first node"""


@dataclass(slots=True, eq=False)
class _Entry:
    """One waiting row."""

    stepper: int
    request: Request | None
    """None once it was taken: an entry that was taken out of turn stays in the heap, and must hold nothing"""
    steps: int
    """to make in the slice, for one that has not begun"""
    row: Rows | None = None
    """a stack of one row, which holds no other rows alive; None for one that has not begun"""
    number: int = 0
    """order of arrival"""

    def take(self) -> "_Entry":
        """Return this entry's content, and leave it empty."""
        content = replace(self)
        self.request = self.row = None
        return content

    @property
    def waits(self) -> bool:
        """Whether it is still to be run."""
        return self.request is not None and not self.request.cancelled


@final
class WaitingRows:
    """Rows between steps, by their stepper's id.

    As long as all may advance, rows stay stacked as they are. Only where there is room for fewer, each becomes an entry
    of a heap, and those that are chosen are stacked again: a tick then costs what the chosen rows cost, however many
    wait.
    """

    def __init__(self) -> None:
        self.sharing = True
        """all steppers have the same network, so that first evaluations of F and G at one state are one"""
        self._new: list[tuple[int, Request, int]] = []
        self._parts: list[tuple[int, Rows]] = []
        self._heap: list[tuple[tuple[int, ...], int, _Entry]] = []
        self._beginning: dict[Key, list[_Entry]] = {}  # entries that have not begun, by what they start from
        self._held = 0  # entries of the heap that were not taken out of turn
        self._turns = 0  # entries taken since the heap was last cleaned
        self._arrivals = 0
        self._closures = Scope.closures

    def __bool__(self) -> bool:
        return bool(self._new or self._parts or self._held)

    def add(self, stepper: int, requests: list[tuple[Request, int]]) -> None:
        """Add propagations that have not begun, each with the number of steps to make."""
        self._new += [(stepper, request, steps) for request, steps in requests]

    def put_back(self, stepper: int, rows: Rows) -> None:
        """Add rows that have made a step and have further ones to make."""
        self._parts.append((stepper, rows))

    def drop_cancelled(self, again: bool) -> None:
        """Drop rows that nobody waits for; `again` says that others, within a step, must be looked at next time."""
        if self._closures == Scope.closures:
            return
        self._closures = -1 if again else Scope.closures
        self._new = [entry for entry in self._new if not entry[1].cancelled]
        kept = [(stepper, _uncancelled(rows)) for stepper, rows in self._parts]
        self._parts = [(stepper, rows) for stepper, rows in kept if rows is not None]
        # Entries are looked at when their turn comes. The whole heap is cleaned after as many turns as it has entries:
        # a constant cost per turn.
        if self._turns >= len(self._heap):
            self._turns = 0
            self._heap = [item for item in self._heap if item[2].waits]
            heapq.heapify(self._heap)
            self._held, self._beginning = len(self._heap), {}
            for _, _, entry in self._heap:
                self._index(entry)
        else:
            self._closures = -1

    def take(self, room: int | None, steppers: Mapping[int, Stepper], now: float) -> dict[int, Rows]:
        """Remove and return the rows that may advance, joined per stepper, the oldest first.

        That is all of them, or the first `room` by priority and those that share their first evaluation.
        """
        waiting = len(self._new) + self._held + sum(len(rows) for _, rows in self._parts)
        if room is None or waiting <= room:
            entries = [entry for _, _, entry in self._heap if entry.waits]
            self._heap, self._held, self._beginning = [], 0, {}
        else:
            self._unstack()
            entries = self._first(room)
        entries.sort(key=lambda entry: entry.number)
        begun = [(entry.stepper, entry.request, entry.steps) for entry in entries if entry.row is None]
        parts = [(entry.stepper, entry.row) for entry in entries if entry.row is not None]
        stacked: dict[int, list[Rows]] = {}
        for stepper, rows in [*parts, *self._parts]:
            stacked.setdefault(stepper, []).append(rows)
        requests: dict[int, list[tuple[Request, int]]] = {}
        for stepper, request, steps in [*begun, *self._new]:
            assert request is not None
            requests.setdefault(stepper, []).append((request, steps))
        for stepper, new in requests.items():
            stacked.setdefault(stepper, []).append(Rows.of(new, steppers[stepper], now))
        self._parts, self._new = [], []
        return {stepper: Rows.join(rows) for stepper, rows in stacked.items()}

    def _unstack(self) -> None:
        """Make an entry of every row."""
        for stepper, rows in self._parts:
            for i, request in enumerate(rows.requests):
                self._push(request, _Entry(stepper, request, 0, rows.row(i)))
        for stepper, request, steps in self._new:
            self._push(request, _Entry(stepper, request, steps))
        self._parts, self._new = [], []

    def _push(self, request: Request, entry: _Entry) -> None:
        entry.number = self._arrivals
        self._arrivals += 1
        self._held += 1
        heapq.heappush(self._heap, (request.priority, entry.number, entry))
        self._index(entry)

    def _index(self, entry: _Entry) -> None:
        if self.sharing and entry.row is None and entry.request is not None:
            self._beginning.setdefault(start_key(entry.request), []).append(entry)

    def _first(self, room: int) -> list[_Entry]:
        """Remove and return the first entries by priority, and those that share the evaluation of one of them."""
        chosen: list[_Entry] = []
        while self._heap and len(chosen) < room:
            entry = heapq.heappop(self._heap)[2]
            self._turns += 1
            if entry.request is not None:  # else it was taken out of turn
                self._held -= 1
                if entry.waits:
                    chosen.append(entry.take())
        for first in list(chosen):
            if self.sharing and first.row is None and first.request is not None:
                for entry in self._beginning.pop(start_key(first.request), []):
                    if entry.waits:
                        self._held -= 1
                        chosen.append(entry.take())
        return chosen


def _uncancelled(rows: Rows) -> Rows | None:
    keep = [i for i, request in enumerate(rows.requests) if not request.cancelled]
    return rows.take(np.array(keep)) if keep else None
