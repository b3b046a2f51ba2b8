"""Executors: the places where ready propagations run, and how many run at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from parareal._checks import optional_whole_number
from parareal._execution.evaluations import Tally
from parareal._execution.functions import FunctionQueue
from parareal._execution.queue import Queue
from parareal._execution.steppers import StepperQueue
from parareal._iteration.messages import Kind
from parareal._problem.problem import Problem
from parareal._problem.propagators import Function
from parareal._state import Layout


class AbstractExecutor(ABC):
    """The place where propagations run. It changes no iterate, except by rounding of batched calls and with windows.

    An executor makes the queues of one solve. The runner calls `functions` once per plain function and kind (fine or
    coarse), and `steppers` once if any propagator is `Steps`. A queue of your own is a `parareal.driver.Queue`; return
    `FunctionQueue` or `StepperQueue` for propagations that are to run in this thread.
    """

    def check(self, problem: Problem) -> None:
        """Raise `TypeError` or `ValueError` if a problem cannot run here; by default every problem can."""
        return None

    @abstractmethod
    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue for propagations by a plain or vectorized function.

        Args:
            kind: whether the function is the fine or the coarse propagator.
            function: the function.
            layout: structure, shapes and dtypes of the states.
            tally: the counters to which the queue adds its calls.
        """

    @abstractmethod
    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return a queue for propagations by steppers.

        Args:
            layout: structure, shapes and dtypes of the states.
            tally: the counters to which the queue adds its evaluations.
        """


@final
@dataclass(frozen=True)
class SerialExecutor(AbstractExecutor):
    """One row at a time, by priority. Run to the end, a solve is bit by bit equal to the sequential solve."""

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that calls the function for one state at a time."""
        return FunctionQueue(kind, function, layout, 1, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that evaluates one row at a time."""
        return StepperQueue(layout, 1, tally)


@final
@dataclass(frozen=True)
class BatchedExecutor(AbstractExecutor):
    """All ready rows in one batched call; with `max_batch`, the first `max_batch` of them by priority."""

    max_batch: int | None = None
    """largest number of rows in one call; None for no bound"""

    def __post_init__(self) -> None:
        optional_whole_number("max_batch", self.max_batch, 1)

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that stacks states where the function is vectorized."""
        return FunctionQueue(kind, function, layout, self.max_batch, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that stacks all ready rows."""
        return StepperQueue(layout, self.max_batch, tally)
