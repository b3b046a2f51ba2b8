"""Evaluations as requests: a routine yields the calls that it needs, so that its driver may make them.

The path of one evaluation: a stepper's generator `step` yields `(state, where)`. `StepperQueue` joins these with the
ones of other rows and yields an `Evaluation`. It travels by `yield from` through `Queue.ticking`, `Runner.ticking` and
`Run.events` to the driver of the run, which calls the network and sends the value back the same way. Every frame on
the path stays suspended meanwhile, so no state machine is needed to find the place where the value belongs.

The drivers in this file are `run_routine` and `drive`. A pipeline's denoising loop is another: its own network call
evaluates the rows, and so guidance, control networks and adapters work without a second implementation.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar, final

import torch

from parareal._problem.propagators import Evaluate

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Evaluation:
    """A request for one batched evaluation: send the value back to the routine that yielded it."""

    evaluate: Evaluate
    arguments: list[Any]
    """states of the rows, their `where`, and their sample indices if the stepper is `per_sample`"""
    count: int
    """number of rows"""

    def make(self) -> Any:
        """Call `evaluate`, and return the value: one row per row of the arguments."""
        # The only line of the engine that calls a network. A driver outside calls its own instead.
        return self.evaluate(*self.arguments)


EvaluationRoutine: TypeAlias = Generator[Evaluation, Any, T]
"""a generator that yields evaluations, is sent their values, and returns a T"""


@final
@dataclass(slots=True)
class Tally:
    """Counters of the evaluations of one solve."""

    work: float = 0
    """evaluations, or units of cost where a function declares one"""
    calls: int = 0
    """batched calls"""
    peak_batch: int = 0
    """rows of the largest call"""

    def call(self, rows: int, work: float | None = None) -> None:
        """Count one batched call of `rows` rows: one evaluation per row, or `work` for all of them."""
        self.work += rows if work is None else work
        self.calls += 1
        self.peak_batch = max(self.peak_batch, rows)


def run_routine(routine: EvaluationRoutine[T]) -> T:
    """Make every evaluation that a routine yields, and return its result."""
    try:
        evaluation = next(routine)
        while True:
            try:
                value = evaluation.make()
            except Exception as error:
                # Thrown into the routine, so that the code that requested the evaluation handles the error, as it
                # would if it had made the call itself.
                evaluation = routine.throw(error)
            else:
                evaluation = routine.send(value)
    except StopIteration as end:
        return end.value


def drive(routine: Generator[Evaluation | T, Any, None]) -> Iterator[T]:
    """Make the evaluations among the events that a routine yields, without gradients, and yield all other events."""
    proceed = partial(next, routine)
    while True:
        # The context is left before every yield. A generator that is suspended within `no_grad` would leave gradients
        # switched off in the caller's code, between iterations of `refine`.
        with torch.no_grad():
            try:
                event = proceed()
            except StopIteration:
                return
            if isinstance(event, Evaluation):
                try:
                    proceed = partial(routine.send, event.make())
                except Exception as error:  # the routine decides: the run ends with a solution that tells the error
                    proceed = partial(routine.throw, error)
                continue
        yield event
        proceed = partial(next, routine)
