"""Acceptance of a slice's outputs, and their estimated errors.

Four words say that something is finished, and nothing else does:

- *exact*: a boundary state is the sequential solution itself;
- *settled*: the criterion accepts a boundary state, and its left neighbour is settled or exact;
- *final*: exact or settled, so that later iterations leave the boundary as it is;
- *done*: of a slice, a machine or a run: nothing more will come from it.
"""

from typing import final

from parareal._criteria import Evidence
from parareal._iteration.error_estimate import ErrorEstimate, Update
from parareal._iteration.error_model import FEW
from parareal._iteration.messages import Result, UpdateRecord, Value
from parareal._iteration.rules import Rules
from parareal._state import NORMS, Memory, finite, inexact_and_counts, same, subtract

UNKNOWN = float("inf")


class NonFinite(ArithmeticError):
    """A state stopped being finite; the message names slice, iteration and sample."""


@final
class Acceptance:
    """Judges the outputs of one slice of one sample."""

    def __init__(self, rules: Rules, sample: int, index: int, record: list[UpdateRecord]):
        self.rules, self.sample, self.index, self.record = rules, sample, index, record
        self.last = index + 1 == rules.slices
        """the slice ends at the last boundary"""
        self.norm = NORMS[rules.criterion.norm]
        self.errors = ErrorEstimate(rules.criterion.norm, rules.layout.numbers)
        self.streak = 0
        """outputs accepted in a row"""
        self.exhausted = False
        """an output made from an approximate answer of F was accepted, so F must answer at full accuracy from now on"""

    def judge_prediction(self, left: Value, value: Value, coarse: Result | None) -> Value:
        """Estimate the error of a prediction, where an embedded pair makes that possible; the last one may settle."""
        difference = None if coarse is None else self.errors.embedded(left, coarse)
        criterion, size, error = self.rules.criterion, self._size(value), self.errors.of_prediction(difference)
        if error == UNKNOWN:
            return value._replace(size=size, estimate=UNKNOWN, error=UNKNOWN)
        evidence = Evidence(
            value.iteration, self.index + 1, UNKNOWN, UNKNOWN, size, UNKNOWN, error=error, last=self.last
        )
        # a multistep G has no history and no second answer in its first jump: with few slices that is unreliable
        settled = self.last and self.rules.slices >= FEW and criterion.accepts(evidence)
        return value._replace(
            settled=settled,
            size=size,
            error=error,
            estimate=criterion.estimate(evidence),
            embedded_difference=difference,
        )

    def judge(self, value: Value, before: Value, update: Update) -> Value:
        """Measure increment and defect of U(k, n+1), and let the criterion decide whether the boundary settles.

        `before` is U(k-1, n+1), and `update` says what `value` was made of.
        """
        size, boundary, now, fine = self._size(value), self.index + 1, update.now, update.fine
        increment = self.norm(subtract(value.state, before.state))
        defect = increment if value.state is fine.state else self.norm(subtract(fine.state, before.state))
        self.record.append(UpdateRecord(self.sample, boundary, value.iteration, increment, defect))

        # an input that has only now become exact may have jumped, and F has not seen the jump yet
        steady = now.exact and update.unchanged
        errors = self.errors.of_update(value.exact, size, increment, defect, before, update)
        # if this boundary settles, F will not see its last increment: what that costs the next slice counts here
        unseen = 0.0 if self.last else self.errors.rate * increment
        evidence = Evidence(
            iteration=value.iteration,
            boundary=boundary,
            increment=increment,
            defect=defect,
            size=size,
            upstream=max(0.0 if steady else now.estimate, fine.estimate),
            previous=before.increment,
            error=errors.likely + unseen if self.rules.correction.estimates_errors or value.exact else UNKNOWN,
            last=self.last,
        )
        return value._replace(
            settled=self._settles(value, before, update, evidence, steady),
            size=size,
            increment=increment,
            error=errors.carried,
            moved=errors.moved,
            sums=errors.sums,
            estimate=self.rules.criterion.estimate(evidence),
        )

    def _settles(self, value: Value, before: Value, update: Update, evidence: Evidence, steady: bool) -> bool:
        criterion, now, fine = self.rules.criterion, update.now, update.fine
        fresh = not self._remembers(value.memory, before.memory, evidence)
        asked = (criterion.local or self.last) and not fresh
        self.streak = self.streak + 1 if asked and criterion.accepts(evidence) else 0
        enough = self.streak >= criterion.consecutive
        if enough and not fine.accepted:
            self.exhausted = True
        chain = steady or now.settled or not criterion.local or (self.last and criterion.cumulative)
        settled = chain and enough
        if self.last and now.settled and not fresh:  # to the left, nothing can change any more
            settled = True
        # the estimate at the last boundary includes that of the answer itself
        return settled and (fine.accepted or (self.last and criterion.cumulative))

    def _size(self, value: Value) -> float:
        """Return the norm of a value's state.

        Raises:
            NonFinite: if its state is not finite.
        """
        size = self.norm(value.state)
        if not size < float("inf") and not finite(value.state):
            advice = "take more slices" + (", or a more stable coarse propagator" if self.rules.predicts else "")
            raise NonFinite(
                f"the state at the end of slice {self.index} is not finite in iteration {value.iteration}, "
                f"sample {self.sample}: {'the fine propagator overflows' if value.exact else advice}"
            )
        return size

    def _remembers(self, memory: Memory, before: Memory, evidence: Evidence) -> bool:
        """Return whether F has run with this memory, or with one that the criterion takes for the same."""
        if memory is None or before is None:
            return memory is None
        (now, counts), (then, old_counts) = inexact_and_counts(memory), inexact_and_counts(before)
        if not same(counts, old_counts):
            return False
        change = self.norm(subtract(now, then))
        return change == 0 or self.rules.criterion.overlooks(change, self.norm(now), evidence)
