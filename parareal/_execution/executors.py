"""Who runs the propagations that are ready, and how many at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from parareal._checks import whole_number
from parareal._execution.runner import Runner
from parareal._iteration.messages import Kind
from parareal._iteration.slice import Rules
from parareal._problem.propagators import Propagator
from parareal._state import Layout


class AbstractExecutor(ABC):
    """Where propagations run: who computes what when. Iterates stay the same, but for rounding, and within windows."""

    @abstractmethod
    def runner(self, propagators: dict[Kind, Propagator], layout: Layout, rules: Rules | None = None) -> Runner:
        """Return what runs the propagations of one solve."""


@final
@dataclass(frozen=True)
class SerialExecutor(AbstractExecutor):
    """One row at a time, by priority: the reference, bit by bit equal to the sequential solve at its end."""

    def runner(self, propagators: dict[Kind, Propagator], layout: Layout, rules: Rules | None = None) -> Runner:
        """Return a runner that never batches."""
        return Runner(propagators, layout, rules, most=1)


@final
@dataclass(frozen=True)
class BatchedExecutor(AbstractExecutor):
    """All ready rows in one batched call; with `max_batch`, the first so many of them by priority."""

    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.max_batch is not None:
            whole_number("max_batch", self.max_batch, 1)

    def runner(self, propagators: dict[Kind, Propagator], layout: Layout, rules: Rules | None = None) -> Runner:
        """Return a runner that stacks what can be stacked."""
        return Runner(propagators, layout, rules, most=self.max_batch)
