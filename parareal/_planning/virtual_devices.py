"""Virtual devices: a simulated cluster on a virtual clock, on which steppers run tick by tick as on a real one."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from parareal._execution.evaluations import Tally, run_routine
from parareal._execution.executors import AbstractExecutor
from parareal._execution.functions import FunctionQueue
from parareal._execution.queue import Queue
from parareal._execution.steppers import StepperQueue
from parareal._iteration.messages import Delivery, Kind, Request
from parareal._planning.batch_time import BatchTime
from parareal._problem.propagators import Evaluate, Function, Propagator
from parareal._state import Layout


@final
@dataclass
class Meter:
    """An `evaluate` that notes the rows of its calls, for the clock."""

    function: Evaluate
    rows: list[int] = field(default_factory=list)

    def __call__(self, state: Any, where: Any) -> Any:
        """Evaluate."""
        self.rows.append(len(state))
        return self.function(state, where)


@final
@dataclass
class _Device:
    queue: StepperQueue
    busy: bool = False
    seconds: float = 0.0
    """spent in calls"""


@final
class Cluster(Queue):
    """The steppers' propagations on P devices. Slices are dealt out to them in turn, whatever their level.

    A device makes the batched call of all rows that wait there, which takes what `batch_time` says of their number. A
    value that goes to a slice on another device arrives `message` later.
    """

    def __init__(
        self,
        devices: int,
        batch_time: BatchTime,
        message: float,
        most: int | None,
        levels: Sequence[int],
        meter: Meter,
        layout: Layout,
        tally: Tally,
    ):
        self.batch_time, self.message, self.levels, self.meter = batch_time, message, levels, meter
        self.devices = [_Device(StepperQueue(layout, most, tally)) for _ in range(devices)]
        self.now = 0.0
        self._order = 0
        self._events: list[tuple[float, int, _Device | None, Any]] = []

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Send requests to their devices."""
        for request in requests:
            at = self._slice(request)
            to = self.devices[at % len(self.devices)].queue
            if at and self.message and len(self.devices) > 1:
                self._push(self.now + self.message, None, (to, propagator, request))
            else:
                to.add(propagator, [request])

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._events and all(device.queue.idle for device in self.devices)

    def tick(self) -> list[Delivery]:
        """Let time pass until propagations are finished."""
        results: list[Delivery] = []
        while not results:
            for device in self.devices:
                if not device.busy and not device.queue.idle:
                    self._begin(device)
            if not self._events:
                break
            self.now = self._events[0][0]
            while self._events and self._events[0][0] <= self.now:
                _, _, device, what = heapq.heappop(self._events)
                if device is None:
                    to, propagator, request = what
                    to.add(propagator, [request])
                else:
                    device.busy = False
                    results += what
        return results

    def _begin(self, device: _Device) -> None:
        """Begin a call; what it completes is there when it ends."""
        self.meter.rows.clear()
        run_routine(device.queue.advance())
        results, device.queue.results = device.queue.results, []
        seconds = sum(map(self.batch_time, self.meter.rows))
        device.busy, device.seconds = True, device.seconds + seconds
        self._push(self.now + seconds, device, results)

    def _push(self, when: float, device: _Device | None, what: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, device, what))

    def _slice(self, request: Request) -> int:
        """Return the number of a request's slice among those of the innermost level."""
        at, path = 0, request.path[1:]
        for level, slices in enumerate(self.levels):
            at = at * slices + (path[level] if level < len(path) else 0)
        return at


@final
@dataclass
class ClusterExecutor(AbstractExecutor):
    """Runs propagations on a simulated cluster, which it keeps."""

    devices: int
    batch_time: BatchTime
    message: float
    most: int | None
    levels: Sequence[int]
    meter: Meter
    cluster: Cluster | None = None

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that calls the function here; no time passes for it."""
        return FunctionQueue(kind, function, layout, self.most, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Return the cluster."""
        self.cluster = Cluster(
            self.devices, self.batch_time, self.message, self.most, self.levels, self.meter, layout, tally
        )
        return self.cluster
