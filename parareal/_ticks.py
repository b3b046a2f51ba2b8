"""Running steppers: all rows advance together, one batched call of the network per tick.

Rows are regrouped at every step, so that the rows of one method, of whatever slice and iteration, stay one
vectorised group, and a method with s stages has at most s groups under way at once.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from parareal._checks import StructureError, check_result
from parareal._propagators import Evaluate, Stepper, StepRoutine, Steps
from parareal._state import Layout, concatenate, copy, has_rows, same, stack, structure, take, tree_leaves
from parareal._state import rows as count_rows
from parareal._tally import Tally
from parareal._values import Kind, Request, Result

LINE, AT, COST, SAMPLE = range(4)


@dataclass(slots=True)
class Rows:
    """Propagations of one stepper that stand at the start of a step."""

    requests: list[Request]
    began: np.ndarray
    """seconds on the clock, shape (rows,)"""
    columns: np.ndarray
    """int64 of shape (rows, 4): the line of the table of nodes that a row follows, steps already made, evaluations
    already made, and the sample"""
    state: Any
    memory: Any

    def __len__(self) -> int:
        return len(self.requests)

    def take(self, index: np.ndarray) -> "Rows":
        """Return some of the rows; a run of neighbours is a view."""
        if len(index) == len(self):
            return self
        requests = [self.requests[i] for i in index]
        state, memory = _pick(self.state, index), _pick(self.memory, index)
        return Rows(requests, self.began[index], self.columns[index], state, memory)

    @staticmethod
    def join(parts: Sequence["Rows"]) -> "Rows":
        """Join rows, the oldest first."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            requests=[r for p in parts for r in p.requests],
            began=np.concatenate([p.began for p in parts]),
            columns=np.concatenate([p.columns for p in parts]),
            state=concatenate([p.state for p in parts]),
            memory=concatenate([p.memory for p in parts]),
        )


@dataclass(slots=True)
class Group:
    """Rows within a step, waiting for an evaluation."""

    stepper: Stepper
    rows: Rows
    routine: StepRoutine
    samples: tuple[Any, ...]
    """the vector of samples, where the stepper wants it"""
    state: Any
    where: Any
    fresh: bool
    """the evaluation asked for is the first of the step, at the state the step starts from"""


