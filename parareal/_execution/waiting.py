"""Rows of steppers that wait for their next step, and the choice among them where not all may advance at once."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from parareal._execution.rows import Rows, start_key
from parareal._iteration.messages import Request, Scope
from parareal._problem.propagators import Stepper

Key = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class _Entry:
    """One row that has to wait for its turn."""

    stepper: int
    request: Request
    steps: int
    """to make in the slice, for one that has not begun"""
    part: Rows | None = None
    """the rows it stands among, shared with others; None for one that has not begun"""
    row: int = 0
    number: int = 0
    """order of arrival"""
    taken: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is still to be run."""
        return not (self.taken or self.request.cancelled)


@final
class WaitingRows:
    """Rows between steps, by their stepper's id.

    As long as all may advance, rows stay stacked as they are. Only where there is room for fewer, each becomes an entry
    of a heap, which is stacked again when it is chosen: a tick then costs what the chosen rows cost, however many wait.
    """

    def __init__(self) -> None:
        self.sharing = True
        """all steppers have the same network, so that first evaluations of F and G at one state are one"""
        self._new: list[tuple[int, Request, int]] = []
        self._parts: list[tuple[int, Rows]] = []
        self._heap: list[tuple[tuple[int, ...], int, _Entry]] = []
        self._beginning: dict[Key, list[_Entry]] = {}  # entries that have not begun, by what they start from
        self._held = 0  # entries of the heap that were not taken out of turn
        self._turns = 0  # entries taken since all of them were looked at
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
        # Entries are looked at when their turn comes. All of them are only after as many turns as there are entries:
        # that costs one look per turn, and none is kept for long.
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
            entries = [item[2] for item in self._heap if item[2].waits]
            self._heap, self._held, self._beginning = [], 0, {}
        else:
            self._unstack()
            entries = self._first(room)
        parts = self._stacked(sorted(entries, key=lambda entry: entry.number), steppers, now)
        for stepper, rows in self._parts:
            parts.setdefault(stepper, []).append(rows)
        self._parts = []
        self._begin_new(parts, steppers, now)
        return {stepper: Rows.join(rows) for stepper, rows in parts.items()}

    def _begin_new(self, parts: dict[int, list[Rows]], steppers: Mapping[int, Stepper], now: float) -> None:
        begun: dict[int, list[tuple[Request, int]]] = {}
        for stepper, request, steps in self._new:
            begun.setdefault(stepper, []).append((request, steps))
        self._new = []
        for stepper, requests in begun.items():
            parts.setdefault(stepper, []).append(Rows.of(requests, steppers[stepper], now))

    def _unstack(self) -> None:
        """Make an entry of every row."""
        for stepper, rows in self._parts:
            for i, request in enumerate(rows.requests):
                self._push(_Entry(stepper, request, 0, rows, i))
        for stepper, request, steps in self._new:
            self._push(_Entry(stepper, request, steps))
        self._parts, self._new = [], []

    def _push(self, entry: _Entry) -> None:
        entry.number = self._arrivals
        self._arrivals += 1
        self._held += 1
        heapq.heappush(self._heap, (entry.request.priority, entry.number, entry))
        self._index(entry)

    def _index(self, entry: _Entry) -> None:
        if self.sharing and entry.part is None:
            self._beginning.setdefault(start_key(entry.request), []).append(entry)

    def _first(self, room: int) -> list[_Entry]:
        """Remove and return the first entries by priority, and those that share the evaluation of one of them."""
        entries: list[_Entry] = []
        while self._heap and len(entries) < room:
            entry = heapq.heappop(self._heap)[2]
            if entry.waits:
                entries.append(entry)
            self._held -= not entry.taken
            self._turns += 1
            entry.taken = True
        for entry in list(entries):
            if self.sharing and entry.part is None:
                for other in self._beginning.pop(start_key(entry.request), []):
                    if other.waits:
                        other.taken = True
                        self._held -= 1
                        entries.append(other)  # it stays in the heap, marked as taken
        return entries

    def _stacked(self, entries: list[_Entry], steppers: Mapping[int, Stepper], now: float) -> dict[int, list[Rows]]:
        """Stack entries again: rows of one part together, those that have not begun last."""
        rows: dict[tuple[int, int], tuple[Rows, list[int]]] = {}
        begun: dict[int, list[tuple[Request, int]]] = {}
        parts: dict[int, list[Rows]] = {}
        for entry in entries:
            if entry.part is None:
                begun.setdefault(entry.stepper, []).append((entry.request, entry.steps))
            else:
                rows.setdefault((entry.stepper, id(entry.part)), (entry.part, []))[1].append(entry.row)
        for (stepper, _), (part, chosen) in rows.items():
            parts.setdefault(stepper, []).append(part.take(np.array(sorted(chosen))))
        for stepper, requests in begun.items():
            parts.setdefault(stepper, []).append(Rows.of(requests, steppers[stepper], now))
        return parts


def _uncancelled(rows: Rows) -> Rows | None:
    keep = [i for i, request in enumerate(rows.requests) if not request.cancelled]
    return rows.take(np.array(keep)) if keep else None
