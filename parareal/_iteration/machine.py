"""Parareal as a state machine that does no work itself: it requests propagations, receives results, and decides.

One machine runs one sample over a range of slices. It never sees a propagator: `take` returns the requests that are
ready, `receive` accepts their results in any order, values of the left boundary come in through `enter`, and values of
the right boundary are read from `outlet`. The caller decides which of the ready propagations run, where, and how many
at a time. No choice changes an iterate, except by the rounding of batched calls and, with windows, by the value that is
newest when a slice is admitted.

The iteration itself is in `recurrence.py`. A machine passes values from slice to slice (the algorithm's loop over n),
holds iterations back in the synchronous schedule, and admits slices to the window.
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

LARGEST_GROWTH = 1e100
"""bound on the product of many measured gains, far from overflow"""


@final
class Machine:
    """Parareal for one sample over the slices `slices` of a problem, driven as the module's docstring describes.

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
        # A correction may learn while a solve runs, so every solve has its own.
        self.rules = rules = replace(rules, correction=rules.correction.begin(rules.layout, len(slices)))
        guesses = [None] * len(slices) if guess is None else guess
        self.updates: list[UpdateRecord] = []  # the driver reads and clears this list
        self.scope = Scope()  # of this machine's requests
        common = outer, self.scope, self.updates
        self._slices = [Slice(rules, sample, n, u, *common) for n, u in zip(slices, guesses, strict=True)]
        self._first = slices.start
        self._ready_requests: list[Request] = []
        self._running_counts: Counter[int] = Counter()  # per iteration: propagations under way (synchronous schedule)
        self._largest_depths: dict[int, float] = {}  # per iteration: the largest depth so far (synchronous schedule)
        self._rejected_iteration = -1  # the newest iteration whose final state was rejected
        self._open_iteration = 0  # the newest iteration that may be computed (synchronous schedule)
        self._head = 0  # the first slice that is not final: the head of the window
        self._admitted_count = len(slices) if rules.window is None else min(rules.window, len(slices))
        self.newly_done: list[int] = []  # slices; the driver reads and clears this list
        self.failure: NonFinite | None = None
        # With a guess, all slices begin at once: none has to wait for its left neighbour's prediction.
        for left, right in pairwise(self._slices[: self._admitted_count]):
            if left.output is not None:
                right.enter(left.output)
                self._collect_requests(right)

    @property
    def outlet(self) -> Value | None:
        """The newest value of the right boundary."""
        return self._slices[-1].output

    @property
    def outputs(self) -> list[Value | None]:
        """The newest value of every boundary except the left one."""
        return [s.output for s in self._slices]

    @property
    def substituted_slices(self) -> list[int]:
        """The slices in which a state stood in for an iterate that was not finite."""
        return [s.index for s in self._slices if s.substituted_iteration >= 0]

    @property
    def iteration(self) -> int:
        """The iteration of the newest value at the right end of the window; -1 before the first."""
        return self._slices[self._admitted_count - 1].iteration

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the right boundary is final, the limit is reached, or a state failed."""
        if self.failure is not None or self._slices[-1].done:
            return True
        if self.rules.window is None:
            return False
        # The head may stop at the iteration limit without being final. Then the window can never move on, and the last
        # slice, which was not admitted, never becomes done.
        head = self._slices[self._head].output
        stuck = head is not None and not head.final
        return stuck and all(s.done for s in self._slices[self._head : self._admitted_count])

    def measure_growth(self) -> list[float]:
        """Return for every slice the amplification of errors from its right end to the right boundary, as measured."""
        growth = [1.0]
        for here in reversed(self._slices[1:]):
            growth.append(min(here.acceptance.errors.model.amplify(growth[-1]), LARGEST_GROWTH))
        return growth[::-1]

    def enter(self, value: Value) -> None:
        """Accept the next value of the left boundary."""
        self._slices[0].enter(value)
        self._propagate_values([0])

    def take(self) -> list[Request]:
        """Return the requests that have become ready since the last call."""
        # Slices are admitted here and not in `receive`: the driver has then delivered all results of this tick, so an
        # admitted slice starts from the newest value that there is.
        if self.rules.window is not None:
            self._admit(self.rules.window)
        ready, self._ready_requests = self._ready_requests, []
        return ready

    def receive(self, request: Request, result: Result) -> None:
        """Accept the result of a propagation; results may come in any order."""
        depth = request.value.depth + result.cost
        if self.rules.synchronous:
            self._running_counts[request.iteration] -= 1
            self._largest_depths[request.iteration] = max(self._largest_depths.get(request.iteration, 0.0), depth)
        at = request.slice - self._first
        self._slices[at].receive(request, result, depth)
        self._propagate_values([at])

    def _collect_requests(self, here: Slice) -> None:
        ready = here.demand.take()
        self._ready_requests += ready
        if self.rules.synchronous:
            self._running_counts.update(r.iteration for r in ready)

    def _propagate_values(self, start: Iterable[int]) -> None:
        """Compute every output that can be computed, from the given slices rightwards."""
        # A queue instead of recursion: one result can set off outputs in all slices to its right.
        pending = deque(start)
        while pending and not self.done:
            at = pending.popleft()
            here = self._slices[at]
            # one result can complete several outputs of one slice, where inputs of later iterations came first
            while (value := self._advance_slice(here)) is not None:
                if at + 1 < self._admitted_count:
                    self._slices[at + 1].enter(value)
                    pending.append(at + 1)
                if here.done:
                    self.newly_done.append(here.index)
                    break
            if here.demand.ready_requests:
                self._collect_requests(here)
            # only when nothing is pending, because a pending output may make further requests of this iteration
            if not pending and self.rules.synchronous and self._is_complete(self._open_iteration):
                # the barrier opens for all slices at once
                self._open_iteration += 1
                pending.extend(range(self._head, self._admitted_count))
        # The final state of a new iteration (with a window, the state at its right end) is here and did not end the
        # solve, so the criterion has rejected it. Fine propagations that waited for this decision may start.
        if self.iteration > self._rejected_iteration and not self.done:
            self._rejected_iteration = self.iteration
            last = self._slices[self._admitted_count - 1].output
            for here in self._slices[self._head : self._admitted_count]:
                here.demand.release(self._rejected_iteration, 0.0 if last is None else last.depth, here.done)
                self._collect_requests(here)

    def _admit(self, window: int) -> None:
        """Admit slices below head + window; each starts from the newest value at its left boundary."""
        head: Value | None = None
        while self._head < len(self._slices) - 1:
            output = self._slices[self._head].output
            if output is None or not output.final:
                break
            head, self._head = output, self._head + 1
        for at in range(self._admitted_count, min(self._head + window, len(self._slices))):
            self._admitted_count = at + 1
            self._rejected_iteration = -1  # it refers to the last slice of the window, which is another one now
            self._slices[at].admission_depth = 0.0 if head is None else head.depth
            left = self._slices[at - 1].output
            if left is not None:
                self._slices[at].enter(left)
                self._propagate_values([at])

    def _advance_slice(self, here: Slice) -> Value | None:
        """Compute a slice's next output, if its parts are here and the schedule allows it."""
        barrier = 0.0
        if self.rules.synchronous:
            if here.iteration + 1 > self._open_iteration:
                return None
            # the span counts the wait for the slowest propagation of all earlier iterations
            barrier = max((depth for i, depth in self._largest_depths.items() if i <= here.iteration), default=0.0)
        try:
            return here.advance(barrier)
        except NonFinite as error:
            # Stored, not raised: other samples go on, and the caller gets a solution with an outcome.
            self.failure = error
            return None

    def _is_complete(self, k: int) -> bool:
        """Return whether iteration k has ended in every slice, and a further one is to be computed."""
        if any(count for i, count in self._running_counts.items() if i <= k):
            return False
        left = [s for s in self._slices[self._head : self._admitted_count] if not s.done]
        return bool(left) and all(s.iteration >= k or s.first_iteration > k for s in left)
