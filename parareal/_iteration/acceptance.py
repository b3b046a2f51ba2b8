"""Acceptance of a slice's outputs, and their estimated errors.

Four words say that something is finished, and nothing else does:

- *exact*: a boundary state is the sequential solution itself;
- *settled*: the criterion accepts a boundary state, and its left neighbour is settled, or exact since the previous
  iteration. The last boundary may also settle without its neighbour, by a criterion that is cumulative or not local,
  or without being accepted, because its input has settled;
- *final*: exact or settled, so that later iterations leave the boundary as it is;
- *done*: of a slice, a machine or a run: nothing more will come from it.
"""

from typing import final

from parareal._criteria import Evidence
from parareal._iteration.error_estimate import ErrorEstimator, Update
from parareal._iteration.error_model import MIN_SLICES_FOR_PREDICTION
from parareal._iteration.messages import Result, UpdateRecord, Value
from parareal._iteration.rules import Rules
from parareal._state import NORMS, Memory, finite, same, split_inexact, subtract

UNKNOWN = float("inf")


class NonFinite(ArithmeticError):
    """A state that is not finite; the message names slice, iteration and sample."""


@final
class Acceptance:
    """Acceptance of the outputs of one slice of one sample."""

    def __init__(self, rules: Rules, sample: int, index: int, record: list[UpdateRecord]):
        self.rules, self.sample, self.index, self.record = rules, sample, index, record
        self.last = index + 1 == rules.slices
        """the slice ends at the last boundary"""
        self.norm = NORMS[rules.criterion.norm]
        self.errors = ErrorEstimator(rules.criterion.norm, rules.layout.numbers)
        self.streak = 0
        """number of outputs accepted in a row"""
        self.requires_full_accuracy = False
        """an output computed from an approximate result of F was accepted: F must run at full accuracy from now on"""

    def judge_prediction(self, left: Value, value: Value, coarse: Result | None) -> Value:
        """Estimate the error of a prediction, if there is an embedded pair.

        A prediction of the last boundary may settle.
        """
        difference = None if coarse is None else self.errors.sum_embedded_differences(left, coarse)
        criterion, size, error = (
            self.rules.criterion,
            self._measure_size(value),
            self.errors.estimate_prediction(difference),
        )
        if error == UNKNOWN:
            return value._replace(size=size, estimate=UNKNOWN, error=UNKNOWN)
        evidence = Evidence(
            value.iteration, self.index + 1, UNKNOWN, UNKNOWN, size, UNKNOWN, error=error, last=self.last
        )
        # In its first jump a multistep G has no history, so its two results agree and their difference shows no error.
        # With few slices that jump is much of the interval, and the sum of embedded differences is unreliable.
        settled = self.last and self.rules.slices >= MIN_SLICES_FOR_PREDICTION and criterion.accepts(evidence)
        return value._replace(
            settled=settled,
            size=size,
            error=error,
            estimate=criterion.estimate(evidence),
            embedded_difference=difference,
        )

    def judge(self, value: Value, previous_output: Value, update: Update) -> Value:
        """Measure the increment of U(k, n+1) and the defect of U(k-1, n+1), and decide whether the boundary settles.

        `previous_output` is U(k-1, n+1), and `update` holds the parts that `value` is the sum of.
        """
        size, boundary, current, fine = self._measure_size(value), self.index + 1, update.current, update.fine
        increment = self.norm(subtract(value.state, previous_output.state))
        # without a bracket U(k, n+1) is F(k-1, n) itself, and one norm serves for both
        defect = increment if value.state is fine.state else self.norm(subtract(fine.state, previous_output.state))
        self.record.append(UpdateRecord(self.sample, boundary, value.iteration, increment, defect))

        # an input that has become exact in this iteration may have jumped, and F has not run on its new state yet
        steady = current.exact and update.unchanged
        errors = self.errors.estimate_update(value.exact, size, increment, defect, previous_output, update)
        # If this boundary settles, F does not run again from its changed state. The error that this causes in the next
        # slice is added here, while the criterion can still reject the boundary. The rate of the next slice is not
        # known here, so this slice's stands in.
        unseen_error = 0.0 if self.last else self.errors.rate * increment
        evidence = Evidence(
            iteration=value.iteration,
            boundary=boundary,
            increment=increment,
            defect=defect,
            size=size,
            upstream=max(0.0 if steady else current.estimate, fine.estimate),
            previous=previous_output.increment,
            error=errors.estimate + unseen_error if self.rules.correction.estimates_errors or value.exact else UNKNOWN,
            last=self.last,
        )
        return value._replace(
            settled=self._settles(value, previous_output, update, evidence, steady),
            size=size,
            increment=increment,
            error=errors.sum_of_norms,
            largest_increment=errors.largest_increment,
            sums=errors.sums,
            estimate=self.rules.criterion.estimate(evidence),
        )

    def _settles(self, value: Value, previous_output: Value, update: Update, evidence: Evidence, steady: bool) -> bool:
        """Return whether a boundary settles (docs/explained/estimates.md, eq. 6 and 7)."""
        criterion, current, fine = self.rules.criterion, update.current, update.fine
        # the memory has just changed, and F of the next slice has not run with it yet
        memory_changed = not self._memory_agrees(value.memory, previous_output.memory, evidence)
        applies = (criterion.local or self.last) and not memory_changed
        self.streak = self.streak + 1 if applies and criterion.accepts(evidence) else 0
        enough = self.streak >= criterion.consecutive
        if enough and not fine.accepted:
            # The criterion would also accept further approximate results, but a boundary cannot settle on an
            # approximate result.
            self.requires_full_accuracy = True
        # A local criterion bounds what one slice adds, so everything to the left must be final first. A cumulative
        # criterion at the last boundary does not need that, because its estimate includes the changes under way.
        left_sufficient = steady or current.settled or not criterion.local or (self.last and criterion.cumulative)
        settled = left_sufficient and enough
        if self.last and current.settled and not memory_changed:
            # F does not run on a settled input, so a further iteration would repeat this output
            settled = True
        # If the inner criterion has not accepted the inner result, changes may still be under way in the inner slices.
        # At the last boundary a cumulative estimate includes them.
        return settled and (fine.accepted or (self.last and criterion.cumulative))

    def _measure_size(self, value: Value) -> float:
        """Return the norm of a value's state.

        Raises:
            NonFinite: if its state is not finite.
        """
        size = self.norm(value.state)
        # The norm is NaN or infinite wherever the state is not finite. The state is searched only then, because a norm
        # may also overflow on finite numbers.
        if not size < float("inf") and not finite(value.state):
            remedy = "the fine propagator returns NaN or infinity there; take smaller fine steps"
            advice = "take more slices" + (", or a more stable coarse propagator" if self.rules.has_coarse else "")
            raise NonFinite(
                f"the state at the end of slice {self.index} is not finite in iteration {value.iteration}, "
                f"sample {self.sample}: {remedy if value.exact else advice}"
            )
        return size

    def _memory_agrees(self, memory: Memory, previous: Memory, evidence: Evidence) -> bool:
        """Return whether F has run with this memory, or with a memory whose difference the criterion overlooks."""
        # a prediction holds no memory of F, so F has not run with the first memory that the boundary gets
        if memory is None or previous is None:
            return memory is None
        (numbers, counts), (old_numbers, old_counts) = split_inexact(memory), split_inexact(previous)
        # integers count or name something: they have no size that could be small
        if not same(counts, old_counts):
            return False
        change = self.norm(subtract(numbers, old_numbers))
        return change == 0 or self.rules.criterion.overlooks(change, self.norm(numbers), evidence)
