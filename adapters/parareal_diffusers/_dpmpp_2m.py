"""DPM-Solver++(2M), the second-order multistep solver."""

from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._grid import Grid, per_row
from parareal_diffusers._solvers import Solver


@final
class DPMSolverPP2M(Solver):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2), first order in its first and last step.

    As a coarse solver it costs one evaluation a jump, like DDIM, and remembers the clean sample that it predicted
    at the start of the jump before. Where a jump ends at zero noise the step is of first order, as
    `diffusers.DPMSolverMultistepScheduler` takes it.
    """

    def __init__(self, grid: Grid, denoiser: Any):
        super().__init__(grid, denoiser)
        self.alpha, self.alpha_to = grid.alpha_from.double() ** 0.5, grid.alpha_to.double() ** 0.5
        self.sigma, self.sigma_to = (1 - grid.alpha_from.double()) ** 0.5, (1 - grid.alpha_to.double()) ** 0.5
        self.log_snr = _half_log_snr(grid.alpha_from)
        self.log_snr_to = _half_log_snr(grid.alpha_to)

    def begin(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Remember no clean sample, marked by node -1."""
        return torch.zeros_like(state), torch.full((len(state),), -1, device=state.device)

    def step(self, state: Tensor, memory: tuple[Tensor, Tensor], start: Tensor, stop: Tensor, sample: Tensor) -> Any:
        """Advance every row; one evaluation."""
        before, node = memory
        output = yield state, self.grid.timesteps[start]
        clean, _ = self.denoised(state, output, start)
        end = stop - 1
        h = self.log_snr_to[end] - self.log_snr[start]
        h_before = self.log_snr[start] - self.log_snr[node]
        second_order = (node >= 0) & torch.isfinite(h)
        weight = torch.where(second_order, 0.5 * h / h_before, 0.0)
        extrapolated = clean + per_row(weight.to(state.dtype), state) * (clean - before)
        shrink = self.sigma_to[end] / self.sigma[start]
        gain = self.alpha_to[end] - shrink * self.alpha[start]  # alpha (1 - exp(-h))
        shrink, gain = (per_row(x.to(state.dtype), state) for x in (shrink, gain))
        return shrink * state + gain * extrapolated, (clean, start)


def _half_log_snr(alpha_cumprod: Tensor) -> Tensor:
    """Return log(alpha / sigma) in double precision; infinite where there is no noise."""
    alpha = alpha_cumprod.double()
    return 0.5 * (torch.log(alpha) - torch.log1p(-alpha))
