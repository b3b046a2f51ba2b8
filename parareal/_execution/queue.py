"""Queues: where propagations of one form wait until they are run."""

import heapq
from abc import ABC, abstractmethod
from typing import final

from parareal._execution.evaluations import Asking
from parareal._iteration.messages import Delivery, Request
from parareal._problem.propagators import Propagator


class Queue(ABC):
    """Propagations that wait or run; a runner has one per plain function and kind, and one for all steppers.

    To run propagations elsewhere, write a queue and an executor that makes it (`AbstractExecutor`).
    """

    @abstractmethod
    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Take requests to apply `propagator`."""

    @abstractmethod
    def tick(self) -> list[Delivery]:
        """Work once, and return what is finished; an empty list if there was nothing to do."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""

    def ticking(self) -> Asking[list[Delivery]]:
        """Do what `tick` does, but yield the evaluations that are to be made; by default none is.

        A queue that wraps another overrides this, too: `deliveries = yield from self.inner.ticking()`.
        """
        yield from ()
        return self.tick()

    def close(self) -> None:
        """Take back what was handed to others and has not begun; by default nothing was."""
        return None


@final
class ByPriority:
    """Waiting requests, the first by `Request.priority` taken first; cancelled ones are dropped on the way."""

    def __init__(self) -> None:
        # priorities of one level are all different, but nested ones may compare equal: the counter then decides
        self._heap: list[tuple[tuple[int, ...], int, Request]] = []
        self._count = 0

    def add(self, requests: list[Request]) -> None:
        """Add requests."""
        for request in requests:
            heapq.heappush(self._heap, (request.priority, self._count, request))
            self._count += 1

    def take(self, most: int | None) -> list[Request]:
        """Remove and return the first `most` requests, or all, in order."""
        taken: list[Request] = []
        while self._heap and (most is None or len(taken) < most):
            request = heapq.heappop(self._heap)[2]
            if not request.cancelled:
                taken.append(request)
        return taken

    def clear(self) -> None:
        """Drop everything."""
        self._heap = []

    def __len__(self) -> int:
        return len(self._heap)
