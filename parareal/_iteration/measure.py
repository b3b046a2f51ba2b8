"""Measurements of the states at one boundary: norms of the whole state, of its leaves, or by component."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from parareal._criteria import AbstractCriterion, LeafEvidence
from parareal._iteration.messages import Value
from parareal._state import (
    NORMS,
    Layout,
    ScaledNorm,
    State,
    component_units,
    leaf_epsilons,
    measure_leaves,
    subtract,
)

Norm = Callable[[State], float]


class Measurements(NamedTuple):
    """The numbers of an `Evidence` that are norms; the fields have the meaning they have there."""

    increment: float
    defect: float
    previous_size: float
    rounding: float
    leaves: tuple[LeafEvidence, ...] = ()


class Sizes(NamedTuple):
    """Norms of one state."""

    whole: float
    """norm of the state; 1 if components are measured one by one, each in its own size"""
    leaves: tuple[float, ...]
    """norms of its leaves; the largest absolute values if components are measured one by one"""


@final
@dataclass(frozen=True)
class Measure:
    """The norms that one criterion names, for one kind of state.

    Units of components are those of the boundary at which they are measured. So a norm "by component" of a difference
    is the largest ratio of a component to the size of that component of the state.
    """

    criterion: AbstractCriterion
    epsilons: tuple[float, ...]
    """machine epsilon of every leaf"""
    by_component: bool
    """every component is measured in its own size"""

    @staticmethod
    def of(criterion: AbstractCriterion, layout: Layout) -> "Measure":
        """Return the measure of a criterion for states of this layout."""
        return Measure(criterion, leaf_epsilons(layout), criterion.norm == "scaled")

    def measure_sizes(self, state: State) -> Sizes:
        """Return the norms of a state; one that is not finite has an infinite norm or NaN."""
        if not self.by_component:
            return Sizes(*measure_leaves(state, self.criterion.norm))
        largest, leaves = measure_leaves(state, "max")
        return Sizes(1.0 if largest < float("inf") else largest, leaves)

    def add_sizes(self, value: Value, sizes: Sizes) -> Value:
        """Return a value with the sizes of its state."""
        return value._replace(size=sizes.whole, sizes=sizes.leaves, largest_sizes=sizes.leaves)

    def fill_sizes(self, value: Value) -> Value:
        """Return a value with the sizes of its state, which are measured if they have not been yet."""
        return value if value.sizes else self.add_sizes(value, self.measure_sizes(value.state))

    def carry_sizes(self, value: Value, left: Value) -> Value:
        """Return a value with the largest sizes up to its boundary; `left` is the value that it was computed from."""
        # Only final states are carried: an iterate that overshoots on its way must not raise the rounding errors that
        # are allowed further right.
        carried = left.largest_sizes if left.final and left.largest_sizes else value.sizes
        return value._replace(largest_sizes=tuple(map(max, value.sizes, carried)))

    def norm_at(self, value: Value, *others: State) -> Norm:
        """Return the norm of differences at the boundary of `value`.

        `others` are further states whose components have the sizes that count, such as that of the iteration before.
        """
        if not self.by_component:
            return NORMS[self.criterion.norm]
        return self._norm_in_units_of((value.state, *others), value.largest_sizes, self.epsilons)

    def compare(self, value: Value, previous: Value, fine: State, norm: Norm) -> Measurements:
        """Return the norms of an update of a boundary.

        Args:
            value: U(k, n), with its sizes.
            previous: U(k-1, n).
            fine: F(k-1, n-1).
            norm: the result of `norm_at` for both values.
        """
        # without a bracket U(k, n) is F(k-1, n-1) itself, and one norm serves for both
        difference, unsplit = subtract(value.state, previous.state), value.state is fine
        if len(self.epsilons) == 1 or self.by_component:  # the usual case: no leaf counts by itself
            increment = norm(difference)
            defect = increment if unsplit else norm(subtract(fine, previous.state))
            if isinstance(norm, ScaledNorm):
                return Measurements(increment, defect, 1.0, norm.rounding)
            # a guess has not been measured yet
            size = previous.size if previous.sizes else norm(previous.state)
            return Measurements(increment, defect, size, self.epsilons[0] * value.largest_sizes[0])
        name = self.criterion.norm
        increment, increments = measure_leaves(difference, name)
        defect, defects = increment, increments
        if not unsplit:
            defect, defects = measure_leaves(subtract(fine, previous.state), name)
        size, sizes = (previous.size, previous.sizes) if previous.sizes else self.measure_sizes(previous.state)
        roundings = [epsilon * largest for epsilon, largest in zip(self.epsilons, value.largest_sizes, strict=True)]
        leaves = tuple(map(LeafEvidence, increments, defects, value.sizes, sizes, roundings))
        return Measurements(increment, defect, size, max(roundings, default=0.0), leaves)

    def compare_memory(self, new: list[Any], old: list[Any]) -> tuple[float, float, tuple[LeafEvidence, ...]]:
        """Return the norm of a change of memory, that of the new memory, and both for every leaf if there are several.

        Memory has units of its own, and the leaves of the state say nothing about them.
        """
        difference = subtract(new, old)
        if self.by_component:
            _, largest = measure_leaves(new, "max")
            epsilons = (max(self.epsilons),) * len(largest)
            return self._norm_in_units_of((new, old), largest, epsilons)(difference), 1.0, ()
        name = self.criterion.norm
        (change, changes), (size, sizes) = measure_leaves(difference, name), measure_leaves(new, name)
        several = len(sizes) > 1
        zeros = (0.0,) * len(sizes)
        return change, size, tuple(map(LeafEvidence, changes, changes, sizes, zeros, zeros)) if several else ()

    def _norm_in_units_of(
        self, states: Sequence[State], largest: tuple[float, ...], epsilons: tuple[float, ...]
    ) -> Norm:
        """Return the largest ratio of a component to its unit; see `AbstractCriterion.component_tolerances`."""
        rtol, atol = self.criterion.component_tolerances
        roundings = [epsilon * size for epsilon, size in zip(epsilons, largest, strict=True)]
        return ScaledNorm(component_units(states, atol / rtol, [r / rtol for r in roundings]), roundings)
