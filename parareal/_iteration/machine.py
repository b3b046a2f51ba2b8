"""Parareal as a state machine that does no work itself: it asks, is answered, corrects, and decides.

One machine runs one sample over a range of slices. It never sees a propagator: `take` hands out the
propagations that are ready, `receive` brings their results back in any order, values of the left boundary
come in through `enter`, and those of the right one are read from `outlet`. Which of the ready propagations
run, where, and how many at a time is the driver's choice and changes no iterate.

The iteration itself is in `recurrence.py`. A machine carries values from slice to slice (the algorithm's loop over n),
holds iterations back in the synchronous schedule, and admits slices through the window.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import final

from parareal._iteration.acceptance import NonFinite
from parareal._iteration.messages import Request, Result, Scope, UpdateRecord, Value
from parareal._iteration.recurrence import Slice
from parareal._iteration.rules import Rules


@final
class Machine:
    """Parareal for one sample over the slices `slices` of a problem; the module's text says how it is driven.

    `guess` gives the boundaries right of each slice for iteration 0, in place of the prediction; `outer` is the
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
        self.rules = rules = replace(rules, correction=rules.correction.begin(rules.layout, len(slices)))
        guesses = [None] * len(slices) if guess is None else guess
        self.updates: list[UpdateRecord] = []  # those made, for the driver to take out
        self.scope = Scope()  # of its requests
        shared = outer, self.scope, self.updates
        self._slices = [Slice(rules, sample, n, u, *shared) for n, u in zip(slices, guesses, strict=True)]
        self._first = slices.start
        self._ready: list[Request] = []
        self._running: Counter[int] = Counter()  # per iteration: propagations under way (synchronous schedule)
        self._deepest: dict[int, float] = {}  # per iteration: the largest depth so far (synchronous schedule)
        self._rejected = -1  # the newest iteration whose final state was seen and rejected
        self._open = 0  # in the synchronous schedule, the iteration that may be made
        self._head = 0  # the first slice that is not final: the head of the window
        self._admitted = len(slices) if rules.window is None else min(rules.window, len(slices))
        self.newly_done: list[int] = []  # slices, for the driver to take out
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
        return self._slices[self._admitted - 1].iteration

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the right boundary is final, the limit is reached, or a state failed."""
        if self.failure is not None or self._slices[-1].done:
            return True
        if self.rules.window is None:
            return False
        head = self._slices[self._head].output
        stuck = head is not None and not head.final  # the window cannot move on
        return stuck and all(s.done for s in self._slices[self._head : self._admitted])

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
        ready = here.demand.take()
        self._ready += ready
        if self.rules.synchronous:
            self._running.update(r.iteration for r in ready)

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
                if here.done:
                    self.newly_done.append(here.index)
                    break
            if here.demand.ready:
                self._ask(here)
            if not pending and self.rules.synchronous and self._ended(self._open):
                self._open += 1
                pending.extend(range(self._head, self._admitted))
        if self.reached > self._rejected and not self.done:
            self._rejected = self.reached
            last = self._slices[self._admitted - 1].output
            for here in self._slices[self._head : self._admitted]:
                here.demand.release(self._rejected, 0.0 if last is None else last.depth, here.done)
                self._ask(here)

    def _admit(self, window: int) -> None:
        """Admit slices below head + window; each starts from the newest value at its left boundary."""
        head: Value | None = None
        while self._head < len(self._slices) - 1:
            output = self._slices[self._head].output
            if output is None or not output.final:
                break
            head, self._head = output, self._head + 1
        for at in range(self._admitted, min(self._head + window, len(self._slices))):
            self._admitted = at + 1
            self._rejected = -1  # it speaks of the window's last slice, which is now another one
            self._slices[at].admitted_at = 0.0 if head is None else head.depth
            left = self._slices[at - 1].output
            if left is not None:
                self._slices[at].enter(left)
                self._flow([at])

    def _advance(self, here: Slice) -> Value | None:
        barrier = 0.0
        if self.rules.synchronous:
            if here.iteration + 1 > self._open:
                return None
            barrier = max((depth for i, depth in self._deepest.items() if i <= here.iteration), default=0.0)
        try:
            return here.advance(barrier)
        except NonFinite as error:
            self.failure = error
            return None

    def _ended(self, k: int) -> bool:
        """Whether iteration k has ended in every slice, and there is another one to make."""
        if any(count for i, count in self._running.items() if i <= k):
            return False
        left = [s for s in self._slices[self._head : self._admitted] if not s.done]
        return bool(left) and all(s.iteration >= k or s.first > k for s in left)
