"""Running steppers: all rows advance together, one batched call of the network per tick.

A row is one propagation on its way across a slice. Rows are regrouped at every step, so that all rows of one stepper,
of whatever level, slice and iteration, stay one vectorised group, and a method with s stages has at most s groups
within a step at once. A tick, in order:

1. `_start`: rows that stand at the start of a step, new ones included, are joined per stepper. With `max_batch`, only
   the first by priority are chosen (`waiting.py`).
2. `_begin`: the stepper's generator `step` runs up to its first evaluation, for all its rows at once.
3. `_evaluate_all`: the evaluations that all groups wait for are joined and made in one call; evaluations of F and G
   at the same state are made once (`batching.py`).
4. `_resume`: each generator is sent its values. It asks again (a further stage: the group waits for the next tick) or
   returns the step's result (`_finish`).
5. `_finish`: rows that have reached their boundary become results, the others wait for their next step.
"""

import time
from collections.abc import Generator
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch

from parareal._execution.batching import Batch, by_evaluate
from parareal._execution.evaluations import Asking, Evaluation, Tally, answer
from parareal._execution.queue import Queue
from parareal._execution.rows import Group, Rows, pick
from parareal._execution.waiting import WaitingRows
from parareal._iteration.messages import Delivery, Request, Result
from parareal._problem.propagators import Evaluate, Propagator, Stepper, Steps
from parareal._problem.states import StructureError, check_result
from parareal._state import (
    Layout,
    Nodes,
    Stack,
    add,
    concatenate,
    copy,
    has_rows,
    structure,
    subtract,
    take,
    tree_leaves,
)
from parareal._state import rows as count_rows


