"""The queue for steppers: all rows advance together, in batched calls of the network.

A row is one propagation on its way across a slice. Rows are regrouped at every step, not at every slice: all rows of
one stepper, of whatever level, slice and iteration, then stay one vectorized group. Rows that began at different times
would otherwise stay in groups of their own, and each group costs Python calls per step. A method with s stages has at
most s groups within a step at once. A tick repeats `advance` until rows have reached their boundaries. `advance`, in
order:

1. `_start_steps`: rows at the start of a step, new ones included, are joined per stepper. With `max_batch`, only the
   first by priority are selected (`waiting.py`).
2. `_begin_step`: the stepper's generator `step` runs up to its first evaluation, for all its rows at once.
3. `_evaluate_all`: the evaluations that all groups wait for are joined and requested as one call; evaluations of F and
   G at the same state are made once (`batching.py`). The call is yielded to the driver of the run (`evaluations.py`).
4. `_resume`: each generator is sent its values. It yields a further evaluation (the next stage: the group waits for the
   next `advance`) or returns the step's result (`_finish_step`).
5. `_finish_step`: rows that have reached their boundary become results, the others wait for their next step.
"""

import time
from collections.abc import Generator
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch

from parareal._execution.batching import Batch, group_by_evaluate
from parareal._execution.evaluations import Evaluation, EvaluationRoutine, Tally, run_routine
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
    count_rows,
    has_rows,
    structure,
    subtract,
    take,
    tree_leaves,
)


