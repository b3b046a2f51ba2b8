"""Evaluations as requests: a routine yields the calls it needs, so that anybody may make them.

The engine's own loops make them by `answer` and `drive`; a pipeline's denoising loop makes them itself.
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
    """One batched evaluation to make: send the value back to the routine that yielded it."""

    evaluate: Evaluate
    arguments: list[Any]
    """states and places of the rows, and their samples where the stepper is `per_sample`"""
    count: int
    """rows"""

    def make(self) -> Any:
        """Make it here and now."""
        # The one line that calls the network. Steppers are generators that yield what they want evaluated, up through
        # the queue, the runner and the run, to whoever drives the run: `drive` below, or a pipeline's own loop, which
        # evaluates the rows by its own network call instead.
        return self.evaluate(*self.arguments)


Asking: TypeAlias = Generator[Evaluation, Any, T]
"""a routine that yields evaluations, is sent their values, and returns a T"""


@final
@dataclass(slots=True)
class Tally:
    """Counters of the evaluations of one solve."""

    work: float = 0
    calls: int = 0
    peak_batch: int = 0

    def call(self, rows: int, work: float | None = None) -> None:
        """Count one batched call of `rows` rows; each is an evaluation, unless `work` is what all of them cost."""
        self.work += rows if work is None else work
        self.calls += 1
        self.peak_batch = max(self.peak_batch, rows)


def answer(routine: Asking[T]) -> T:
    """Make every evaluation that a routine asks for, and return what it returns."""
    try:
        evaluation = next(routine)
        while True:
            try:
                value = evaluation.make()
            except Exception as error:
                evaluation = routine.throw(error)
            else:
                evaluation = routine.send(value)
    except StopIteration as end:
        return end.value


def drive(routine: Generator[Evaluation | T, Any, None]) -> Iterator[T]:
    """Make the evaluations among what a routine yields, without gradients, and pass on everything else."""
    proceed = partial(next, routine)
    while True:
        with torch.no_grad():
            try:
                event = proceed()
            except StopIteration:
                return
            if isinstance(event, Evaluation):
                try:
                    proceed = partial(routine.send, event.make())
                except Exception as error:  # the routine says what becomes of it
                    proceed = partial(routine.throw, error)
                continue
        yield event
        proceed = partial(next, routine)
