"""Rules: what the state machines of one solve have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from parareal._corrections.correction import AbstractCorrection
from parareal._criteria import AbstractCriterion
from parareal._state import Layout, Memory, Time


@final
@dataclass(frozen=True)
class Rules:
    """The settings of one solve, as its machines follow them. An inner solve of nested levels has its own."""

    criterion: AbstractCriterion
    correction: AbstractCorrection
    limit: int
    """the last iteration that may be made"""
    layout: Layout
    boundaries: list[Time]
    correct_memory: Callable[..., Memory]
    """(memory, change of the state, boundary, coarse memories that the change is made of) -> what the fine stepper
    remembers there, corrected"""
    predicts: bool = True
    """there is a coarse propagator; without one, the prediction is the slice's first input"""
    synchronous: bool = False
    """hold every iteration back until the one before it has ended"""
    window: int | None = None
    """how many slices, from the first one that is not final, may be under way"""
    speculate_until: float = float("inf")
    """from this iteration on, F waits until the final state of the iteration has been rejected"""
    full_accuracy: bool = False
    """the fine propagator is always asked for its full accuracy: this is a run to the end"""
    inexact: bool = False
    """the fine propagator may answer with less than its full accuracy"""

    @property
    def slices(self) -> int:
        """Slices of the whole problem."""
        return len(self.boundaries) - 1

    @property
    def keeps_states(self) -> bool:
        """Whether the states of earlier iterates are needed again."""
        return self.inexact or self.correction.uses_states or not self.predicts
