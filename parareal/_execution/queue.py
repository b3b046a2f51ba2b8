"""Queues: propagations of one form that wait until they run."""

import heapq
from abc import ABC, abstractmethod
from typing import final

from parareal._execution.evaluations import EvaluationRoutine
from parareal._iteration.messages import Delivery, Request
from parareal._problem.propagators import Propagator


class Queue(ABC):
    """Propagations that wait or run; a runner has one queue per plain function and kind, and one for all steppers.

    To run propagations elsewhere, write a queue and an executor that makes it (`AbstractExecutor`).
    """

    @abstractmethod
    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Add requests to apply `propagator`, and return without waiting for results."""

    @abstractmethod
    def tick(self) -> list[Delivery]:
        """Work once, and return the finished propagations.

        The list is empty if there was nothing to do, or if only cancelled propagations ended.
        """

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether no request waits and none runs."""

    def ticking(self) -> EvaluationRoutine[list[Delivery]]:
        """Do the work of `tick`, but yield the evaluations instead of making them; by default there are none.

        A queue that wraps another overrides this method too: `deliveries = yield from self.inner.ticking()`.
        """
        yield from ()  # makes this function a generator
        return self.tick()

    def close(self) -> None:
        """Cancel propagations that were submitted elsewhere and have not begun; by default there are none."""
        return None


@final
class RequestHeap:
    """Waiting requests, ordered by `Request.priority`; `take` drops cancelled ones."""

    def __init__(self) -> None:
        # The counter is a safeguard: should two priorities be equal, it decides, and the heap never compares two
        # requests, which hold arrays.
        self._heap: list[tuple[tuple[int, ...], int, Request]] = []
        self._count = 0

    def add(self, requests: list[Request]) -> None:
        """Add requests."""
        for request in requests:
            heapq.heappush(self._heap, (request.priority, self._count, request))
            self._count += 1

    def take(self, limit: int | None) -> list[Request]:
        """Remove and return the first `limit` requests, or all if that is None, in order."""
        requests: list[Request] = []
        while self._heap and (limit is None or len(requests) < limit):
            request = heapq.heappop(self._heap)[2]
            if not request.cancelled:
                requests.append(request)
        return requests

    def clear(self) -> None:
        """Drop everything."""
        self._heap = []

    def __len__(self) -> int:
        return len(self._heap)
