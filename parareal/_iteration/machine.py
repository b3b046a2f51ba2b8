"""Parareal as a state machine that does no work itself: it asks, is answered, corrects, and decides.

One machine runs one sample over a range of slices. It never sees a propagator: `take` hands out the
propagations that are ready, `receive` brings their results back in any order, values of the left boundary
come in through `enter`, and those of the right one are read from `outlet`. Which of the ready propagations
run, where, and how many at a time is the driver's choice and changes no iterate.

What happens in a slice, the iteration itself, is in `_slice.py`; a machine carries values from slice to slice,
holds iterations back in the synchronous schedule, and lets slices in through the window.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import final

from parareal._iteration.messages import Request, Result, Value
from parareal._iteration.slice import NonFinite, Rules, Slice


@final
class Machine:
    """Parareal for one sample over the slices `slices` of a problem; the module's text says how it is driven.

    `guess` gives the boundaries right of each slice for iteration 0, in place of the coarse sketch; `outer` is the
    propagation of the next level out that this solve is part of.
    """

    def __init__(
        self,
        rules: Rules,
        sample: int,
        slices: range,
        guess: Sequence[Value] | None = None,
        outer: Request | None = None,
    ):
        self.rules = rules
        guesses = [None] * len(slices) if guess is None else guess
        self._slices = [Slice(rules, sample, n, u, outer) for n, u in zip(slices, guesses, strict=True)]
        self._first = slices.start
        self._ready: list[Request] = []
        self._running: Counter[int] = Counter()
        self._deepest: dict[int, float] = {}
        self._judged = -1  # the newest iteration of the last slice, seen not to do
        self._open = 0  # in the synchronous schedule, the iteration that may be made
        self._front = 0  # the first slice that is not final
        self._admitted = len(slices) if rules.window is None else min(rules.window, len(slices))
        self.closed: list[int] = []  # slices that have become complete, for the driver to take out
        self.failure: NonFinite | None = None
        for left, right in pairwise(self._slices[: self._admitted]):
            if left.output is not None:
                right.enter(left.output)
                self._ask(right)

    @property
    def outlet(self) -> Value | None:
        """The newest value of the right boundary."""
        return self._slices[-1].output

    @property
    def outputs(self) -> list[Value | None]:
        """The newest value of every boundary but the left one."""
        return [s.output for s in self._slices]

    @property
    def reached(self) -> int:
        """The iteration of the newest value at the right end of the window; -1 before the first."""
        return self._slices[self._admitted - 1].made

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the right boundary is final, the limit is reached, or a state failed."""
        if self.failure is not None or self._slices[-1].complete:
            return True
        front = self._slices[self._front].output
        stuck = front is not None and not front.final  # and with it the window
        return stuck and all(s.complete for s in self._slices[self._front : self._admitted])

    def enter(self, value: Value) -> None:
        """Take the next value of the left boundary."""
        self._slices[0].enter(value)
        self._flow([0])

    def take(self) -> list[Request]:
        """Return the propagations that have become ready since the last call."""
        if self.rules.window is not None:
            self._admit(self.rules.window)
        ready, self._ready = self._ready, []
        return ready

    def receive(self, request: Request, result: Result) -> None:
        """Take the result of a propagation; they may come in any order."""
        depth = request.value.depth + result.cost
        if self.rules.synchronous:
            self._running[request.iteration] -= 1
            self._deepest[request.iteration] = max(self._deepest.get(request.iteration, 0.0), depth)
        at = request.slice - self._first
        self._slices[at].receive(request, result, depth)
        self._flow([at])

    def _ask(self, here: Slice) -> None:
        if here.wanted:
            self._ready += here.wanted
            if self.rules.synchronous:
                self._running.update(r.iteration for r in here.wanted)
            here.wanted = []

    def _flow(self, start: Iterable[int]) -> None:
        """Make every output that can be made, from the given slices rightwards."""
        pending = deque(start)
        while pending and not self.done:
            at = pending.popleft()
            here = self._slices[at]
            while (value := self._advance(here)) is not None:
                if at + 1 < self._admitted:
                    self._slices[at + 1].enter(value)
                    pending.append(at + 1)
                if here.complete:
                    self.closed.append(here.index)
            self._ask(here)
            if not pending and self.rules.synchronous and self._complete(self._open):
                self._open += 1
                pending.extend(range(self._front, self._admitted))
        if self.reached > self._judged and not self.done:
            self._judged = self.reached
            last = self._slices[self._admitted - 1].output
            for here in self._slices[: self._admitted]:
                here.release(self._judged, 0.0 if last is None else last.depth)
                self._ask(here)

    def _admit(self, window: int) -> None:
        """Let slices in below front + window; each starts from the newest value at its left boundary."""
        front: Value | None = None
        while self._front < len(self._slices) - 1:
            output = self._slices[self._front].output
            if output is None or not output.final:
                break
            front, self._front = output, self._front + 1
        for at in range(self._admitted, min(self._front + window, len(self._slices))):
            self._admitted = at + 1
            self._slices[at].opened = 0.0 if front is None else front.depth
            left = self._slices[at - 1].output
            if left is not None:
                self._slices[at].enter(left)
                self._flow([at])

    def _advance(self, here: Slice) -> Value | None:
        barrier = 0.0
        if self.rules.synchronous:
            if here.made + 1 > self._open:
                return None
            barrier = max((depth for i, depth in self._deepest.items() if i <= here.made), default=0.0)
        try:
            return here.advance(barrier)
        except NonFinite as error:
            self.failure = error
            return None

    def _complete(self, k: int) -> bool:
        """Whether iteration k has come to its end in every slice, and there is another one to make."""
        running = any(count for i, count in self._running.items() if i <= k)
        left = [s for s in self._slices[self._front : self._admitted] if not s.complete]
        return bool(left) and not running and all(s.made >= k or s.first > k for s in left)
