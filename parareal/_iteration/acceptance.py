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
from parareal._iteration.error_formulas import MIN_SLICES_FOR_PAIR, UNKNOWN, multiply
from parareal._iteration.measure import Sizes
from parareal._iteration.messages import Largest, Result, UpdateRecord, Value
from parareal._iteration.rules import Rules
from parareal._state import Memory, State, finite, same, split_inexact


class NonFinite(ArithmeticError):
    """A result of F that is not finite, from a final state; the message names slice, iteration and sample."""


@final
class Acceptance:
    """Acceptance of the outputs of one slice of one sample."""

    def __init__(self, rules: Rules, sample: int, index: int, record: list[UpdateRecord], outermost: bool = True):
        self.rules, self.sample, self.index, self.record = rules, sample, index, record
        self.last = index + 1 == rules.slices
        """the slice ends at the last boundary"""
        self.measure = rules.measure
        trusts_pair = rules.slices >= MIN_SLICES_FOR_PAIR or not outermost
        self.errors = ErrorEstimator(rules.layout.numbers, outermost, trusts_pair, rules.inexact)
        self.measured = False
        """an update has entered the error model"""
        self.streak = 0
        """number of outputs accepted in a row"""
        self.doubtful_iteration = -1
        """the iteration whose input has settled, but has F run on it nevertheless; -1 for none"""
        self.requires_full_accuracy = False
        """an output computed from an approximate result of F was accepted: F must run at full accuracy from now on"""

    def judge_prediction(self, left: Value, value: Value, coarse: Result | None) -> Value:
        """Estimate the error of a prediction, if there is an embedded pair.

        A prediction of the last boundary may settle.
        """
        criterion = self.rules.criterion
        difference = None if coarse is None else self.errors.sum_embedded_differences(left, coarse)
        value = self.measure.carry_sizes(value, left)
        if value.exact:  # F of an exact input, in place of a prediction that is not finite
            return value
        self.errors.norm = self.measure.norm_at(value, value.state)
        error = self.errors.estimate_prediction(difference)
        if error == UNKNOWN:
            # the pair may agree in the first slices only, so its sum is carried on
            return value._replace(estimate=UNKNOWN, error=UNKNOWN, embedded_difference=difference)
        evidence = Evidence(
            value.iteration, self.index + 1, UNKNOWN, UNKNOWN, value.size, UNKNOWN, error=error, last=self.last
        )
        # In its first jump a multistep G has no history, so its two results agree and their difference shows no error.
        # With few slices that jump is much of the interval, and the sum of embedded differences is unreliable.
        acceptable = criterion.accept_prediction and self.last and self.rules.slices >= MIN_SLICES_FOR_PAIR
        settled = acceptable and criterion.accepts(evidence)
        return value._replace(
            settled=settled,
            error=error,
            estimate=criterion.estimate(evidence),
            embedded_difference=difference,
        )

    def judge(self, value: Value, previous_output: Value, update: Update) -> Value:
        """Measure the increment of U(k, n+1) and the defect of U(k-1, n+1), and decide whether the boundary settles.

        `previous_output` is U(k-1, n+1), and `update` holds the parts that `value` is the sum of.
        """
        boundary, current, fine = self.index + 1, update.current, update.fine
        value = self.measure.carry_sizes(value, current)
        size, norm = value.size, self.measure.norm_at(value, previous_output.state)
        measured = self.measure.compare(value, previous_output, fine.state, norm)
        increment, defect, self.errors.norm = measured.increment, measured.defect, norm
        defect = UNKNOWN if defect != defect else defect  # of a result of F that is not finite
        self.record.append(UpdateRecord(self.sample, boundary, value.iteration, increment, defect))
        if value.substituted or previous_output.substituted:
            # The increment may be that of a state that stood still because another one was not finite. It says nothing
            # about the error, and must not enter the error model either.
            self.streak = 0
            error = 0.0 if value.exact else UNKNOWN
            return value._replace(increment=increment, error=error, largest=Largest(), estimate=error)

        # an input that has become exact in this iteration may have jumped, and F has not run on its new state yet
        steady = current.exact and update.unchanged
        self.measured = True
        measured = measured._replace(defect=defect)
        errors = self.errors.estimate_update(value.exact, size, measured, previous_output, update)
        # If this boundary settles, F does not run again from its changed state. The error that this causes in the next
        # slice is added here, while the criterion can still reject the boundary. The rate of the next slice is not
        # known here, so this slice's stands in.
        unseen_error = 0.0 if self.last or value.exact else multiply(self.errors.rate, increment)
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
            previous_size=measured.previous_size,
            rounding=measured.rounding,
            leaves=measured.leaves,
        )
        return value._replace(
            settled=self._settles(value, previous_output, update, evidence, steady),
            increment=increment,
            error=errors.sum_of_norms,
            largest=errors.largest,
            sums=errors.sums,
            estimate=self.rules.criterion.estimate(evidence),
        )

    def _settles(self, value: Value, previous_output: Value, update: Update, evidence: Evidence, steady: bool) -> bool:
        """Return whether a boundary settles (docs/explained/estimates.md, eq. 6 and 7)."""
        criterion, current, fine = self.rules.criterion, update.current, update.fine
        # the memory has just changed, and F of the next slice has not run with it yet
        memory_changed = not self._memory_agrees(value.memory, previous_output.memory, evidence)
        interior = criterion.local and (self.rules.window is not None or not criterion.cumulative)
        applies = (interior or self.last) and not memory_changed
        self.streak = self.streak + 1 if applies and criterion.accepts(evidence) else 0
        enough = self.streak >= criterion.consecutive
        if enough and not fine.accepted:
            # The criterion would also accept further approximate results, but a boundary cannot settle on an
            # approximate result.
            self.requires_full_accuracy = True
        if fine.estimate == UNKNOWN and criterion.overlooks(evidence.increment, evidence.size, evidence):
            # Nothing is known of the accuracy of an approximate result of F, so the criterion can only accept a better.
            self.requires_full_accuracy = True
        last_chance = self.last and criterion.cumulative and not enough
        if current.settled and not update.unchanged and (last_chance or self._doubts(current, value.size)):
            # F runs on the settled input after all, and the next output is its result.
            self.doubtful_iteration = value.iteration
            return False
        # A local criterion bounds what one slice adds, so everything to the left must be final first. A cumulative
        # criterion at the last boundary does not need that, because its estimate includes the changes under way.
        left_sufficient = steady or current.settled or not criterion.local or (self.last and criterion.cumulative)
        settled = left_sufficient and enough
        if self.last and current.settled and not memory_changed and not criterion.cumulative:
            # F does not run on a settled input, so a further iteration would repeat this output
            settled = True
        # If the inner criterion has not accepted the inner result, changes may still be under way in the inner slices.
        # At the last boundary a cumulative estimate includes them.
        return settled and (fine.accepted or (self.last and criterion.cumulative))

    def _doubts(self, left: Value, size: float) -> bool:
        """Return whether F must run on a settled input because this slice may amplify its last change too much.

        F has not seen that change, which makes the defect `rate` times as large; the criterion has bounded the change
        alone. `size` is the norm of the output.
        """
        defect = multiply(self.errors.rate, left.increment)
        evidence = Evidence(left.iteration, self.index + 1, defect, defect, size, left.estimate)
        return not self.rules.criterion.overlooks(defect, size, evidence)

    def exhausts(self, left: Value) -> bool:
        """Return whether no iteration can improve the last output, although the criterion has not accepted it.

        Its input has settled, so F does not run again, but the flow has amplified the errors that were accepted there.
        """
        return self.last and left.settled and not left.exact and self.rules.criterion.cumulative

    def measure_sizes(self, state: State) -> Sizes | None:
        """Return the norms of a state; None if the state is not finite."""
        sizes = self.measure.measure_sizes(state)
        # The norm is NaN or infinite wherever the state is not finite. The state is searched only then, because a norm
        # may also overflow on finite numbers.
        return sizes if sizes.whole < float("inf") or finite(state) else None

    def blame_fine(self, iteration: int, left: Value) -> NonFinite:
        """Return the error about F, which is not finite from the final state `left`."""
        start = "the sequential state" if left.exact else "a state that the criterion accepted"
        advice = "take smaller fine steps" + ("" if left.exact else ", or a smaller tolerance")
        return NonFinite(
            f"the state at the end of slice {self.index} is not finite in iteration {iteration}, sample {self.sample}: "
            f"the fine propagator returns NaN or infinity from {start}; {advice}"
        )

    def _memory_agrees(self, memory: Memory, previous: Memory, evidence: Evidence) -> bool:
        """Return whether F has run with this memory, or with a memory whose difference the criterion overlooks."""
        # a prediction holds no memory of F, so F has not run with the first memory that the boundary gets
        if memory is None or previous is None:
            return memory is None
        (numbers, counts), (old_numbers, old_counts) = split_inexact(memory), split_inexact(previous)
        # integers count or name something: they have no size that could be small
        if not same(counts, old_counts):
            return False
        change, size, leaves = self.measure.compare_memory(numbers, old_numbers)
        evidence = evidence._replace(previous_size=0.0, rounding=0.0, leaves=leaves)
        return change == 0 or self.rules.criterion.overlooks(change, size, evidence)