@final
class StepperQueue(Queue):
    """The propagations of all steppers of a solve, which run in this thread.

    `most` bounds the rows of one evaluation; None for no bound.
    """

    def __init__(self, layout: Layout, most: int | None, tally: Tally) -> None:
        self.layout, self.most, self.tally = layout, most, tally
        self.steppers: dict[int, Stepper] = {}  # by id, because they need not be hashable
        self.waiting = WaitingRows()
        self.groups: list[Group] = []
        self.results: list[Delivery] = []
        self.checked: set[int] = set()

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests for a `Steps`."""
        assert isinstance(propagator, Steps)
        stepper = propagator.stepper
        self.waiting.add(id(stepper), [(r, propagator.count(int(r.start), int(r.stop))) for r in requests])
        if id(stepper) not in self.steppers:
            self.steppers[id(stepper)] = stepper
            self.waiting.sharing = all(s.evaluate == t.evaluate for s, t in pairwise(self.steppers.values()))

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self.waiting or self.groups)

    def tick(self) -> list[Delivery]:
        """Make batched calls until rows reach their boundaries; before that, nothing can change what runs."""
        return answer(self.ticking())

    def ticking(self) -> Asking[list[Delivery]]:
        """Do what `tick` does, but yield the evaluations."""
        while not self.results and (yield from self.advance()):
            pass
        results, self.results = self.results, []
        return results

    def advance(self) -> Asking[bool]:
        """Let all rows that may advance go on to their next evaluation, and ask for it; False if there are none."""
        if self.waiting:
            self._start()
        elif not self.groups:
            return False
        if not self.results:  # a step may end without an evaluation
            yield from self._evaluate_all()
        return True

    def _start(self) -> None:
        """Regroup the rows that stand at the start of a step, and begin their steps."""
        busy = sum(len(group.rows) for group in self.groups)
        # rows within a step cannot be dropped before its end: then they wait again, and are looked at again
        self.waiting.drop_cancelled(again=busy > 0)
        # at least one row must advance, or nothing would ever change
        room = None if self.most is None else max(self.most - busy, 0 if self.groups else 1)
        for stepper, rows in self.waiting.take(room, self.steppers, time.perf_counter()).items():
            self._begin(self.steppers[stepper], rows)

    def _begin(self, stepper: Stepper, rows: Rows) -> None:
        """Run the stepper's generator up to its first evaluation."""
        next_node = rows.next_node()
        # copies, because the generator keeps these vectors while the columns go on
        start, stop = self._vector(rows.node.copy(), rows.state), self._vector(next_node, rows.state)
        samples = (self._vector(rows.sample.copy(), rows.state),) if stepper.per_sample else ()
        routine = stepper.step(rows.state, rows.memory, start, stop, *samples)
        if not isinstance(routine, Generator):
            raise StructureError(
                f"{type(stepper).__name__}.step must be a generator: yield (state, where) for evaluations"
            )
        group = Group(stepper, rows, next_node, routine, samples)
        self._resume(group, None)
        # The first evaluation of a slice, at the very state it starts from, can be shared: F and G of one iterate ask
        # for it both. Only a state object that was passed through unchanged is known to be that state.
        group.shares = rows.starting and group.state is rows.state

    def _vector(self, values: np.ndarray, like: Stack) -> Nodes:
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
            group.rows.node[:] = group.next_node
            group.rows.cost[:] += group.evaluations
            self._finish(group.stepper, group.rows, *end.value)
        else:
            if id(group.stepper) not in self.checked and not has_rows(group.where, len(group.rows)):
                raise StructureError(
                    f"{type(group.stepper).__name__}.step must yield (state, where) with a `where` for each row"
                )
            group.shares = False
            self.groups.append(group)

    def _finish(self, stepper: Stepper, rows: Rows, state: Stack, memory: Stack, embedded: Stack = None) -> None:
        """Hand out the rows that have reached their boundary, and queue the others for their next step."""
        self._check(stepper, rows, state, memory)
        if embedded is not None:
            difference, before = subtract(embedded, state), rows.embedded_difference
            rows.embedded_difference = difference if before is None else add(before, difference)
        rows.state, rows.memory = state, memory
        rows.steps_made[:] += 1
        arrived = rows.steps_made == rows.steps
        for i in np.flatnonzero(arrived).tolist():
            self.results.append(Delivery(rows.requests[i], self._result(rows, i), rows.began[i]))
        if not arrived.all():
            self.waiting.put_back(id(stepper), rows.take(np.flatnonzero(~arrived)))

    def _result(self, rows: Rows, i: int) -> Result:
        """Return the result of one row, copied, so that it does not keep the whole stack alive."""
        memory = None if rows.memory is None else copy(take(rows.memory, slice(i, i + 1)))
        difference = rows.embedded_difference
        difference = None if difference is None else self.layout.row(difference, i)
        return Result(self.layout.row(rows.state, i), memory, int(rows.cost[i]), embedded_difference=difference)

    def _check(self, stepper: Stepper, rows: Rows, state: Stack, memory: Stack) -> None:
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
        """Evaluate all rows of some groups, which use the same network, in one batch."""
        evaluate, first = groups[0].stepper.evaluate, groups[0]
        if len(groups) == 1 and not first.shares:  # as in all stages of a method but the first: nothing to gather
            value = yield from self._call(evaluate, [first.state, first.where, *first.samples], len(first.rows))
            self._proceed(first, value)
            return
        batch = Batch.of(groups)
        value = yield from self._call(evaluate, batch.arguments, count_rows(batch.arguments[0]))
        for group, position in zip(groups, batch.positions, strict=True):
            self._proceed(group, pick(value, position))

    def _proceed(self, group: Group, value: Any) -> None:
        group.evaluations += 1
        self._resume(group, value)

    def _call(self, evaluate: Evaluate, arguments: list[Any], count: int) -> Asking[Any]:
        """Ask for an evaluation, in parts of at most `most` rows."""
        if self.most is not None and count > self.most:
            values = []
            for i in range(0, count, self.most):
                part = slice(i, min(i + self.most, count))
                values.append((yield from self._call(evaluate, [pick(x, part) for x in arguments], part.stop - i)))
            return concatenate(values)
        # Not a call: this yields the evaluation to whoever drives the run (`evaluations.py`), and is sent its value.
        value = yield Evaluation(evaluate, arguments, count)
        if value is None or not has_rows(value, count):
            raise StructureError(f"evaluate was given {count} rows and must return a value for each")
        self.tally.call(count)
        return value
