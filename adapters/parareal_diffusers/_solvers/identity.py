"""The identity as a coarse solver, for Picard iteration."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._solvers.solver import Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class IdentitySolver(Solver):
    """The identity: a coarse solver that leaves the state unchanged and makes no evaluation.

    With one step per slice, Parareal is then Picard iteration on the increments of the steps, which is ParaDiGMS
    (Shih et al. 2023, arXiv 2305.16317) with a window over all steps.
    """

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Return the state unchanged."""
        return x, memory
        yield  # never reached; it makes this function a generator
