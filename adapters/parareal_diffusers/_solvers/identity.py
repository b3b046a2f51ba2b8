"""The coarse solver that does nothing."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers._solvers.step_interval import Leg


@final
@dataclass(frozen=True)
class Identity(Solver):
    """Leave the state as it is, without evaluation.

    With one step a slice, Parareal is then Picard iteration on the increments of the steps, which is ParaDiGMS
    (Shih et al. 2023, arXiv 2305.16317) with a window over all steps.
    """

    def step(self, x: Tensor, memory: Any, leg: Leg) -> Any:
        """Return the state."""
        return x, memory
        yield  # a generator that asks for nothing
