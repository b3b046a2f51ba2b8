"""Rows of steppers that wait for their next step, and the selection among them if not all may advance at once."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from parareal._execution.rows import Rows, make_start_key
from parareal._iteration.messages import Request, Scope
from parareal._problem.propagators import Stepper

Key = tuple[int, int, int]
"""a sample, the id of a state, and a first node"""


@dataclass(slots=True, eq=False)
class _Entry:
    """One waiting row."""

    stepper: int
    """id of the stepper"""
    request: Request | None
    """None once it was taken: an entry that was taken out of turn stays in the heap, and must keep nothing alive"""
    steps: int
    """number of steps in the slice, for a row that has not begun"""
    row: Rows | None = None
    """a stack of one row, which keeps no other rows alive; None for a row that has not begun"""
    number: int = 0
    """order of arrival"""

    def take(self) -> "_Entry":
        """Return a copy of this entry, and leave this one empty."""
        content = replace(self)
        self.request = self.row = None
        return content

    @property
    def waits(self) -> bool:
        """Whether its row is still to be run."""
        return self.request is not None and not self.request.cancelled


@final
class WaitingRows:
    """Rows between steps, by their stepper's id.

    As long as all may advance, rows stay stacked as they are. Only if there is room for fewer, each becomes an entry
    of a heap, and the selected ones are stacked again. The cost of a tick then depends on the number of selected rows,
    not on the number of waiting ones.
    """

    def __init__(self) -> None:
        self.same_network = True
        """all steppers have the same network, so F and G at one state share their first evaluation"""
        self._new: list[tuple[int, Request, int]] = []  # rows that have not begun: stepper, request, number of steps
        self._parts: list[tuple[int, Rows]] = []  # stacked rows between two steps, by stepper
        self._heap: list[tuple[tuple[int, ...], int, _Entry]] = []
        self._new_by_start: dict[Key, list[_Entry]] = {}  # entries that have not begun, by `make_start_key`
        self._size = 0  # entries of the heap without those taken out of turn
        self._pops = 0  # entries popped since the heap was last cleaned
        self._arrivals = 0
        self._latest_closing = Scope.latest_closing

    def __bool__(self) -> bool:
        return bool(self._new or self._parts or self._size)

    def add(self, stepper: int, requests: list[tuple[Request, int]]) -> None:
        """Add propagations that have not begun, each with its number of steps."""
        # Not stacked yet: cancelled ones may be dropped before they cost a copy of their state.
        self._new += [(stepper, request, steps) for request, steps in requests]

    def put_back(self, stepper: int, rows: Rows) -> None:
        """Add rows that have made a step and have further ones to make."""
        self._parts.append((stepper, rows))

    def drop_cancelled(self, again: bool) -> None:
        """Drop rows of cancelled requests; `again` requires another look next time, when rows within a step are back.

        Does nothing as long as no scope was closed: with a look at every row in every tick, the cost of a tick would
        grow with the number of waiting rows.
        """
        if self._latest_closing == Scope.latest_closing:
            return
        # no closing has the number -1, so the next call looks again
        self._latest_closing = -1 if again else Scope.latest_closing
        self._new = [entry for entry in self._new if not entry[1].cancelled]
        parts = [(stepper, _drop_cancelled_rows(rows)) for stepper, rows in self._parts]
        self._parts = [(stepper, rows) for stepper, rows in parts if rows is not None]
        # Entries of the heap are checked when they are popped. But cancelled ones far down would keep their states
        # alive, so the whole heap is cleaned when the number of entries popped since the last cleaning reaches the
        # heap's length. Cleaning then costs a constant time per popped entry, on average.
        if self._pops >= len(self._heap):
            self._pops = 0
            self._heap = [item for item in self._heap if item[2].waits]
            heapq.heapify(self._heap)
            self._size, self._new_by_start = len(self._heap), {}
            for _, _, entry in self._heap:
                self._index(entry)
        else:
            self._latest_closing = -1  # the heap still holds cancelled entries, so look again next time

    def take(self, room: int | None, steppers: Mapping[int, Stepper], now: float) -> dict[int, Rows]:
        """Remove and return the rows that may advance, joined per stepper, the oldest first.

        These are all rows, or the first `room` by priority and those that share their first evaluation.
        """
        waiting = len(self._new) + self._size + sum(len(rows) for _, rows in self._parts)
        if room is None or waiting <= room:
            # the usual case: stacks stay as they are, without the heap
            entries = [entry for _, _, entry in self._heap if entry.waits]
            self._heap, self._size, self._new_by_start = [], 0, {}
        else:
            self._unstack()
            entries = self._take_first(room)
        # The selected rows are stacked in order of arrival, as when all rows may advance. Priority only decides which
        # rows are selected.
        entries.sort(key=lambda entry: entry.number)
        new = [(entry.stepper, entry.request, entry.steps) for entry in entries if entry.row is None]
        parts = [(entry.stepper, entry.row) for entry in entries if entry.row is not None]
        by_stepper: dict[int, list[Rows]] = {}
        for stepper, rows in [*parts, *self._parts]:
            by_stepper.setdefault(stepper, []).append(rows)
        requests: dict[int, list[tuple[Request, int]]] = {}
        for stepper, request, steps in [*new, *self._new]:
            assert request is not None
            requests.setdefault(stepper, []).append((request, steps))
        for stepper, starts in requests.items():
            by_stepper.setdefault(stepper, []).append(Rows.of(starts, steppers[stepper], now))
        self._parts, self._new = [], []
        return {stepper: Rows.join(rows) for stepper, rows in by_stepper.items()}

    def _unstack(self) -> None:
        """Make an entry of every row."""
        for stepper, rows in self._parts:
            for i, request in enumerate(rows.requests):
                self._push(request, _Entry(stepper, request, 0, rows.copy_row(i)))
        for stepper, request, steps in self._new:
            self._push(request, _Entry(stepper, request, steps))
        self._parts, self._new = [], []

    def _push(self, request: Request, entry: _Entry) -> None:
        entry.number = self._arrivals
        self._arrivals += 1
        self._size += 1
        # the number of arrival decides between equal priorities, so entries themselves are never compared
        heapq.heappush(self._heap, (request.priority, entry.number, entry))
        self._index(entry)

    def _index(self, entry: _Entry) -> None:
        """Index an entry by its initial state, if other entries may share its first evaluation."""
        if self.same_network and entry.row is None and entry.request is not None:
            self._new_by_start.setdefault(make_start_key(entry.request), []).append(entry)

    def _take_first(self, room: int) -> list[_Entry]:
        """Remove and return the first entries by priority, and those that share the evaluation of one of them."""
        entries: list[_Entry] = []
        while self._heap and len(entries) < room:
            entry = heapq.heappop(self._heap)[2]
            self._pops += 1
            if entry.request is not None:  # else it was taken out of turn
                self._size -= 1
                if entry.waits:
                    entries.append(entry.take())
        # If G of an iterate begins, F of the same iterate begins with it, out of turn and beyond `room`: their common
        # evaluation adds no row to the batch now, and would be made twice if F began in a later tick.
        for first in list(entries):
            if self.same_network and first.row is None and first.request is not None:
                for entry in self._new_by_start.pop(make_start_key(first.request), []):
                    if entry.waits:
                        self._size -= 1
                        entries.append(entry.take())
        return entries


def _drop_cancelled_rows(rows: Rows) -> Rows | None:
    """Return the rows whose requests are not cancelled; None if there are none."""
    keep = [i for i, request in enumerate(rows.requests) if not request.cancelled]
    return rows.take(np.array(keep)) if keep else None
