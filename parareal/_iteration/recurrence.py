"""The recurrence of one slice: from its inputs U(k, n) to its outputs U(k, n+1).

Parareal (Lions, Maday, Turinici 2001; docs/explained/theory.md, eq. 1), for slice n, with F(k, n) = F(U(k, n)):

    U(0, n+1) = G(0, n)                                            the prediction      (1a)  `_predict`
    U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) )          the iteration       (1b)  `_correct`

C is the correction, for Parareal itself G. The operations are carried out in this order. Where U(k, n) and U(k-1, n)
agree bitwise, the bracket is skipped, even if G is infinite there. So U(k, n) is the sequential solution from k = n on,
bit by bit. Algorithm 1 (predict; then for every k, for every n: fine in parallel, coarse, correct) has no loop over k
here: a slice computes output k as soon as all its parts have arrived.

Algorithm 1, for one slice:

    U(k, n) arrives:     request F(k, n), and G(k, n) if C or the prediction uses it; nothing for an   `enter`
                         unchanged input, and no F for a settled one that is not the slice's first
    a result arrives:    keep it until the outputs that need it are computed                           `receive`
    all parts are here:  compute U(k, n+1) by (1a) or (1b), judge it (`_iteration/acceptance.py`), and `advance`
                         pass it to slice n+1 (`_iteration/machine.py`)
    it is not finite:    another state stands in for it; the solve fails only where F is not finite    `_substitute`
                         from a final input
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
    """An input of a slice, as far as it is needed after its propagations have been requested."""

    value: Value
    source: int
    """the iteration in which F and G were requested for this state; an earlier one if the input has not changed
    since"""
    unchanged: bool
    """it agrees bitwise with the input of the iteration before"""


@final
class Slice:
    """One slice of one sample; `Machine` passes values from each to the next."""

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
        self.acceptance = Acceptance(rules, sample, index, record, outermost=outer is None)
        self.inputs: dict[int, _Input] = {}
        self.newest_input: _Input | None = None
        self.first_iteration = float("inf")  # iteration of the first input; later than 0 if a window admits the slice
        self.fine_results: dict[int, tuple[Result, float]] = {}  # with depth, by the iteration of the request
        self.coarse_results: dict[int, tuple[Result, float]] = {}
        self.output: Value | None = guess
        self.output_fine: Result | None = None  # the result of F that the newest output was computed from
        self.done = guess is not None and rules.limit == 0  # no further output can come
        self.substituted_iteration = -1  # the newest iteration whose output was not finite; -1 for none
        self.admission_depth: float = 0  # the depth at which a window admitted this slice

    @property
    def iteration(self) -> int:
        """The iteration of the newest output; -1 before the first."""
        return -1 if self.output is None else self.output.iteration

    def enter(self, value: Value) -> None:
        """Accept the next value of the left boundary, and request the propagations that start from it."""
        k, previous = value.iteration, self.newest_input
        if self.done:
            return
        if self.admission_depth > value.depth:  # waiting for the window is a dependency, and counts in the span
            value = value._replace(depth=self.admission_depth)
        predict = self.rules.has_coarse and self.output is None
        if previous is None:
            self.first_iteration = k
            # a guess replaces the prediction, and gets the number of the iteration that admits the slice
            if self.output is not None:
                self.output = self.output._replace(iteration=k)
                self.done = k >= self.rules.limit
        unchanged = previous is not None and _agree(previous.value, value)
        self.newest_input = _Input(value, previous.source if previous is not None and unchanged else k, unchanged)
        self._store_input(k, self.newest_input)
        # An unchanged input requests nothing: F and G are deterministic, so the results of `source` serve it as well.
        if not unchanged:
            if self.rules.correction.uses_coarse or (predict and previous is None):
                self.demand.request_coarse(k, value)
            # F runs on the first input even if that has settled: U(1, n+1) cannot be computed without it.
            if k < self.rules.limit and (previous is None or not value.settled):
                self.demand.request_fine(k, value)

    def receive(self, request: Request, result: Result, depth: float) -> None:
        """Store a result until the outputs that need it are computed."""
        results = self.fine_results if request.kind is Kind.FINE else self.coarse_results
        results[request.iteration] = (result, depth)

    def advance(self, barrier: float) -> Value | None:
        """Compute the next output, or return None if a part of it is missing.

        `barrier` is the depth at which the iteration may begin.
        """
        if self.done:
            return None
        value = self._predict() if self.output is None else self._compute_next(self.iteration + 1, barrier)
        if value is not None:
            self.output = value
            # before `_request_fine_again`, whose request must already require full accuracy
            self.demand.full_accuracy |= self.acceptance.requires_full_accuracy
            if self._awaits_last_fine() and self.newest_input is not None:
                self.demand.request_fine(value.iteration, self.newest_input.value._replace(depth=value.depth))
            self.done = value.final or value.iteration >= self.rules.limit or self._is_exhausted(value)
            self._discard()
            self._request_fine_again()
        return value

    def _awaits_last_fine(self) -> bool:
        """Return whether the newest output is to be replaced by F of its input, although that has settled."""
        newest = self.newest_input
        return newest is not None and self.acceptance.doubtful_iteration == self.iteration == newest.value.iteration

    def _is_exhausted(self, value: Value) -> bool:
        """Return whether no further iteration can change this output, although it is not final."""
        newest = self.newest_input
        if newest is None or newest.value.iteration > value.iteration or self._awaits_last_fine():
            return False
        # F is still to follow on a prediction, and may improve where its last result was approximate
        if value.iteration == self.first_iteration or self.output_fine is None or not self.output_fine.accepted:
            return False
        return self.acceptance.exhausts(newest.value)

    def _predict(self) -> Value | None:
        """Return U(0, n+1) = G(0, n), if G(0, n) is here.

        With a window, the number of the iteration that admits the slice takes the place of 0.
        """
        if self.first_iteration not in self.inputs:
            return None
        k = int(self.first_iteration)
        left = self.inputs[k].value
        constant = Value(
            k, left.state, depth=left.depth, size=left.size, sizes=left.sizes, substituted=left.substituted
        )
        if not self.rules.has_coarse:  # no coarse propagator: the prediction is constant over the slice
            return self.acceptance.judge_prediction(left, constant, None)
        if k not in self.coarse_results:
            return None
        coarse, depth = self.coarse_results[k]
        sizes = self.acceptance.measure_sizes(coarse.state)
        if sizes is None:
            value = self._substitute(constant._replace(depth=depth), [])
            return None if value is None else self.acceptance.judge_prediction(left, value, None)
        value = self.rules.measure.add_sizes(constant._replace(state=coarse.state, depth=depth), sizes)
        value = value._replace(coarse_memory=coarse.memory)
        return self.acceptance.judge_prediction(left, value, coarse)

    def _compute_next(self, k: int, barrier: float) -> Value | None:
        """Compute the output of iteration k if its input is here; a final input serves all later iterations."""
        newest = self.newest_input
        # A left neighbour that is final sends no further values, so its last value serves this iteration, too.
        if k not in self.inputs and newest is not None and newest.value.final:
            accepted = self.output_fine is not None and self.output_fine.accepted
            if newest.value.settled and accepted and self.output is not None and not self._awaits_last_fine():
                # A settled input starts no F, and the criterion needs no better result of F either, so this iteration
                # repeats the last output.
                return self.output._replace(iteration=k, settled=True, substituted=False)
            self._store_input(k, newest._replace(unchanged=True))
        return self._correct(k, barrier) if k in self.inputs else None

    def _correct(self, k: int, barrier: float) -> Value | None:
        """Return U(k, n+1) = F(k-1, n) + ( C(U(k, n)) - C(U(k-1, n)) ), if its parts are here."""
        current, previous = self.inputs[k], self.inputs[k - 1]
        fine_entry = self.fine_results.get(self.demand.find_fine_iteration(previous.source, k - 1))
        coarse_entry, previous_entry = _NO_COARSE, _NO_COARSE
        if self.rules.correction.uses_coarse:  # inputs that agree share one F and one G, stored under the first of them
            coarse_entry = self.coarse_results.get(current.source)
            previous_entry = self.coarse_results.get(previous.source)
        if fine_entry is None or coarse_entry is None or previous_entry is None:
            return None
        (fine, fine_depth), (coarse, coarse_depth), (previous_coarse, _) = fine_entry, coarse_entry, previous_entry
        point = Point(previous.value.state, previous_coarse.state, fine.state)
        state, memory, bracket = fine.state, fine.memory, None
        # Skipped, not computed, where the inputs agree: an infinite G would make it inf - inf, and for every G the
        # output must be F(k-1, n) to the last bit. Exactness depends on it.
        substitute = self.substituted_iteration == k  # this output was not finite, and has waited for F(k, n)
        if not (current.unchanged or substitute):
            new_point = Point(current.value.state, coarse.state)
            bracket = self.rules.correction.difference(self.index, new_point, point)
        first = not self.acceptance.measured
        if bracket is not None:
            if first:  # once per slice is enough to find a wrong type
                self._check_bracket(bracket)
            # F + (G - G'), never (F + G) - G': only the former is F where G equals G'
            state = add(fine.state, bracket)
        sizes = None if substitute else self.acceptance.measure_sizes(state)
        # Exact input, no bracket, full accuracy: then the output is F of the sequential solution. An input that has
        # become exact only in this iteration does not count, because F(k-1, n) started from the previous input.
        exact = current.value.exact and current.unchanged and fine.exact
        value = Value(
            iteration=k,
            state=state,
            memory=memory,
            coarse_memory=coarse.memory,
            exact=exact,
            depth=max(current.value.depth, barrier, fine_depth, coarse_depth),
            substituted=current.value.substituted and not exact,
        )
        assert self.output is not None
        if sizes is None:
            value, bracket = self._substitute(value, [fine]), None
            if value is None:
                return None
        else:
            value, self.output_fine = self.rules.measure.add_sizes(value, sizes), fine
        if bracket is not None:
            memory = self._correct_memory(fine.memory, bracket, (coarse.memory, previous_coarse.memory))
            value = value._replace(memory=memory)
        previous_correction = self.rules.correction.value(point) if first else None
        update = Update(
            current.value,
            previous.value,
            fine,
            coarse,
            previous_coarse,
            previous_correction,
            bracket,
            current.unchanged,
            first,
        )
        return self.acceptance.judge(value, self.output, update)

    def _substitute(self, value: Value, results: list[Result]) -> Value | None:
        """Return `value` with a finite state in place of its own, or None if it waits for F of the slice's input.

        The state is the first finite one of: F(k, n), for a prediction and where the input is final; F(k-1, n), which
        `results` holds; the previous output, and for a prediction the state of `value`, which is the input's.

        Raises:
            NonFinite: if F is not finite from a final input.
        """
        k, previous, left = value.iteration, self.output, self.inputs[value.iteration].value
        self.substituted_iteration = k
        if self._reset_coarse_memory(k):
            value = value._replace(coarse_memory=None)
        if previous is None or left.final:
            entry = self._await_fine(k, value.depth)
            if entry is None:
                return None
            results, value = [entry[0], *results], value._replace(depth=max(value.depth, entry[1]))
        self.output_fine = results[0]
        for result in results:
            sizes = self.acceptance.measure_sizes(result.state)
            at_input = result is self.output_fine  # for a final input, F has started from this very state
            if sizes is not None:
                exact = left.exact and result.exact and at_input
                value = value._replace(state=result.state, memory=result.memory, exact=exact, substituted=not exact)
                return self.rules.measure.add_sizes(value, sizes)
            if at_input and ((left.exact and result.exact) or (left.settled and result.accepted)):
                raise self.acceptance.blame_fine(k, left)
        if previous is not None:
            value = self.rules.measure.fill_sizes(value._replace(state=previous.state, memory=previous.memory))
        return value._replace(substituted=True)

    def _await_fine(self, k: int, depth: float) -> tuple[Result, float] | None:
        """Return F(k, n) and its depth, for an output of iteration k that waits for it; None if it is not here."""
        here, newest = self.inputs[k], self.newest_input
        assert newest is not None
        # the first input holds its state until the prediction is made, and a final input is the newest one
        value = here.value if self.output is None else newest.value
        self.demand.require_fine(here.source, k, value, depth)
        return self.fine_results.get(self.demand.find_fine_iteration(here.source, k))

    def _reset_coarse_memory(self, k: int) -> bool:
        """Discard the memory of G(k, n) if that is not finite; G of the next slice then begins afresh."""
        source = self.inputs[k].source
        coarse, depth = self.coarse_results.get(source, _NO_COARSE)
        if coarse.state is None or self.acceptance.measure_sizes(coarse.state) is not None:
            return False
        self.coarse_results[source] = coarse._replace(memory=None), depth
        return True

    def _correct_memory(self, memory: Memory, bracket: State, coarse_memories: tuple[Memory, Memory]) -> Memory:
        """Return the memory of the fine stepper at the right boundary, corrected by the propagator's own code."""
        try:
            return self.rules.correct_memory(memory, bracket, self.rules.boundaries[self.index + 1], coarse_memories)
        except Exception as error:  # the stepper's `correct` is the caller's code, like the propagator itself
            raise PropagatorFailure(error) from error

    def _check_bracket(self, bracket: State) -> None:
        """Raise `TypeError` if the difference that a correction returned is not like a state."""
        layout = Layout.of(bracket)
        if layout != self.rules.layout:
            raise TypeError(
                f"{type(self.rules.correction).__name__}.difference must return a state like those it is given, "
                f"{self.rules.layout}, but returned {layout}: keep structure, shape, dtype and device"
            )

    def _store_input(self, k: int, entry: _Input) -> None:
        """Store an input, and its state only if it is needed again."""
        if not self.keeps_states and (self.output is not None or k > self.first_iteration):
            # A propagation under way holds the state through its request. This entry must not keep it alive longer:
            # memory per slice would grow with the number of iterations under way.
            entry = _Input(entry.value.without_states(), entry.source, entry.unchanged)
        self.inputs[k] = entry

    def _discard(self) -> None:
        """Discard everything that no later output needs."""
        k = self.iteration
        if k == self.first_iteration and k in self.inputs:
            self._store_input(k, self.inputs[k])  # without its state, which was kept for the prediction
        if self.done:
            self.fine_results, self.coarse_results, self.inputs = {}, {}, {}
            self.newest_input, self.output_fine = None, None
            self.demand.held_back_requests = []
            return
        # output k+1 needs F and G of input k, which are stored under its source
        keep = self.inputs[k].source if k in self.inputs else k
        for results in (self.fine_results, self.coarse_results):
            for source in [s for s in results if s < keep]:
                del results[source]
        self.demand.discard(keep)
        for iteration in [i for i in self.inputs if i < k]:
            del self.inputs[iteration]

    def _request_fine_again(self) -> None:
        """Request F again if its last result was approximate, the input has not changed, and a better one is needed.

        `enter` requests nothing for an unchanged input. Without this, a slice whose input never changes (the first
        one) would keep its first approximate result for ever.
        """
        k, fine = self.iteration, self.output_fine
        # F of this iteration or a newer one may have been requested already, or be held back
        if fine is None or self.done or k not in self.inputs or self.demand.newest_fine_iteration >= k:
            return
        here = self.inputs[k]
        # a settled boundary needs no better result than the criterion does; any other may still become exact
        enough = fine.accepted if here.value.settled else fine.exact
        if not enough:
            # Discard the approximate result: otherwise the next output would be computed from it, without waiting for
            # the better one.
            self.fine_results = {i: entry for i, entry in self.fine_results.items() if i > k}
            # at full accuracy, because on a state that stays the same one more approximate result would be wasted
            self.demand.request_fine(k, here.value, full_accuracy=here.unchanged or here.value.settled)


_NO_COARSE: tuple[Result, float] = (Result(None, None, 0.0), 0.0)
"""entry in place of G's result where the correction does not use G"""


def _agree(a: Value, b: Value) -> bool:
    """Return whether F has the same result for both; coarse memory changes speed only, so it does not count."""
    return same(a.state, b.state) and same(a.memory, b.memory)
