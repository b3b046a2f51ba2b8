"""Devices that exist on a virtual clock only: each runs steppers tick by tick, as one real device does."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from parareal._execution.evaluations import Asking, answered
from parareal._execution.executors import AbstractExecutor
from parareal._execution.runner import Runner
from parareal._execution.steppers import Ticks
from parareal._execution.tally import Tally
from parareal._iteration.messages import Delivery, Kind, Request
from parareal._iteration.slice import Rules
from parareal._planning.batch_time import BatchTime
from parareal._problem.propagators import Propagator, Steps
from parareal._state import Layout


@final
@dataclass
class Meter:
    """An `evaluate` that notes the rows of its calls, for the clock."""

    function: Any
    rows: list[int] = field(default_factory=list)

    def __call__(self, state: Any, where: Any) -> Any:
        """Evaluate."""
        self.rows.append(len(state))
        return self.function(state, where)


@final
@dataclass
class _Device:
    ticks: Ticks
    busy: bool = False
    seconds: float = 0.0
    """spent in calls"""


@final
class Cluster:
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
        self.devices = [_Device(Ticks(layout, most, tally)) for _ in range(devices)]
        self.now = 0.0
        self._order = 0
        self._events: list[tuple[float, int, _Device | None, Any]] = []

    def add(self, steps: Steps, requests: list[Request]) -> None:
        """Send requests to their devices."""
        for request in requests:
            at = self._slice(request)
            to = self.devices[at % len(self.devices)].ticks
            if at and self.message and len(self.devices) > 1:
                self._push(self.now + self.message, None, (to, steps, request))
            else:
                to.add(steps, [request])

    def cancel(self, owner: int | Request) -> None:
        """Drop what is no longer waited for."""
        for device in self.devices:
            device.ticks.cancel(owner)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._events and all(device.ticks.idle for device in self.devices)

    def ticking(self) -> Asking[list[Delivery]]:
        """Let time pass until propagations are complete; asks for nothing."""
        yield from ()
        return self.tick()

    def tick(self) -> list[Delivery]:
        """Let time pass until propagations are complete."""
        results: list[Delivery] = []
        while not results:
            for device in self.devices:
                if not device.busy and not device.ticks.idle:
                    self._begin(device)
            if not self._events:
                break
            self.now = self._events[0][0]
            while self._events and self._events[0][0] <= self.now:
                _, _, device, what = heapq.heappop(self._events)
                if device is None:
                    to, steps, request = what
                    to.add(steps, [request])
                else:
                    device.busy = False
                    results += what
        return results

    def _begin(self, device: _Device) -> None:
        """Begin a call; what it completes is there when it ends."""
        self.meter.rows.clear()
        answered(device.ticks.calling())
        results, device.ticks.results = device.ticks.results, []
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

    def runner(self, propagators: dict[Kind, Propagator], layout: Layout, rules: Rules | None = None) -> Runner:
        """Return a runner whose steppers run on the cluster."""

        def make(layout: Layout, tally: Tally) -> Cluster:
            self.cluster = Cluster(
                self.devices, self.batch_time, self.message, self.most, self.levels, self.meter, layout, tally
            )
            return self.cluster

        return Runner(propagators, layout, rules, most=self.most, make_ticks=make)
