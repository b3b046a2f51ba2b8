"""One slice of the iteration: its inputs U(k, n), what the propagators make of them, and its outputs U(k, n+1).

Parareal (Lions, Maday, Turinici 2001; docs/explained/theory.md, eq. 1), for slice n, with F(k, n) = F(U(k, n)):

    U(0, n+1) = G(0, n)                                            the prediction      (1a)  `_predict`
    U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) )          the iteration       (1b)  `_correct`

C is the correction, for Parareal itself G. The operations are made in this order, and the bracket is skipped where
U(k, n) and U(k-1, n) agree bitwise, infinities included. So U(k, n) is the sequential solution from k = n on, bit by
bit. Algorithm 1 (predict; then for every k, for every n: fine in parallel, coarse, correct) has no loop over k here: a
slice makes output k as soon as its parts are there.

Algorithm 1, for one slice:

    U(k, n) arrives:     ask for G(k, n), if C uses it, and for F(k, n), if U(k, n) is not settled     `enter`
    a result arrives:    keep it until the outputs that need it are made                               `receive`
    all parts are here:  make U(k, n+1) by (1a) or (1b), judge it (`_iteration/acceptance.py`), and    `advance`
                         hand it to slice n+1 (`_iteration/machine.py`)
"""

from typing import NamedTuple, final

from parareal._corrections.correction import Point
from parareal._iteration.acceptance import Acceptance
from parareal._iteration.demand import Demand
from parareal._iteration.error_estimate import Update
from parareal._iteration.messages import Kind, PropagatorFailure, Request, Result, Scope, UpdateRecord, Value
from parareal._iteration.rules import Rules
from parareal._state import Layout, Memory, State, add, same


class _Input(NamedTuple):
    """An input of a slice, as far as it is needed after its propagations have been asked for."""

    value: Value
    source: int
    """the iteration whose F and G serve this input: an earlier one where the inputs agree bitwise"""
    unchanged: bool


