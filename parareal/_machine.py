"""Parareal as a state machine that does no work itself: it asks, is answered, corrects, and decides.

One machine runs one sample over a range of slices. It never sees a propagator: `take` hands out the
propagations that are ready, `receive` brings their results back in any order, values of the left boundary
come in through `enter`, and those of the right one are read from `outlet`. Which of the ready propagations
run, where, and how many at a time is the driver's choice and changes no iterate.

The iteration (Lions, Maday, Turinici 2001; docs/theory.md, eq. 1) is, in this order of operations,

    U(k, n+1) = F(k-1, n) + ( G(k, n) - G(k-1, n) ),        F(k, n), G(k, n) start from U(k, n),

and the bracket is skipped where U(k, n) and U(k-1, n) agree bit by bit. Finite termination is then
exact to the last bit: U(k, n) is the sequential solution from k = n on.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, final

from parareal._criteria import AbstractCriterion, Evidence
from parareal._history import History
from parareal._state import NORMS, add, finite, same, subtract
from parareal._values import Kind, Request, Result, Value


@final
@dataclass(frozen=True)
class Rules:
    """What the machines of one solve have in common."""

    criterion: AbstractCriterion
    limit: int
    """the last iteration that may be made"""
    slices: int
    """slices of the whole problem"""
    synchronous: bool
    """hold every iteration back until the one before it is complete"""
    correct: Callable[[Any, Any, int], Any]
    """(memory, change of the state, boundary) -> what the fine stepper remembers, corrected"""
    history: History


class NonFinite(ArithmeticError):
    """A state stopped being finite; the message names slice, iteration and sample."""


@final
@dataclass(frozen=True, slots=True)
class _Input:
    """What a slice needs to know of an input after its propagations have been asked for."""

    value: Value
    source: int
    """the iteration whose F and G serve this input: an earlier one where the inputs agree bit by bit"""
    unchanged: bool


@final
class _Slice:
    """One slice: the inputs that reached it, what its propagations gave, and its newest output."""

    def __init__(self, rules: Rules, sample: int, index: int, guess: Any):
        self.rules, self.sample, self.index = rules, sample, index
        self.inputs: dict[int, _Input] = {}
        self.newest: _Input | None = None
        self.fine: dict[int, tuple[Result, float]] = {}  # by source, with the depth it was reached at
        self.coarse: dict[int, tuple[Result, float]] = {}
        self.output: Value | None = None if guess is None else Value(0, guess, estimate=float("inf"))
        self.streak = 0
        self.increment = float("inf")  # norm of the newest

    @property
    def made(self) -> int:
        """The iteration of the newest output; -1 before the first."""
        return -1 if self.output is None else self.output.iteration

    @property
    def complete(self) -> bool:
        """Whether no further output can come."""
        return self.output is not None and (self.output.final or self.made >= self.rules.limit)

    def enter(self, value: Value) -> list[Request]:
        """Take the left boundary's next value; return the propagations that are ready with it."""
        k, last = value.iteration, self.newest
        unchanged = last is not None and _agree(last.value, value)
        self.newest = _Input(value, last.source if last is not None and unchanged else k, unchanged)
        self.inputs[k] = replace(self.newest, value=value.stripped())  # only the newest state stays alive
        if unchanged:
            return []
        ready = [Request(self.sample, self.index, k, Kind.COARSE, value)]
        if k < self.rules.limit and not value.settled:
            ready.append(Request(self.sample, self.index, k, Kind.FINE, value))
        return ready

    def receive(self, request: Request, result: Result, depth: float) -> None:
        """Keep a result until the corrections that need it are made."""
        results = self.fine if request.kind is Kind.FINE else self.coarse
        results[request.iteration] = (result, depth)

    def advance(self, barrier: float) -> Value | None:
        """Make the next output if all that it needs is here."""
        if self.complete:
            return None
        if self.output is None:
            return self._sketch()
        k = self.made + 1
        if k not in self.inputs and self.newest is not None and self.newest.value.final:
            if self.newest.value.settled:  # the slice has stopped: what it gave last stands
                estimate = self.newest.value.estimate
                self.output = replace(self.output, iteration=k, settled=True, estimate=estimate)
                return self.output
            self.inputs[k] = _Input(self.newest.value.stripped(), self.newest.source, unchanged=True)
        return self._correct(k, barrier) if k in self.inputs else None

    def _sketch(self) -> Value | None:
        """Form U(0, n+1) = G(0, n)."""
        if 0 not in self.coarse:
            return None
        coarse, depth = self.coarse[0]
        return self._publish(Value(0, coarse.state, trail=coarse.memory, depth=depth, estimate=float("inf")))

    def _correct(self, k: int, barrier: float) -> Value | None:
        """Form U(k, n+1) = F(k-1, n) + ( G(k, n) - G(k-1, n) )."""
        now, then = self.inputs[k], self.inputs[k - 1]
        if then.source not in self.fine or then.source not in self.coarse or now.source not in self.coarse:
            return None
        fine, fine_depth = self.fine[then.source]
        coarse, coarse_depth = self.coarse[now.source]
        state, memory = fine.state, fine.memory
        if not now.unchanged:
            before, _ = self.coarse[then.source]
            change = subtract(coarse.state, before.state)
            state, memory = add(fine.state, change), self.rules.correct(fine.memory, change, self.index + 1)
        return self._publish(
            Value(
                iteration=k,
                state=state,
                memory=memory,
                trail=coarse.memory,
                exact=now.value.exact and now.unchanged and fine.exact,
                depth=max(now.value.depth, barrier, fine_depth, coarse_depth),
            )
        )

    def _publish(self, value: Value) -> Value:
        """Judge a new output, and let go of what it was made from."""
        before, k = self.output, value.iteration
        size = NORMS[self.rules.criterion.norm](value.state)
        if not size < float("inf") and not finite(value.state):
            raise NonFinite(
                f"the state at the end of slice {self.index} is not finite in iteration {k}, sample {self.sample}: "
                f"{'the fine propagator overflows' if value.exact else 'try a more stable coarse propagator'}"
            )
        if before is not None:
            value = self._judge(value, before, size)
        self.output = value
        keep = self.inputs[k].source if k in self.inputs else k
        for results in (self.fine, self.coarse):
            for source in [s for s in results if s < keep or self.complete]:
                del results[source]
        for iteration in [i for i in self.inputs if i < k]:
            del self.inputs[iteration]
        return value

    def _judge(self, value: Value, before: Value, size: float) -> Value:
        """Record increment and defect, and let the criterion decide whether the boundary settles."""
        criterion, boundary, now = self.rules.criterion, self.index + 1, self.inputs[value.iteration]
        norm = NORMS[criterion.norm]
        fine, _ = self.fine[self.inputs[value.iteration - 1].source]
        increment = norm(subtract(value.state, before.state))
        defect = increment if value.state is fine.state else norm(subtract(fine.state, before.state))
        self.rules.history.corrected(self.sample, boundary, value.iteration, increment, defect)

        # an input that has only now become exact may have jumped, and F has not seen the jump yet
        steady = now.value.exact and now.unchanged
        last = boundary == self.rules.slices
        evidence = Evidence(
            iteration=value.iteration,
            boundary=boundary,
            increment=increment,
            defect=defect,
            size=size,
            upstream=0.0 if steady else now.value.estimate,
            previous=self.increment,
        )
        self.increment = increment
        fresh = before.memory is None and value.memory is not None  # F has not run yet with what it remembers here
        asked = (criterion.local or last) and not fresh
        self.streak = self.streak + 1 if asked and criterion.accepts(evidence) else 0
        chain = steady or now.value.settled or not criterion.local
        return replace(
            value,
            settled=(chain and self.streak >= criterion.consecutive)
            or (last and now.value.settled and not fresh),  # after a stopped slice nothing can change any more
            estimate=criterion.estimate(evidence),
        )


