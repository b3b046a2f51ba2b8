"""Virtual devices: a simulated cluster on which steppers run tick by tick, on a virtual clock.

The counts of a simulation are exact because each device is a real `StepperQueue`. Only time is simulated.
"""

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
    """An `evaluate` that records the rows of its calls, from which the clock computes their time."""

    function: Evaluate
    rows: list[int] = field(default_factory=list)
    """rows of each call since the list was last cleared"""

    def __call__(self, state: Any, where: Any) -> Any:
        """Record the number of rows and evaluate the function."""
        self.rows.append(len(state))
        return self.function(state, where)


@final
@dataclass
class _Device:
    """One virtual device."""

    queue: StepperQueue
    """the rows that wait on this device"""
    busy: bool = False
    """whether a call is under way"""
    seconds: float = 0.0
    """total time of its calls"""


@final
class Cluster(Queue):
    """A queue that runs the propagations of steppers on P virtual devices.

    Innermost slices are assigned to devices in turn. A free device makes one batched call of the rows that wait there,
    which takes the time that `batch_time` returns for their number. With several devices, a request reaches its device
    `message_time` after it was made, except on the first slice, whose input is there from the start.
    """

    def __init__(
        self,
        devices: int,
        batch_time: BatchTime,
        message_time: float,
        max_batch: int | None,
        levels: Sequence[int],
        meter: Meter,
        layout: Layout,
        tally: Tally,
    ):
        self.batch_time, self.message_time, self.levels, self.meter = batch_time, message_time, levels, meter
        self.devices = [_Device(StepperQueue(layout, max_batch, tally)) for _ in range(devices)]
        self.now = 0.0  # the virtual clock
        self._order = 0  # number of the newest event
        # A heap of (time, order, device, content): the end of a call with its deliveries, or, without a device, the
        # arrival of a message with its request. The order decides between equal times: the rest cannot be compared.
        self._events: list[tuple[float, int, _Device | None, Any]] = []

    def add(self, propagator: Propagator, requests: list[Request]) -> None:
        """Send requests to the devices of their slices."""
        for request in requests:
            index = self._slice_index(request)
            queue = self.devices[index % len(self.devices)].queue
            if index and self.message_time and len(self.devices) > 1:
                self._push(self.now + self.message_time, None, (queue, propagator, request))
            else:
                queue.add(propagator, [request])

    @property
    def idle(self) -> bool:
        """Whether no request waits and no call or message is under way."""
        return not self._events and all(device.queue.idle for device in self.devices)

    def tick(self) -> list[Delivery]:
        """Advance the clock until at least one propagation is finished, and return those that are."""
        results: list[Delivery] = []
        while not results:
            for device in self.devices:
                if not device.busy and not device.queue.idle:
                    self._start_call(device)
            if not self._events:
                break
            # All events of one moment come before any device starts its next call, so that rows which arrive together
            # share a batch.
            self.now = self._events[0][0]
            while self._events and self._events[0][0] <= self.now:
                _, _, device, content = heapq.heappop(self._events)
                if device is None:
                    queue, propagator, request = content
                    queue.add(propagator, [request])
                else:
                    device.busy = False
                    results += content
        return results

    def _start_call(self, device: _Device) -> None:
        """Start a call on a device; the propagations that it completes are delivered when its time has passed."""
        # One tick of the real queue computes the values at once; only their delivery is put off. A tick makes several
        # calls if steppers do not share one `evaluate`, and a device makes them one after another.
        self.meter.rows.clear()
        run_routine(device.queue.advance())
        results, device.queue.results = device.queue.results, []
        seconds = sum(map(self.batch_time, self.meter.rows))
        device.busy, device.seconds = True, device.seconds + seconds
        self._push(self.now + seconds, device, results)

    def _push(self, time: float, device: _Device | None, content: Any) -> None:
        """Add an event at a time of the virtual clock."""
        self._order += 1
        heapq.heappush(self._events, (time, self._order, device, content))

    def _slice_index(self, request: Request) -> int:
        """Return the index of a request's slice among all slices of the innermost level.

        A request of an outer level, whose slice holds several of those, gets the index of the first one.
        """
        index, path = 0, request.path[1:]
        for level, slices in enumerate(self.levels):
            index = index * slices + (path[level] if level < len(path) else 0)
        return index


@final
@dataclass
class ClusterExecutor(AbstractExecutor):
    """An executor that runs propagations on a simulated cluster."""

    devices: int
    batch_time: BatchTime
    message_time: float
    max_batch: int | None
    levels: Sequence[int]
    """numbers of slices of all levels, outermost first"""
    meter: Meter
    cluster: Cluster | None = None
    """the cluster of the solve, from its start on; `simulate` reads its clock"""

    def functions(self, kind: Kind, function: Function, layout: Layout, tally: Tally) -> Queue:
        """Return a queue that calls the function in this thread; no virtual time passes for it."""
        return FunctionQueue(kind, function, layout, self.max_batch, tally)

    def steppers(self, layout: Layout, tally: Tally) -> Queue:
        """Create the cluster and return it as the queue of all steppers."""
        self.cluster = Cluster(
            self.devices, self.batch_time, self.message_time, self.max_batch, self.levels, self.meter, layout, tally
        )
        return self.cluster
