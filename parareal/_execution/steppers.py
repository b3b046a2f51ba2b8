"""Running steppers: all rows advance together, one batched call of the network per tick.

Rows are regrouped at every step, so that the rows of one method, of whatever level, slice and iteration, stay one
vectorised group, and a method with s stages has at most s groups under way at once.
"""

import time
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from parareal._checks import StructureError, check_result
from parareal._execution.batching import Gathered, by_evaluate
from parareal._execution.evaluations import Asking, Call, answered
from parareal._execution.rows import AT, COST, COUNT, NODE, SAMPLE, Group, Rows, pick
from parareal._execution.tally import Tally
from parareal._iteration.messages import Delivery, Request, Result
from parareal._problem.propagators import Evaluate, Stepper, Steps
from parareal._state import Layout, add, concatenate, copy, has_rows, structure, subtract, take, tree_leaves
from parareal._state import rows as count_rows


class Ticks:
    """The propagations of steppable propagators that are under way."""

    def __init__(self, layout: Layout, most: int | None, tally: Tally) -> None:
        self.layout, self.most, self.tally = layout, most, tally
        self.fresh: dict[int, list[tuple[Request, int]]] = {}  # by the stepper's id, with the steps to make
        self.steppers: dict[int, Stepper] = {}  # by id, for they need not be hashable
        self.waiting: dict[int, list[Rows]] = {}
        self.groups: list[Group] = []
        self.results: list[Delivery] = []
        self.cancelled: list[int | Request] = []
        self.checked: set[int] = set()
        self.sharing = True

    def add(self, steps: Steps, requests: list[Request]) -> None:
        """Put requests in the queue."""
        if requests:
            fresh = self.fresh.setdefault(id(steps.stepper), [])
            fresh += [(r, steps.count(int(r.start), int(r.stop))) for r in requests]
            if id(steps.stepper) not in self.steppers:
                self.steppers[id(steps.stepper)] = steps.stepper
                self.sharing = all(s.evaluate == t.evaluate for s, t in pairwise(self.steppers.values()))

    def cancel(self, owner: int | Request) -> None:
        """Drop what is no longer waited for."""
        self.cancelled.append(owner)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not (self.fresh or self.groups or self.waiting)

    def tick(self) -> list[Delivery]:
        """Make batched calls until rows arrive at their boundaries, for nothing else can change what runs."""
        return answered(self.ticking())

    def ticking(self) -> Asking[list[Delivery]]:
        """Ask for batched calls, as `tick` makes them."""
        while not self.results and (yield from self.calling()):
            pass
        results, self.results = self.results, []
        return results

    def calling(self) -> Asking[bool]:
        """Let all rows that may advance go on to their next evaluation, and ask for it; False if there are none."""
        if self.fresh or self.waiting:
            self._start()
        elif not self.groups:
            return False
        if not self.results:  # a step may end without an evaluation
            yield from self._evaluate_all()
        return True

    def _start(self) -> None:
        """Regroup all rows that stand at the start of a step, and begin their steps."""
        if self.fresh:
            now = time.perf_counter()
            for stepper, fresh in self.fresh.items():
                self.waiting.setdefault(stepper, []).append(Rows.of(fresh, self.steppers[stepper], now))
            self.fresh = {}
        ready = {s: rows for s, parts in self.waiting.items() if (rows := self._kept(Rows.join(parts))) is not None}
        self.waiting = {}
        if not self.groups:
            self.cancelled.clear()  # rows within a step would have to be dropped at its end
        for (stepper, rows), mask in zip(ready.items(), self._choose(ready).values(), strict=True):
            if mask is None:
                self._begin(self.steppers[stepper], rows)
                continue
            if not mask.all():
                self.waiting[stepper] = [rows.take(np.flatnonzero(~mask))]
            if mask.any():
                self._begin(self.steppers[stepper], rows.take(np.flatnonzero(mask)))

    def _kept(self, rows: Rows) -> Rows | None:
        """Return the rows that are still waited for."""
        if not self.cancelled:
            return rows
        keep = [i for i, r in enumerate(rows.requests) if not any(r.within(owner) for owner in self.cancelled)]
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
            if n < room or (shared and rows.key(i) in starting):
                chosen[stepper][i] = True
                starting |= {rows.key(i)} if shared else set()
        return dict(chosen)

    def _begin(self, stepper: Stepper, rows: Rows) -> None:
        next_node = rows.next_node()
        start, stop = self._vector(rows.columns[:, NODE].copy(), rows.state), self._vector(next_node, rows.state)
        samples = (self._vector(rows.columns[:, SAMPLE].copy(), rows.state),) if stepper.per_sample else ()
        routine = stepper.step(rows.state, rows.memory, start, stop, *samples)
        if not isinstance(routine, Generator):
            raise StructureError(
                f"{type(stepper).__name__}.step must be a generator: yield (state, where) for evaluations"
            )
        group = Group(stepper, rows, next_node, routine, samples)
        self._resume(group, None)
        group.shares = rows.fresh and group.state is rows.state

    def _vector(self, values: np.ndarray, like: Any) -> Any:
        first = tree_leaves(like)[0]
        return torch.from_numpy(values).to(first.device) if isinstance(first, torch.Tensor) else values

    def _resume(self, group: Group, value: Any) -> None:
        """Run a step up to its next evaluation, or to its end."""
        try:
            group.state, group.where = next(group.routine) if value is None else group.routine.send(value)
        except StopIteration as end:
            if not isinstance(end.value, tuple) or len(end.value) not in (2, 3):
                raise StructureError(
                    f"{type(group.stepper).__name__}.step must return (state, memory) or (state, memory, embedded)"
                ) from None
            group.rows.columns[:, NODE] = group.next_node
            group.rows.columns[:, COST] += group.evaluations
            self._finish(group.stepper, group.rows, *end.value)
        else:
            if id(group.stepper) not in self.checked and not has_rows(group.where, len(group.rows)):
                raise StructureError(
                    f"{type(group.stepper).__name__}.step must yield (state, where) with a `where` for each row"
                )
            group.shares = False
            self.groups.append(group)

    def _finish(self, stepper: Stepper, rows: Rows, state: Any, memory: Any, embedded: Any = None) -> None:
        """Hand out the rows that have reached their boundary, and queue the others for their next step."""
        self._check(stepper, rows, state, memory)
        if embedded is not None:
            gap = subtract(embedded, state)
            rows.gap = gap if rows.gap is None else add(rows.gap, gap)
        rows.state, rows.memory, rows.fresh = state, memory, False
        columns = rows.columns
        columns[:, AT] += 1
        arrived = columns[:, AT] == columns[:, COUNT]
        if not arrived.any():
            self.waiting.setdefault(id(stepper), []).append(rows)
            return
        for i in np.flatnonzero(arrived).tolist():
            kept = None if memory is None else copy(take(memory, slice(i, i + 1)))
            gap = None if rows.gap is None else self.layout.row(rows.gap, i)
            result = Result(self.layout.row(state, i), kept, int(columns[i, COST]), gap=gap)
            self.results.append((rows.requests[i], result, rows.began[i]))
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

    def _evaluate_all(self) -> Asking[None]:
        groups, self.groups = self.groups, []
        for asking in by_evaluate(groups):
            yield from self._evaluate(asking)

    def _evaluate(self, groups: list[Group]) -> Asking[None]:
        """Evaluate all rows of some groups in one batch."""
        evaluate, first = groups[0].stepper.evaluate, groups[0]
        if len(groups) == 1 and not first.shares:  # as in all stages of a method but the first
            value = yield from self._call(evaluate, [first.state, first.where, *first.samples], len(first.rows))
            self._proceed(first, value)
            return
        gathered = Gathered.of(groups)
        value = yield from self._call(evaluate, gathered.arguments, count_rows(gathered.arguments[0]))
        for group, position in zip(groups, gathered.positions, strict=True):
            self._proceed(group, pick(value, position))

    def _proceed(self, group: Group, value: Any) -> None:
        group.evaluations += 1
        self._resume(group, value)

    def _call(self, evaluate: Evaluate, arguments: list[Any], count: int) -> Asking[Any]:
        if self.most is not None and count > self.most:
            values = []
            for i in range(0, count, self.most):
                part = slice(i, min(i + self.most, count))
                values.append((yield from self._call(evaluate, [pick(x, part) for x in arguments], part.stop - i)))
            return concatenate(values)
        value = yield Call(evaluate, arguments, count)
        if not has_rows(value, count):
            raise StructureError(f"evaluate was given {count} rows and must return a value for each")
        self.tally.call(count)
        return value
