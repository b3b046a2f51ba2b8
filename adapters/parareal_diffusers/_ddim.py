"""DDIM without added noise."""

from typing import Any, final

from torch import Tensor

from parareal_diffusers._grid import per_row
from parareal_diffusers._solvers import Solver


@final
class DDIM(Solver):
    """Denoising diffusion implicit models, eta = 0 (Song, Meng, Ermon 2021, arXiv 2010.02502, eq. 12).

    From node to next node it is `diffusers.DDIMScheduler.step`, in that scheduler's order of operations; a jump
    over several nodes goes from the level where its first step starts to the level where its last step ends.
    """

    def step(self, state: Tensor, memory: Any, start: Tensor, stop: Tensor, sample: Tensor) -> Any:
        """Advance every row; one evaluation."""
        output = yield state, self.grid.timesteps[start]
        clean, noise = self.denoised(state, output, start)
        end = stop - 1
        direction = per_row(self.sqrt_beta_to[end], state) * noise
        return per_row(self.sqrt_alpha_to[end], state) * clean + direction, memory
