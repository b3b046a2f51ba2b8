"""The coarse solver that does nothing."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._solvers.solver import Routine, Solver
from parareal_diffusers._solvers.step_interval import Leg


@final
@dataclass(frozen=True)
class Identity(Solver):
    """Leave the state as it is, without evaluation.

    With one step a slice, Parareal is then Picard iteration on the increments of the steps, which is ParaDiGMS
    (Shih et al. 2023, arXiv 2305.16317) with a window over all steps.
    """

    def step(self, x: Tensor, memory: Memory, leg: Leg) -> Routine:
        """Return the state."""
        return x, memory
        yield  # a generator that asks for nothing
