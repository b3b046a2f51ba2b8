"""Evaluations as requests: a routine yields the calls it wants made, so that anybody may make them."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar, final

import torch

from parareal._problem.propagators import Evaluate

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One batched evaluation that is to be made: send the value back to the routine that yielded it."""

    evaluate: Evaluate
    arguments: list[Any]
    """states and places of the rows, and their samples where the stepper is `per_sample`"""
    count: int
    """rows"""

    def make(self) -> Any:
        """Make it here and now."""
        return self.evaluate(*self.arguments)


Asking: TypeAlias = Generator[Call, Any, T]


def answered(routine: Asking[T]) -> T:
    """Make every call that a routine asks for, and return what it returns."""
    try:
        call = next(routine)
        while True:
            try:
                value = call.make()
            except Exception as error:
                call = routine.throw(error)
            else:
                call = routine.send(value)
    except StopIteration as end:
        return end.value


def driven(routine: Generator[Call | T, Any, None]) -> Iterator[T]:
    """Make the calls among what a routine yields, without gradients, and pass on everything else."""
    proceed = partial(next, routine)
    while True:
        with torch.no_grad():
            try:
                event = proceed()
            except StopIteration:
                return
            if isinstance(event, Call):
                try:
                    proceed = partial(routine.send, event.make())
                except Exception as error:  # the routine says what becomes of it
                    proceed = partial(routine.throw, error)
                continue
        yield event
        proceed = partial(next, routine)