@final
class Machine:
    """Parareal for one sample over the slices `slices` of a problem; the module's text says how it is driven.

    `guess` gives the states of the boundaries right of each slice for iteration 0, in place of the coarse sketch.
    """

    def __init__(self, rules: Rules, sample: int, slices: range, guess: Sequence[Any] | None = None):
        self.rules = rules
        states = [None] * len(slices) if guess is None else guess
        self._slices = [_Slice(rules, sample, n, u) for n, u in zip(slices, states, strict=True)]
        self._first = slices.start
        self._ready: list[Request] = []
        self._running: Counter[int] = Counter()
        self._deepest: dict[int, float] = {}
        self._open = 0  # in the synchronous schedule, the iteration that may be made
        self.failure: NonFinite | None = None
        for left, right in pairwise(self._slices):
            if left.output is not None:
                self._ask(right.enter(left.output))

    @property
    def outlet(self) -> Value | None:
        """The newest value of the right boundary."""
        return self._slices[-1].output

    @property
    def outputs(self) -> list[Value | None]:
        """The newest value of every boundary but the left one."""
        return [s.output for s in self._slices]

    @property
    def done(self) -> bool:
        """Whether nothing more will come: the right boundary is final, the limit is reached, or a state failed."""
        return self.failure is not None or self._slices[-1].complete

    def enter(self, value: Value) -> None:
        """Take the next value of the left boundary."""
        self._ask(self._slices[0].enter(value))
        self._flow([0])

    def take(self) -> list[Request]:
        """Return the propagations that have become ready since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def receive(self, request: Request, result: Result) -> None:
        """Take the result of a propagation; they may come in any order."""
        depth = request.value.depth + result.cost
        self._running[request.iteration] -= 1
        self._deepest[request.iteration] = max(self._deepest.get(request.iteration, 0.0), depth)
        at = request.slice - self._first
        self._slices[at].receive(request, result, depth)
        self._flow([at])

    def _ask(self, requests: list[Request]) -> None:
        self._ready += requests
        self._running.update(r.iteration for r in requests)

    def _flow(self, start: Sequence[int]) -> None:
        """Make every output that can be made, from the given slices rightwards."""
        pending = deque(start)
        while pending and not self.done:
            at = pending.popleft()
            while (value := self._advance(self._slices[at])) is not None:
                if at + 1 < len(self._slices):
                    self._ask(self._slices[at + 1].enter(value))
                    pending.append(at + 1)
            if not pending and self.rules.synchronous and self._complete(self._open):
                self._open += 1
                pending.extend(range(len(self._slices)))

    def _advance(self, here: _Slice) -> Value | None:
        k = here.made + 1
        if self.rules.synchronous and k > self._open:
            return None
        before = [depth for i, depth in self._deepest.items() if i < k] if self.rules.synchronous else []
        try:
            return here.advance(barrier=max(before, default=0.0))
        except NonFinite as error:
            self.failure = error
            return None

    def _complete(self, k: int) -> bool:
        """Whether iteration k has come to its end in every slice."""
        running = any(count for i, count in self._running.items() if i <= k)
        return not running and all(s.made >= k or s.complete for s in self._slices)


def _agree(a: Value, b: Value) -> bool:
    """Whether F gives the same from both; what G remembers affects speed only, so it does not count."""
    return same(a.state, b.state) and same(a.memory, b.memory)