class Ticks:
    """The propagations of steppable propagators that are under way."""

    def __init__(
        self, steps: dict[Kind, Steps], boundaries: list[int], layout: Layout, most: int | None, tally: Tally
    ) -> None:
        self.layout, self.most, self.tally = layout, most, tally
        self.steppers = {kind: s.stepper for kind, s in steps.items()}
        self.by_id = {id(stepper): stepper for stepper in self.steppers.values()}
        paths = [s.nodes(a, b) for s in steps.values() for a, b in pairwise(boundaries)]
        self.first_line = {kind: i * (len(boundaries) - 1) for i, kind in enumerate(steps)}
        self.length = np.array([len(path) - 1 for path in paths])
        self.nodes = np.array([np.pad(path, (0, int(self.length.max()) + 1 - len(path)), "edge") for path in paths])
        self.fresh: list[Request] = []
        self.sharing = all(s.evaluate == t.evaluate for s, t in pairwise(self.steppers.values()))
        self.waiting: dict[int, list[Rows]] = {}  # by the stepper's id, for steppers need not be hashable
        self.groups: list[Group] = []
        self.results: list[tuple[Request, Result, float]] = []
        self.cancelled: set[int] = set()
        self.checked: set[int] = set()

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        self.fresh += requests

    def cancel(self, sample: int) -> None:
        """Drop what a sample that is done still waits for."""
        self.cancelled.add(sample)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not (self.fresh or self.groups or self.waiting)

    def tick(self) -> list[tuple[Request, Result, float]]:
        """Make one batched call for all rows, and return what has arrived at its boundary."""
        self._start()
        if not self.results:
            for evaluate_groups in self._by_evaluate():
                self._evaluate(evaluate_groups)
        results, self.results = self.results, []
        return results

    def _start(self) -> None:
        """Regroup all rows that stand at the start of a step, and begin their steps."""
        now = time.perf_counter()
        for kind, stepper in self.steppers.items():
            new = [r for r in self.fresh if r.kind is kind]
            if new:
                self.waiting.setdefault(id(stepper), []).append(self._rows(new, stepper, now))
        self.fresh = []
        ready = {s: rows for s, parts in self.waiting.items() if (rows := self._kept(Rows.join(parts))) is not None}
        self.waiting = {}
        for (stepper, rows), mask in zip(ready.items(), self._choose(ready).values(), strict=True):
            if mask is None:
                self._begin(self.by_id[stepper], rows)
                continue
            if not mask.all():
                self.waiting[stepper] = [rows.take(np.flatnonzero(~mask))]
            if mask.any():
                self._begin(self.by_id[stepper], rows.take(np.flatnonzero(mask)))

    def _rows(self, requests: list[Request], stepper: Stepper, now: float) -> Rows:
        state = stack([r.value.state for r in requests])
        begin = None
        memories = []
        for i, r in enumerate(requests):
            memory = r.value.memory if r.kind is Kind.FINE else r.value.trail
            if memory is None:
                begin = stepper.begin(state) if begin is None else begin
                memory = take(begin, slice(i, i + 1))
            memories.append(memory)
        columns = np.array([(self.first_line[r.kind] + r.slice, 0, 0, r.sample) for r in requests])
        return Rows(requests, np.full(len(requests), now), columns, state, concatenate(memories))

    def _kept(self, rows: Rows) -> Rows | None:
        """Return the rows of the samples that still run."""
        if not self.cancelled:
            return rows
        keep = [i for i, r in enumerate(rows.requests) if r.sample not in self.cancelled]
        return rows.take(np.array(keep)) if keep else None

    def _choose(self, ready: dict[int, Rows]) -> dict[int, np.ndarray | None]:
        """Say which rows advance: None for all, or the first `most` by priority and those that share their call."""
        busy = sum(len(g.rows) for g in self.groups)
        if self.most is None or busy + sum(map(len, ready.values())) <= self.most:
            return dict.fromkeys(ready)
        room = max(self.most - busy, 0 if self.groups else 1)
        entries = [(r.priority, s, i) for s, rows in ready.items() for i, r in enumerate(rows.requests)]
        entries.sort(key=lambda entry: entry[0])
        starting = set()
        chosen = {stepper: np.zeros(len(rows), dtype=bool) for stepper, rows in ready.items()}
        for n, (_, stepper, i) in enumerate(entries):
            rows = ready[stepper]
            shared = self.sharing and rows.columns[i, AT] == 0
            if n < room or (shared and _start_key(rows, i) in starting):
                chosen[stepper][i] = True
                starting |= {_start_key(rows, i)} if shared else set()
        return dict(chosen)

    def _begin(self, stepper: Stepper, rows: Rows) -> None:
        line, at = rows.columns[:, LINE], rows.columns[:, AT]
        start, stop = (self._vector(self.nodes[line, at + i], rows.state) for i in (0, 1))
        samples = (self._vector(rows.columns[:, SAMPLE].copy(), rows.state),) if stepper.per_sample else ()
        routine = stepper.step(rows.state, rows.memory, start, stop, *samples)
        if not isinstance(routine, Generator):
            raise StructureError(
                f"{type(stepper).__name__}.step must be a generator: yield (state, where) for evaluations"
            )
        self._resume(stepper, rows, routine, samples, None)

    def _vector(self, values: np.ndarray, like: Any) -> Any:
        first = tree_leaves(like)[0]
        return torch.from_numpy(values).to(first.device) if isinstance(first, torch.Tensor) else values

    def _resume(self, stepper: Stepper, rows: Rows, routine: StepRoutine, samples: tuple[Any, ...], value: Any) -> None:
        """Run a step up to its next evaluation, or to its end."""
        try:
            state, where = next(routine) if value is None else routine.send(value)
        except StopIteration as end:
            if not isinstance(end.value, tuple) or len(end.value) != 2:
                raise StructureError(f"{type(stepper).__name__}.step must return (state, memory)") from None
            self._finish(stepper, rows, *end.value)
        else:
            if not has_rows(where, len(rows)):
                raise StructureError(
                    f"{type(stepper).__name__}.step must yield (state, where) with a `where` for each row"
                )
            fresh = value is None and state is rows.state
            self.groups.append(Group(stepper, rows, routine, samples, state, where, fresh))

    def _finish(self, stepper: Stepper, rows: Rows, state: Any, memory: Any) -> None:
        """Hand out the rows that have reached their boundary, and queue the others for their next step."""
        self._check(stepper, rows, state, memory)
        rows.state, rows.memory = state, memory
        rows.columns[:, AT] += 1
        arrived = rows.columns[:, AT] == self.length[rows.columns[:, LINE]]
        for i in map(int, np.flatnonzero(arrived)):
            kept = copy(take(memory, slice(i, i + 1)))
            result = Result(self.layout.row(state, i), kept, int(rows.columns[i, COST]))
            self.results.append((rows.requests[i], result, float(rows.began[i])))
        if not arrived.all():
            self.waiting.setdefault(id(stepper), []).append(rows.take(np.flatnonzero(~arrived)))

    def _check(self, stepper: Stepper, rows: Rows, state: Any, memory: Any) -> None:
        """Raise `StructureError` if a stepper's first step changes structure, shape or dtype of what it was given."""
        if id(stepper) in self.checked:
            return
        kind = rows.requests[0].kind.value
        if structure(state) != self.layout.tree:
            check_result(kind, state, self.layout)
        check_result(kind, self.layout.row(state, 0), self.layout)
        if structure(memory) != structure(rows.memory):
            raise StructureError(f"{type(stepper).__name__}.step returns other memory than begin gave: implement begin")
        self.checked.add(id(stepper))

    def _by_evaluate(self) -> list[list[Group]]:
        """Sort the groups into lists that ask the same network."""
        groups, self.groups = self.groups, []
        lists: list[list[Group]] = []
        for group in groups:
            for others in lists:
                if others[0].stepper.evaluate == group.stepper.evaluate:
                    others.append(group)
                    break
            else:
                lists.append([group])
        return lists

    def _evaluate(self, groups: list[Group]) -> None:
        """Evaluate all rows of some groups in one batch, those that F and G have in common once."""
        positions, own = self._positions(groups)
        asking = [(g, index) for g, index in zip(groups, own, strict=True) if index is not None]
        arguments = [(g.state, g.where, *g.samples) for g, _ in asking]
        picked = [[_pick(x, index) for x in xs] for xs, (_, index) in zip(arguments, asking, strict=True)]
        value = self._call(groups[0].stepper.evaluate, [concatenate(xs) for xs in zip(*picked, strict=True)])
        for group, position in zip(groups, positions, strict=True):
            group.rows.columns[:, COST] += 1
            self._resume(group.stepper, group.rows, group.routine, group.samples, _pick(value, position))

    def _positions(self, groups: list[Group]) -> tuple[list[np.ndarray | slice], list[np.ndarray | slice | None]]:
        """Return, per group, where in the batch its rows' values stand, and which rows it adds to the batch."""
        first: dict[Any, tuple[int, int]] = {}
        positions: list[np.ndarray | slice] = []
        own: list[np.ndarray | slice | None] = []
        total = 0
        for at, group in enumerate(groups):
            pairs, count = self._shared_rows(groups, at, first), len(group.rows)
            if not pairs:
                positions.append(slice(total, total + count))
                own.append(slice(0, count))
                total += count
                continue
            new = [i for i in range(count) if i not in pairs]
            position = np.empty(count, dtype=np.int64)
            positions.append(position)
            position[new] = range(total, total + len(new))
            for i, (other, j) in pairs.items():
                there = positions[other]
                position[i] = there.start + j if isinstance(there, slice) else there[j]
            own.append(np.array(new) if new else None)
            total += len(new)
        return positions, own

    def _shared_rows(
        self, groups: list[Group], at: int, first: dict[Any, tuple[int, int]]
    ) -> dict[int, tuple[int, int]]:
        """Return, for rows of group `at` whose evaluation is made for an earlier row, that row's group and number."""
        group, pairs = groups[at], {}
        if group.fresh:
            for i in map(int, np.flatnonzero(group.rows.columns[:, AT] == 0)):
                other, j = first.setdefault(_start_key(group.rows, i), (at, i))
                wheres = take(group.where, slice(i, i + 1)), take(groups[other].where, slice(j, j + 1))
                if (other, j) != (at, i) and same(*wheres):
                    pairs[i] = (other, j)
        return pairs

    def _call(self, evaluate: Evaluate, arguments: list[Any]) -> Any:
        total = count_rows(arguments[0])
        size = self.most or total
        values = []
        for begin in range(0, total, size):
            part = slice(begin, min(begin + size, total))
            value, count = evaluate(*(_pick(x, part) for x in arguments)), part.stop - part.start
            if not has_rows(value, count):
                raise StructureError(f"evaluate was given {count} rows and must return a value for each")
            values.append(value)
            self.tally.call(count)
        return concatenate(values)


def _pick(stacked: Any, index: np.ndarray | slice) -> Any:
    """Take rows; all of them are the stack itself, and a run of neighbours is a view."""
    if isinstance(index, np.ndarray):
        if (np.diff(index) != 1).any():
            return take(stacked, index)
        index = slice(int(index[0]), int(index[-1]) + 1)
    whole = stacked is None or (index.start == 0 and index.stop == count_rows(stacked))
    return stacked if whole else take(stacked, index)


def _start_key(rows: Rows, i: int) -> tuple[int, int, int]:
    """Name the state that a row starts from; the first evaluations of F and G there are one."""
    r = rows.requests[i]
    return (r.sample, r.slice, r.iteration)
