"""What is recorded of a method: every iterate, with what it took to make it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from parareal_diffusers.testing import relative_error


@final
@dataclass(frozen=True)
class Iterate:
    """One iterate of the final state of one sample, and what a run that ends with it has taken."""

    iteration: int
    """0 is what the method starts from"""
    span: float
    """evaluations on the critical path, with unlimited devices"""
    work: float
    """evaluations in all"""
    calls: int
    """batched calls of the network, one after another"""
    peak: int
    """rows of the largest call"""
    error: float
    """RMS of the difference to the sequential final state, over RMS of that state"""


@final
@dataclass(frozen=True)
class Stop:
    """When a method stops.

    `rule` is `"increment"`, which all methods have: when every state that it keeps has changed by at most `tolerance`
    times its own RMS in the last iteration; states settle from the left. `"estimate"` is `parareal.Tolerance`, on the
    engine. `"own"` is the rule of a method's paper with this tolerance. `"oracle"` goes on until the error is below
    `tolerance`, and has all iterates on the way.
    """

    rule: str
    tolerance: float


@final
@dataclass(frozen=True)
class Target:
    """The sequential final state of one sample."""

    state: Tensor

    def iterate(self, state: Tensor, iteration: int, span: float, work: float, calls: int, peak: int) -> Iterate:
        """Return the record of an iterate of shape (1, *sample)."""
        error = relative_error(state.to(self.state), self.state)
        return Iterate(iteration, float(span), float(work), int(calls), int(peak), error)


def first_within(iterates: Iterable[Iterate], tolerance: float) -> Iterate | None:
    """Return the first iterate whose error is within a tolerance."""
    return next((x for x in iterates if x.error <= tolerance), None)
