"""Rules: the settings that all state machines of one solve share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from parareal._corrections.correction import AbstractCorrection
from parareal._criteria import AbstractCriterion
from parareal._iteration.measure import Measure
from parareal._state import Layout, Memory, Time


@final
@dataclass(frozen=True)
class Rules:
    """The settings of one solve in the form that its machines use. An inner solve of nested levels has its own."""

    criterion: AbstractCriterion
    correction: AbstractCorrection
    limit: int
    """the last iteration that may be made"""
    layout: Layout
    boundaries: list[Time]
    correct_memory: Callable[..., Memory]
    """(memory, change of the state, boundary, coarse memories that belong to the change) -> the memory of the fine
    stepper at that boundary, corrected"""
    has_coarse: bool = True
    """there is a coarse propagator; without one, the prediction is the slice's first input"""
    synchronous: bool = False
    """hold every iteration back until the one before it has ended"""
    window: int | None = None
    """number of slices, from the first one that is not final, that may be under way; None for all"""
    speculate_until: float = float("inf")
    """from this iteration on, F waits until the criterion has rejected the iteration's final state"""
    full_accuracy: bool = False
    """every request for F requires full accuracy: this solve runs to the end, so approximate results would be wasted"""
    inexact: bool = False
    """the fine propagator may return results of less than its full accuracy"""

    @property
    def slices(self) -> int:
        """Number of slices of the whole problem."""
        return len(self.boundaries) - 1

    @cached_property
    def measure(self) -> Measure:
        """The norms that the criterion names."""
        return Measure.of(self.criterion, self.layout)

    @property
    def keeps_states(self) -> bool:
        """Whether the states of earlier iterates are needed again.

        They are needed if F may run again on the same state, if the correction uses states, or if the prediction is
        the slice's input. Otherwise they are discarded at once, to save memory.
        """
        return self.inexact or self.correction.uses_states or not self.has_coarse
