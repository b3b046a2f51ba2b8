"""What every native solver is made of: a stepper over a grid that asks a denoiser."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from parareal import Stepper
from parareal_diffusers._grid import Grid, per_row


class Solver(Stepper):
    """A sampler's step over the nodes of a grid, vectorised over rows.

    Subclasses implement `step`; see `parareal.Stepper` for what they owe. States have shape (rows, *sample).
    """

    per_sample: ClassVar[bool] = True

    def __init__(self, grid: Grid, denoiser: Callable[[Tensor, Tensor, Tensor], Tensor]):
        self.grid = grid
        self.evaluate = denoiser
        # the scheduler's own scalar operations, made once per node instead of once per step
        self.sqrt_alpha = grid.alpha_from**0.5
        self.sqrt_beta = (1 - grid.alpha_from) ** 0.5
        self.sqrt_alpha_to = grid.alpha_to**0.5
        self.sqrt_beta_to = (1 - grid.alpha_to) ** 0.5

    def denoised(self, state: Tensor, output: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted clean sample and the predicted noise (DDIM, arXiv 2010.02502, eq. 9 and 12)."""
        a, b = per_row(self.sqrt_alpha[start], state), per_row(self.sqrt_beta[start], state)
        if self.grid.prediction_type == "epsilon":
            clean, noise = (state - b * output) / a, output
        elif self.grid.prediction_type == "v_prediction":
            clean, noise = a * state - b * output, a * output + b * state
        else:
            clean, noise = output, (state - a * output) / b
        if self.grid.clip is not None:
            clean = clean.clamp(-self.grid.clip, self.grid.clip)
        return clean, noise

    @abstractmethod  # per_sample adds the last argument, which pyright cannot know
    def step(self, state: Any, memory: Any, start: Any, stop: Any, sample: Any) -> Any:  # pyright: ignore
        """Advance every row from its node `start` to its node `stop`."""