@final
class StepperQueue(Queue):
    """The propagations by all steppers of a solve, which run in this thread.

    `max_rows` is the largest number of rows of one evaluation; None for no bound.
    """

    def __init__(self, layout: Layout, max_rows: int | None, tally: Tally) -> None:
        self.layout, self.max_rows, self.tally = layout, max_rows, tally
        self.steppers: dict[int, Stepper] = {}  # by id, because they need not be hashable
        self.waiting = WaitingRows()  # rows between steps
        self.groups: list[Group] = []  # rows within a step
        self.results: list[Delivery] = []
        self.checked_steppers: set[int] = set()  # ids of steppers whose first step kept structure, shape and dtype

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Queue requests for a `Steps`."""
        assert isinstance(propagator, Steps)
        stepper = propagator.stepper
        self.waiting.add(id(stepper), [(r, propagator.count(int(r.start), int(r.stop))) for r in requests])
        if id(stepper) not in self.steppers:
            self.steppers[id(stepper)] = stepper
            # F and G share first evaluations if they call the same network. Functions cannot be compared by the results
            # that they compute, so the condition is that `evaluate` is the same object (or the same bound method).
            self.waiting.same_network = all(s.evaluate == t.evaluate for s, t in pairwise(self.steppers.values()))

    @property
    def idle(self) -> bool:
        """Whether no row waits and none is within a step."""
        return not (self.waiting or self.groups)

    def tick(self) -> list[Delivery]:
        """Make batched calls until rows reach their boundaries; until then no machine can decide anything."""
        return run_routine(self.ticking())

    def ticking(self) -> EvaluationRoutine[list[Delivery]]:
        """Do the work of `tick`, but yield the evaluations instead of making them."""
        while not self.results and (yield from self.advance()):
            pass
        results, self.results = self.results, []
        return results

    def advance(self) -> EvaluationRoutine[bool]:
        """Take all rows that may advance to their next evaluation, and request it; return False if there are none."""
        if self.waiting:
            self._start_steps()
        elif not self.groups:
            return False
        # A step may end without an evaluation. Its results are delivered first, because they may make requests whose
        # rows can join the next call.
        if not self.results:
            yield from self._evaluate_all()
        return True

    def _start_steps(self) -> None:
        """Regroup the rows at the start of a step, and begin their steps."""
        busy = sum(len(group.rows) for group in self.groups)
        # The generator of a step cannot give up single rows, so cancelled rows within a step are dropped at its end,
        # when they wait again. `again` asks for another look at that time.
        self.waiting.drop_cancelled(again=busy > 0)
        room = None if self.max_rows is None else max(self.max_rows - busy, 0)
        for stepper, rows in self.waiting.take(room, self.steppers, time.perf_counter()).items():
            self._begin_step(self.steppers[stepper], rows)

    def _begin_step(self, stepper: Stepper, rows: Rows) -> None:
        """Run the stepper's generator up to its first evaluation."""
        next_node = rows.compute_next_nodes()
        # Copies, because the columns change in place at the end of the step, and a stepper may keep its arguments.
        start, stop = self._to_vector(rows.node.copy(), rows.state), self._to_vector(next_node, rows.state)
        samples = (self._to_vector(rows.sample.copy(), rows.state),) if stepper.per_sample else ()
        routine = stepper.step(rows.state, rows.memory, start, stop, *samples)
        if not isinstance(routine, Generator):
            raise StructureError(
                f"{type(stepper).__name__}.step must be a generator: yield (state, where) for evaluations"
            )
        group = Group(stepper, rows, next_node, routine, samples)
        self._resume(group, None)
        # The first evaluation of a slice can be shared if it is at the slice's initial state, because F and G of one
        # iterate both need it. Only the identity of the object shows that cheaply and with certainty: a stepper that
        # scales or shifts its state yields another object, and is not shared. Comparing numbers would cost a pass over
        # all states and, on a GPU, a wait for the device.
        group.may_share = rows.has_new_rows and group.state is rows.state

    def _to_vector(self, values: np.ndarray, like: Stack) -> Nodes:
        """Return an integer vector in the library and on the device of the states."""
        first = tree_leaves(like)[0]
        return torch.from_numpy(values).to(first.device) if isinstance(first, torch.Tensor) else values

    def _resume(self, group: Group, value: Any) -> None:
        """Resume a group's generator, up to its next evaluation, or to the end of the step."""
        try:
            # a generator must be started by `next`, and takes values only afterwards
            group.state, group.where = next(group.routine) if value is None else group.routine.send(value)
        except StopIteration as end:
            if not isinstance(end.value, tuple) or len(end.value) not in (2, 3):
                raise StructureError(
                    f"{type(group.stepper).__name__}.step must return (state, memory) or (state, memory, embedded), "
                    f"but returned {_describe(end.value)}"
                ) from None
            # in place, because `node` and `cost` are views of the rows' columns
            group.rows.node[:] = group.next_node
            group.rows.cost[:] += group.evaluations
            self._finish_step(group.stepper, group.rows, *end.value)
        else:
            # checked in a stepper's first step only: it costs Python calls per evaluation
            if id(group.stepper) not in self.checked_steppers and not has_rows(group.where, len(group.rows)):
                raise StructureError(
                    f"{type(group.stepper).__name__}.step must yield (state, where) with a `where` for each row, "
                    f"but yielded {_describe(group.where)} for {len(group.rows)} rows"
                )
            group.may_share = False  # `_begin_step` sets it for the first evaluation
            self.groups.append(group)

    def _finish_step(self, stepper: Stepper, rows: Rows, state: Stack, memory: Stack, embedded: Stack = None) -> None:
        """Turn the rows that have reached their boundary into results, and queue the others for their next step."""
        self._check_step(stepper, rows, state, memory)
        if embedded is not None:
            difference, sum_before = subtract(embedded, state), rows.embedded_difference
            rows.embedded_difference = difference if sum_before is None else add(sum_before, difference)
        rows.state, rows.memory = state, memory
        rows.steps_made[:] += 1
        arrived = rows.steps_made == rows.steps
        for i in np.flatnonzero(arrived).tolist():
            self.results.append(Delivery(rows.requests[i], self._build_result(rows, i), rows.start_times[i]))
        if not arrived.all():
            self.waiting.put_back(id(stepper), rows.take(np.flatnonzero(~arrived)))

    def _build_result(self, rows: Rows, i: int) -> Result:
        """Return the result of one row as copies: views would keep the whole stack alive, all steps long."""
        # the memory keeps its leading axis, because the next `_stack_memories` joins it; a state has none
        memory = None if rows.memory is None else copy(take(rows.memory, slice(i, i + 1)))
        difference = rows.embedded_difference
        difference = None if difference is None else self.layout.row(difference, i)
        return Result(self.layout.row(rows.state, i), memory, int(rows.cost[i]), embedded_difference=difference)

    def _check_step(self, stepper: Stepper, rows: Rows, state: Stack, memory: Stack) -> None:
        """Raise `StructureError` if a stepper's first step changes structure, shape or dtype of its arguments."""
        if id(stepper) in self.checked_steppers:
            return
        kind = rows.requests[0].kind.value
        # another structure has no rows that `layout.row` could take, so it is refused as a whole
        if structure(state) != self.layout.tree:
            check_result(kind, state, self.layout)
        check_result(kind, self.layout.row(state, 0), self.layout)
        if structure(memory) != structure(rows.memory):
            raise StructureError(
                f"{type(stepper).__name__}.step returned memory of another structure than begin did: implement begin"
            )
        self.checked_steppers.add(id(stepper))

    def _evaluate_all(self) -> EvaluationRoutine[None]:
        """Evaluate all groups: one call per network, which is one call in all where F and G share theirs."""
        # The list is replaced first, because `_resume` appends the groups that need a further stage.
        groups, self.groups = self.groups, []
        for same_network in group_by_evaluate(groups):
            yield from self._evaluate(same_network)

    def _evaluate(self, groups: list[Group]) -> EvaluationRoutine[None]:
        """Evaluate all rows of some groups, which use the same network, in one batch."""
        evaluate, first = groups[0].stepper.evaluate, groups[0]
        if len(groups) == 1 and not first.may_share:
            # All later stages and steps of a single method: nothing to gather, so no copy of the state.
            value = yield from self._request_call(evaluate, [first.state, first.where, *first.samples], len(first.rows))
            self._send_value(first, value)
            return
        batch = Batch.of(groups)
        value = yield from self._request_call(evaluate, batch.arguments, count_rows(batch.arguments[0]))
        for group, position in zip(groups, batch.positions, strict=True):
            self._send_value(group, pick(value, position))

    def _send_value(self, group: Group, value: Any) -> None:
        """Send a group the values of its rows. A shared evaluation counts for each: both depend on it in the span."""
        group.evaluations += 1
        self._resume(group, value)

    def _request_call(self, evaluate: Evaluate, arguments: list[Any], count: int) -> EvaluationRoutine[Any]:
        """Request an evaluation, in parts of at most `max_rows` rows."""
        # More rows than `max_rows` can be within a step: those that share a first evaluation are admitted together, and
        # need evaluations of their own afterwards.
        if self.max_rows is not None and count > self.max_rows:
            values = []
            for i in range(0, count, self.max_rows):
                part = slice(i, min(i + self.max_rows, count))
                rows = [pick(x, part) for x in arguments]
                values.append((yield from self._request_call(evaluate, rows, part.stop - i)))
            return concatenate(values)
        # Control leaves the engine here: the evaluation travels to the driver of the run, which sends back its value
        # or throws the error of its call (`evaluations.py`).
        value = yield Evaluation(evaluate, arguments, count)
        if value is None or not has_rows(value, count):
            raise StructureError(
                f"evaluate was given {count} rows and must return a value for each, but returned {_describe(value)}"
            )
        self.tally.call(count)
        return value


def _describe(value: Any) -> str:
    """Return the type of a value, with its shape or length, for an error message."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