@final
class Slice:
    """One slice of one sample; `Machine` carries values from each to the next."""

    def __init__(
        self,
        rules: Rules,
        sample: int,
        index: int,
        guess: Value | None,
        outer: Request | None,
        scope: Scope,
        record: list[UpdateRecord],
    ):
        self.rules, self.index, self.keeps_states = rules, index, rules.keeps_states
        self.demand = Demand(rules, sample, index, outer, scope)
        self.acceptance = Acceptance(rules, sample, index, record)
        self.inputs: dict[int, _Input] = {}
        self.newest: _Input | None = None
        self.first = float("inf")  # the iteration of the first input
        self.fine: dict[int, tuple[Result, float]] = {}  # by the iteration that asked, with the depth it was reached at
        self.coarse: dict[int, tuple[Result, float]] = {}
        self.output: Value | None = guess
        self.used: Result | None = None  # the fine result that the newest output was made from
        self.done = guess is not None and rules.limit == 0  # no further output can come
        self.admitted_at: float = 0  # the depth at which a window admitted this slice

    @property
    def iteration(self) -> int:
        """The iteration of the newest output; -1 before the first."""
        return -1 if self.output is None else self.output.iteration

    def enter(self, value: Value) -> None:
        """Take the left boundary's next value, and ask for the propagations that are ready with it."""
        k, last = value.iteration, self.newest
        if self.done:
            return
        if self.admitted_at > value.depth:
            value = value._replace(depth=self.admitted_at)
        predict = self.rules.predicts and self.output is None
        if last is None:
            self.first = k
            if self.output is not None:  # a guess replaces the prediction, whenever this slice is admitted
                self.output = self.output._replace(iteration=k)
                self.done = k >= self.rules.limit
        unchanged = last is not None and _agree(last.value, value)
        self.newest = _Input(value, last.source if last is not None and unchanged else k, unchanged)
        self._keep(k, self.newest)
        if not unchanged:
            if self.rules.correction.uses_coarse or (predict and last is None):
                self.demand.coarse(k, value)
            if k < self.rules.limit and (last is None or not value.settled):
                self.demand.fine(k, value)

    def receive(self, request: Request, result: Result, depth: float) -> None:
        """Keep a result until the outputs that need it are made."""
        results = self.fine if request.kind is Kind.FINE else self.coarse
        results[request.iteration] = (result, depth)

    def advance(self, barrier: float) -> Value | None:
        """Make the next output if all that it needs is here; `barrier` is the depth at which it may begin."""
        if self.done:
            return None
        value = self._predict() if self.output is None else self._next(self.iteration + 1, barrier)
        if value is not None:
            self.output = value
            self.demand.full_accuracy |= self.acceptance.exhausted
            self.done = value.final or value.iteration >= self.rules.limit
            self._discard()
            self._ask_again()
        return value

    def _predict(self) -> Value | None:
        """U(0, n+1) = G(0, n). With a window, the iteration that admits the slice takes the place of 0."""
        if self.first not in self.inputs:
            return None
        k = int(self.first)
        left = self.inputs[k].value
        if not self.rules.predicts:
            return self.acceptance.judge_prediction(left, Value(k, left.state, depth=left.depth), None)
        if k not in self.coarse:
            return None
        coarse, depth = self.coarse[k]
        return self.acceptance.judge_prediction(
            left, Value(k, coarse.state, coarse_memory=coarse.memory, depth=depth), coarse
        )

    def _next(self, k: int, barrier: float) -> Value | None:
        """Make the output of iteration k, if its input is here; a final input serves all later iterations."""
        newest = self.newest
        if k not in self.inputs and newest is not None and newest.value.final:
            if newest.value.settled and self.used is not None and self.used.accepted and self.output is not None:
                # the slice has stopped: its last output stands
                cumulative = self.rules.criterion.cumulative
                estimate = self.output.estimate if cumulative else newest.value.estimate
                return self.output._replace(iteration=k, settled=True, estimate=estimate)
            self._keep(k, newest._replace(unchanged=True))
        return self._correct(k, barrier) if k in self.inputs else None

    def _correct(self, k: int, barrier: float) -> Value | None:
        """U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) )."""
        now, then = self.inputs[k], self.inputs[k - 1]
        answer = self.fine.get(self.demand.answering(then.source, k - 1))
        coarse, before = _NO_COARSE, _NO_COARSE
        if self.rules.correction.uses_coarse:  # inputs that agree share one F and one G, kept by the first of them
            coarse, before = self.coarse.get(now.source), self.coarse.get(then.source)
        if answer is None or coarse is None or before is None:
            return None
        (fine, fine_depth), (new, new_depth), (old, _) = answer, coarse, before
        point = Point(then.value.state, old.state, fine.state)
        state, memory, change = fine.state, fine.memory, None
        if not now.unchanged:
            change = self.rules.correction.difference(self.index, Point(now.value.state, new.state), point)
        first = k == self.first + 1
        if change is not None:
            if first:
                self._check(change)
            state, memory = add(fine.state, change), self._corrected(fine.memory, change, (new.memory, old.memory))
        value = Value(
            iteration=k,
            state=state,
            memory=memory,
            coarse_memory=new.memory,
            exact=now.value.exact and now.unchanged and fine.exact,
            depth=max(now.value.depth, barrier, fine_depth, new_depth),
        )
        self.used = fine
        base = self.rules.correction.value(point) if first else None
        update = Update(now.value, then.value, fine, new, old, base, change, now.unchanged, first)
        assert self.output is not None
        return self.acceptance.judge(value, self.output, update)

    def _corrected(self, memory: Memory, change: State, coarse_memories: tuple[Memory, Memory]) -> Memory:
        """Return the memory of the fine stepper at the right boundary, corrected by the propagator's own code."""
        try:
            return self.rules.correct_memory(memory, change, self.rules.boundaries[self.index + 1], coarse_memories)
        except Exception as error:
            raise PropagatorFailure(error) from error

    def _check(self, change: State) -> None:
        """Raise `TypeError` for the difference of a correction that is not like a state."""
        found = Layout.of(change)
        if found != self.rules.layout:
            raise TypeError(
                f"{type(self.rules.correction).__name__}.difference must return a state like those it is given, "
                f"{self.rules.layout}, but returned {found}: keep structure, shape, dtype and device"
            )

    def _keep(self, k: int, entry: _Input) -> None:
        """Remember an input; the states of earlier ones are only kept alive if they are needed again."""
        if not self.keeps_states:
            entry = _Input(entry.value.stripped(), entry.source, entry.unchanged)
        self.inputs[k] = entry

    def _discard(self) -> None:
        """Discard what no later output is made from."""
        k = self.iteration
        if self.done:
            self.fine, self.coarse, self.inputs, self.newest, self.used = {}, {}, {}, None, None
            self.demand.held = []
            return
        keep = self.inputs[k].source if k in self.inputs else k
        for results in (self.fine, self.coarse):
            for source in [s for s in results if s < keep]:
                del results[source]
        self.demand.discard(keep)
        for iteration in [i for i in self.inputs if i < k]:
            del self.inputs[iteration]

    def _ask_again(self) -> None:
        """Ask for F again where it turns out only now that its approximate answer to this state is not enough."""
        k, used = self.iteration, self.used
        if used is None or self.done or k not in self.inputs or self.demand.newest >= k:
            return
        here = self.inputs[k]
        enough = used.accepted if here.value.settled else used.exact
        if not enough:
            self.fine = {i: answer for i, answer in self.fine.items() if i > k}
            self.demand.fine(k, here.value, full_accuracy=here.unchanged or here.value.settled)


_NO_COARSE: tuple[Result, float] = (Result(None, None, 0.0), 0.0)
"""in place of G where the correction does not use it"""


def _agree(a: Value, b: Value) -> bool:
    """Return whether F has the same result for both; coarse memory changes speed only, so it does not count."""
    return same(a.state, b.state) and same(a.memory, b.memory)
