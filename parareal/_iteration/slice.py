"""One slice of the iteration: the inputs that reach it, what F and G make of them, and its outputs.

The iteration (Lions, Maday, Turinici 2001; docs/theory.md, eq. 1) is, in this order of operations,

    U(k, n+1) = F(k-1, n) + ( G(k, n) - G(k-1, n) ),        F(k, n), G(k, n) start from U(k, n),

and the bracket is skipped where U(k, n) and U(k-1, n) agree bit by bit. Finite termination is then
exact to the last bit: U(k, n) is the sequential solution from k = n on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from parareal._criteria import AbstractCriterion, Evidence
from parareal._iteration.error_estimate import Correction, Pricing
from parareal._iteration.error_model import FEW
from parareal._iteration.messages import Kind, Request, Result, Value
from parareal._state import NORMS, add, finite, inexact_and_counts, same, subtract


@final
@dataclass(frozen=True)
class Rules:
    """What the machines of one solve have in common."""

    criterion: AbstractCriterion
    limit: int
    """the last iteration that may be made"""
    boundaries: list[Any]
    correct: Callable[..., Any]
    """(memory, change of the state, boundary, the coarse stepper's memories that the change is made of) -> what the
    fine stepper remembers, corrected"""
    record: Callable[[int, int, int, float, float], None]
    """is told sample, boundary, iteration, the norm of the increment, and that of the defect one iteration before"""
    dimensions: int = 1
    """numbers in a state"""
    synchronous: bool = False
    """hold every iteration back until the one before it is complete"""
    window: int | None = None
    """how many slices, from the first one that is not final, may be under way"""
    eager: float = float("inf")
    """from this iteration on, F waits until it is known that the iteration's final state will not do"""
    full: bool = False
    """the fine propagator is never to answer roughly: this is a run to the end"""
    inexact: bool = False
    """the fine propagator may answer with less than its full accuracy"""

    @property
    def slices(self) -> int:
        """Slices of the whole problem."""
        return len(self.boundaries) - 1


class NonFinite(ArithmeticError):
    """A state stopped being finite; the message names slice, iteration and sample."""


class _Input(NamedTuple):
    """What a slice needs to know of an input after its propagations have been asked for."""

    value: Value
    source: int
    """the iteration whose F and G serve this input: an earlier one where the inputs agree bit by bit"""
    unchanged: bool


@final
class Slice:
    """One slice of one sample; `Machine` carries values from each to the next."""

    def __init__(self, rules: Rules, sample: int, index: int, guess: Value | None, outer: Request | None):
        self.rules, self.sample, self.index, self.outer = rules, sample, index, outer
        self.inputs: dict[int, _Input] = {}
        self.newest: _Input | None = None
        self.fine: dict[int, tuple[Result, float]] = {}  # by the iteration that asked, with the depth it was reached at
        self.coarse: dict[int, tuple[Result, float]] = {}
        self.output: Value | None = guess
        self.complete = guess is not None and rules.limit == 0  # no further output can come
        self.wanted: list[Request] = []  # propagations that have become ready
        self.asked: list[int] = []  # iterations that have asked for F
        self.held: list[tuple[int, Value, bool]] = []  # for F that waits for the end of an iteration
        self.used: Result | None = None  # what the newest output was made from
        self.first = float("inf")  # the iteration of the first input
        self.full = rules.full  # F must not answer roughly any more
        self.opened: float = 0  # the depth at which a window let this slice in
        self.streak = 0
        self.pricing = Pricing(rules.criterion.norm, rules.dimensions)

    @property
    def made(self) -> int:
        """The iteration of the newest output; -1 before the first."""
        return -1 if self.output is None else self.output.iteration

    def enter(self, value: Value) -> None:
        """Take the left boundary's next value, and ask for the propagations that are ready with it."""
        k, last = value.iteration, self.newest
        if self.complete:
            return
        if self.opened > value.depth:
            value = value._replace(depth=self.opened)
        if last is None:
            self.first = k
            if self.output is not None:  # a guess stands for the sketch, whenever this slice is let in
                self.output = self.output._replace(iteration=k)
                self.complete = k >= self.rules.limit
        unchanged = last is not None and _agree(last.value, value)
        self.newest = _Input(value, last.source if last is not None and unchanged else k, unchanged)
        self._keep(k, self.newest)
        if not unchanged:
            self.wanted.append(self._request(Kind.COARSE, k, value))
            if k < self.rules.limit and (last is None or not value.settled):
                self._want_fine(k, value, full=False)

    def release(self, k: int, depth: float) -> None:
        """Ask for the F that were held back up to iteration k, whose final state, of that depth, will not do."""
        free, self.held = [u for u in self.held if u[0] <= k], [u for u in self.held if u[0] > k]
        for iteration, value, full in [] if self.complete else free:
            self._ask_fine(iteration, value._replace(depth=max(value.depth, depth)), full)

    def receive(self, request: Request, result: Result, depth: float) -> None:
        """Keep a result until the corrections that need it are made."""
        results = self.fine if request.kind is Kind.FINE else self.coarse
        results[request.iteration] = (result, depth)

    def advance(self, barrier: float) -> Value | None:
        """Make the next output if all that it needs is here."""
        if self.complete:
            return None
        value = self._sketch() if self.output is None else self._next(self.made + 1, barrier)
        if value is not None:
            self.complete = value.final or value.iteration >= self.rules.limit
            self._let_go()
            self._ask_again()
        return value

    def _sketch(self) -> Value | None:
        """Form U(0, n+1) = G(0, n); in a window, 0 stands for the iteration that lets the slice in."""
        if self.first not in self.coarse:
            return None
        k = int(self.first)
        coarse, depth = self.coarse[k]
        drift = self.pricing.drift(self.inputs[k].value, coarse)
        return self._publish(Value(k, coarse.state, trail=coarse.memory, depth=depth, drift=drift))

    def _next(self, k: int, barrier: float) -> Value | None:
        newest = self.newest
        if k not in self.inputs and newest is not None and newest.value.final:
            if newest.value.settled and self.used is not None and self.used.accepted and self.output is not None:
                # the slice has stopped: what it gave last stands
                estimate = self.output.estimate if self.rules.criterion.cumulative else newest.value.estimate
                self.output = self.output._replace(iteration=k, settled=True, estimate=estimate)
                return self.output
            self._keep(k, newest._replace(unchanged=True))
        return self._correct(k, barrier) if k in self.inputs else None

    def _correct(self, k: int, barrier: float) -> Value | None:
        """Form U(k, n+1) = F(k-1, n) + ( G(k, n) - G(k-1, n) )."""
        now, then, found = self.inputs[k], self.inputs[k - 1], self._fine(k - 1)
        if found is None or then.source not in self.coarse or now.source not in self.coarse:
            return None
        fine, fine_depth = found
        coarse, coarse_depth = self.coarse[now.source]
        before, _ = self.coarse[then.source]
        state, memory, change = fine.state, fine.memory, None
        if not now.unchanged:
            change = subtract(coarse.state, before.state)
            node = self.rules.boundaries[self.index + 1]
            trails = coarse.memory, before.memory
            state, memory = add(fine.state, change), self.rules.correct(fine.memory, change, node, trails)
        self.used = fine
        return self._publish(
            Value(
                iteration=k,
                state=state,
                memory=memory,
                trail=coarse.memory,
                exact=now.value.exact and now.unchanged and fine.exact,
                depth=max(now.value.depth, barrier, fine_depth, coarse_depth),
            ),
            Correction(now.value, then.value, fine, coarse, before, change, first=k == self.first + 1),
        )

    def _fine(self, k: int) -> tuple[Result, float] | None:
        """Return F(k, n); an earlier iteration may have asked for it, from the same state."""
        asked = max((i for i in self.asked if self.inputs[k].source <= i <= k), default=-1)
        return self.fine.get(asked)

    def _publish(self, value: Value, made: Correction | None = None) -> Value:
        """Judge a new output, which is the sketch if it is not `made` of a correction."""
        k = value.iteration
        size = NORMS[self.rules.criterion.norm](value.state)
        if not size < float("inf") and not finite(value.state):
            advice = "take more slices, or a more stable coarse propagator"
            raise NonFinite(
                f"the state at the end of slice {self.index} is not finite in iteration {k}, sample {self.sample}: "
                f"{'the fine propagator overflows' if value.exact else advice}"
            )
        value = value._replace(size=size)
        self.output = self._judge_sketch(value) if made is None else self._judge(value, made)
        return self.output

    def _judge_sketch(self, value: Value) -> Value:
        """Estimate the error of the sketch, where an embedded pair makes that possible; at the end it may do."""
        criterion, last = self.rules.criterion, self.index + 1 == self.rules.slices
        error, unknown = self.pricing.sketch(value), float("inf")
        if error == unknown:
            return value._replace(estimate=unknown, error=unknown)
        evidence = Evidence(
            value.iteration, self.index + 1, unknown, unknown, value.size, unknown, error=error, last=last
        )
        # a multistep G has no history in its first jump, and no second answer: with few slices that would be too much
        settled = last and self.rules.slices >= FEW and criterion.accepts(evidence)
        return value._replace(settled=settled, error=error, estimate=criterion.estimate(evidence))

    def _judge(self, value: Value, made: Correction) -> Value:
        """Record increment and defect, and let the criterion decide whether the boundary settles."""
        criterion, boundary, now, fine, before = self.rules.criterion, self.index + 1, made.now, made.fine, self.output
        assert before is not None
        norm = NORMS[criterion.norm]
        increment = norm(subtract(value.state, before.state))
        defect = increment if value.state is fine.state else norm(subtract(fine.state, before.state))
        self.rules.record(self.sample, boundary, value.iteration, increment, defect)

        # an input that has only now become exact may have jumped, and F has not seen the jump yet
        steady = now.exact and made.unchanged
        last = boundary == self.rules.slices
        value, likely = self.pricing.corrected(value._replace(increment=increment), before, defect, made)
        # if this boundary settles, F will not see its last increment: what that costs the next slice counts here
        unseen = 0.0 if last else self.pricing.rate * increment
        evidence = Evidence(
            iteration=value.iteration,
            boundary=boundary,
            increment=increment,
            defect=defect,
            size=value.size,
            upstream=max(0.0 if steady else now.estimate, fine.estimate),
            previous=before.increment,
            error=likely + unseen,
            last=last,
        )
        fresh = not self._remembers(value.memory, before.memory, evidence)
        asked = (criterion.local or last) and not fresh
        self.streak = self.streak + 1 if asked and criterion.accepts(evidence) else 0
        if self.streak >= criterion.consecutive and not fine.accepted:
            self.full = True  # what F is asked to do roughly has been reached
        chain = steady or now.settled or not criterion.local or (last and criterion.cumulative)
        settled = chain and self.streak >= criterion.consecutive
        if last and now.settled and not fresh:  # to the left, nothing can change any more
            settled = True
        # an estimate at the end has the answer's own in it
        settled = settled and (fine.accepted or (last and criterion.cumulative))
        return value._replace(settled=settled, estimate=criterion.estimate(evidence))

    def _remembers(self, memory: Any, before: Any, evidence: Evidence) -> bool:
        """Whether F has run with what it remembers here, or with something that the criterion takes for the same."""
        if memory is None or before is None:
            return memory is None
        criterion = self.rules.criterion
        norm = NORMS[criterion.norm]
        (now, counts), (then, old_counts) = inexact_and_counts(memory), inexact_and_counts(before)
        if not same(counts, old_counts):
            return False
        change = norm(subtract(now, then))
        return change == 0 or criterion.overlooks(change, norm(now), evidence)

    def _let_go(self) -> None:
        """Forget what no later output is made from."""
        keep = self.inputs[self.made].source if self.made in self.inputs else self.made
        for results in (self.fine, self.coarse):
            for source in [s for s in results if s < keep or self.complete]:
                del results[source]
        self.asked = [i for i in self.asked if i >= keep]
        for iteration in [i for i in self.inputs if i < self.made]:
            del self.inputs[iteration]
        if self.complete and self.newest is not None:
            self.newest = self.newest._replace(value=self.newest.value.stripped())

    def _ask_again(self) -> None:
        """Ask for F where it only now turns out that the answer it gave to this state will not do."""
        k, used = self.made, self.used
        newest = max([*self.asked, *(iteration for iteration, _, _ in self.held)], default=-1)
        if used is None or self.complete or k not in self.inputs or newest >= k:
            return
        here = self.inputs[k]
        will_do = used.accepted if here.value.settled else used.exact
        if not will_do:
            self.fine = {i: found for i, found in self.fine.items() if i > k}
            self._want_fine(k, here.value, full=here.unchanged or here.value.settled)

    def _want_fine(self, k: int, value: Value, full: bool) -> None:
        """Ask for F, now or when iteration k has come to an end that will not do."""
        if k < self.rules.eager:
            self._ask_fine(k, value, full)
        else:
            self.held.append((k, value, full))

    def _ask_fine(self, k: int, value: Value, full: bool) -> None:
        self.asked.append(k)
        self.wanted.append(self._request(Kind.FINE, k, value, full))

    def _request(self, kind: Kind, k: int, value: Value, full: bool = False) -> Request:
        start, stop = self.rules.boundaries[self.index], self.rules.boundaries[self.index + 1]
        return Request(self.sample, self.index, k, kind, value, start, stop, full or self.full, self.outer)

    def _keep(self, k: int, entry: _Input) -> None:
        """Remember an input; only the newest state stays alive, unless F may have to see an older one again."""
        self.inputs[k] = entry if self.rules.inexact else entry._replace(value=entry.value.stripped())


def _agree(a: Value, b: Value) -> bool:
    """Whether F gives the same from both; what G remembers affects speed only, so it does not count."""
    return same(a.state, b.state) and same(a.memory, b.memory)
