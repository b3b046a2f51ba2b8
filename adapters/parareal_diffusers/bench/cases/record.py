"""Records of runs: every iterate with its error, and the cost of a run that ends with it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from parareal_diffusers.testing import relative_error


@final
@dataclass(frozen=True)
class Iterate:
    """One iterate of the final state of one sample, and the cost of a run that ends with it."""

    iteration: int
    """0 for the coarse prediction or another initial guess"""
    span: float
    """evaluations on the critical path, with unlimited devices"""
    work: float
    """all evaluations"""
    calls: int
    """batched calls of the network, one after another"""
    peak: int
    """rows of the largest call"""
    error: float
    """RMS of the difference from the sequential final state, over the RMS of that state"""


@final
@dataclass(frozen=True)
class Stop:
    """A rule by which a method stops, and its tolerance.

    The rules:
        `"increment"`, for all methods: every state that the method stores has changed by at most `tolerance` times its
        own RMS in the last iteration. States settle from left to right.
        `"estimate"`, for methods on the engine: `parareal.Tolerance`.
        `"own"`: the rule of the method's paper, with this tolerance.
        `"oracle"`: stop when the true error is at most `tolerance`, and record all iterates until then.
    """

    rule: str
    tolerance: float


@final
@dataclass(frozen=True)
class Target:
    """The sequential final state of one sample, from which errors are measured."""

    state: Tensor
    """shape (1, *sample)"""

    def record(self, state: Tensor, iteration: int, span: float, work: float, calls: int, peak: int) -> Iterate:
        """Return the record of an iterate of shape (1, *sample), with its error."""
        # Iterates may be float64 or on a device; targets are in the dtype of the scheduler's loop, on the CPU.
        error = relative_error(state.to(self.state), self.state)
        return Iterate(iteration, float(span), float(work), int(calls), int(peak), error)


def find_first_within(iterates: Iterable[Iterate], tolerance: float) -> Iterate | None:
    """Return the first iterate whose error is at most the tolerance, or None."""
    return next((x for x in iterates if x.error <= tolerance), None)
