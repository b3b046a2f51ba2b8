"""Who runs the propagations that are ready, and how many at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, final

from parareal._boxes import Boxes
from parareal._checks import whole_number
from parareal._propagators import Propagator, Steps
from parareal._state import Layout
from parareal._tally import Tally
from parareal._ticks import Ticks
from parareal._values import Kind, Request, Result


class Part(Protocol):
    """What a runner is made of: a queue for propagations of one form."""

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        ...

    def cancel(self, sample: int) -> None:
        """Drop what a sample that is done still waits for."""
        ...

    def tick(self) -> list[tuple[Request, Result, float]]:
        """Work once; return results with the time at which each began."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        ...


@final
class Runner:
    """Runs requests in this thread. Black-box coarse propagations go first, for everything waits for them."""

    def __init__(self, propagators: dict[Kind, Propagator], boundaries: list[Any], layout: Layout, most: int | None):
        self.tally = Tally()
        steps = {kind: p for kind, p in propagators.items() if isinstance(p, Steps)}
        boxes = {kind: p for kind, p in propagators.items() if not isinstance(p, Steps)}
        self._parts: dict[Kind, Part] = {
            kind: Boxes(kind, box, boundaries, layout, most, self.tally) for kind, box in boxes.items()
        }
        if steps:
            ticks = Ticks(steps, [int(t) for t in boundaries], layout, most, self.tally)
            self._parts.update(dict.fromkeys(steps, ticks))
        self._order = list(dict.fromkeys(self._parts[k] for k in (Kind.COARSE, Kind.FINE) if k in self._parts))

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        for part in self._order:
            part.add([r for r in requests if self._parts[r.kind] is part])

    def cancel(self, sample: int) -> None:
        """Drop what a sample that is done still waits for."""
        for part in self._order:
            part.cancel(sample)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return all(part.idle for part in self._order)

    def tick(self) -> list[tuple[Request, Result, float]]:
        """Work until at least one call was made or nothing waits."""
        for part in self._order:
            if results := part.tick():
                return results
        return []


class AbstractExecutor(ABC):
    """Where propagations run. An executor changes who computes what when, not the iterates (but for rounding)."""

    @abstractmethod
    def runner(self, propagators: dict[Kind, Propagator], boundaries: list[Any], layout: Layout) -> Runner:
        """Return what runs the propagations of one solve."""


@final
@dataclass(frozen=True)
class SerialExecutor(AbstractExecutor):
    """One row at a time, by priority: the reference, bit by bit equal to the sequential solve at its end."""

    def runner(self, propagators: dict[Kind, Propagator], boundaries: list[Any], layout: Layout) -> Runner:
        """Return a runner that never batches."""
        return Runner(propagators, boundaries, layout, most=1)


@final
@dataclass(frozen=True)
class BatchedExecutor(AbstractExecutor):
    """All ready rows in one batched call; with `max_batch`, the first so many of them by priority."""

    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.max_batch is not None:
            whole_number("max_batch", self.max_batch, 1)

    def runner(self, propagators: dict[Kind, Propagator], boundaries: list[Any], layout: Layout) -> Runner:
        """Return a runner that stacks what can be stacked."""
        return Runner(propagators, boundaries, layout, most=self.max_batch)
