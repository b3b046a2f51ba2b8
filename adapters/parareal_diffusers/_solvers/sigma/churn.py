"""Churn: noise that is added before each step, which then starts from a higher level (Karras et al. 2022)."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class Churn:
    """Options of the stochastic sampler of Karras et al. (2022, arXiv 2206.00364, Algorithm 2), as in k-diffusion.

    Before a step from sigma, noise raises the state to sigma * (1 + gamma), where the network is evaluated. gamma is
    min(s_churn / N, sqrt(2) - 1) for s_tmin <= sigma <= s_tmax, and zero elsewhere. As in k-diffusion, noise is drawn
    for all N steps, also where gamma is zero.

    The engine's nodes are the raised levels. So the noise before a step is added at the end of the preceding step, and
    the noise before the first step is added to the latents.

    Args:
        s_churn: the total amount of noise, divided by the number of steps.
        s_tmin: the lowest sigma at which noise is added.
        s_tmax: the highest sigma at which noise is added.
        s_noise: factor of the added noise.

    Raises:
        ValueError: for negative numbers, or s_tmin above s_tmax.
    """

    s_churn: float
    s_tmin: float = 0.0
    s_tmax: float = inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.s_churn) and self.s_churn >= 0 and isfinite(self.s_noise) and self.s_noise >= 0):
            raise ValueError(
                f"s_churn and s_noise must be zero or more, and finite, but were {self.s_churn} and {self.s_noise}"
            )
        if not 0 <= self.s_tmin <= self.s_tmax:
            raise ValueError(f"0 <= s_tmin <= s_tmax is needed, but they were {self.s_tmin} and {self.s_tmax}")

    def raise_levels(self, sigmas: Tensor) -> Tensor:
        """Return N + 1 levels, all but the last raised to the sigma where the step starts (Algorithm 2, line 5)."""
        gamma = min(self.s_churn / (len(sigmas) - 1), 2**0.5 - 1)
        within = (sigmas >= self.s_tmin) & (sigmas <= self.s_tmax)
        within[-1] = False  # no step starts from the last level
        return torch.where(within, sigmas * (gamma + 1), sigmas)

    def initial_noise_std(self, sigmas: Tensor) -> float:
        """Return the standard deviation of the noise that raises latents to the first step's start level."""
        return float(_std_between(sigmas[0], self.raise_levels(sigmas)[0])) * self.s_noise

    def noise_std(self, interval: StepInterval) -> Tensor:
        """Return the standard deviation, times s_noise, of the noise that raises a single step's result to level t.

        Shape (R, 1, ...), in the states' dtype; zero for steps without noise.
        """
        return _std_between(self.target_sigma(interval), interval.t.sigma).to(interval.state.dtype) * self.s_noise

    def target_sigma(self, interval: StepInterval) -> Tensor:
        """Return the sigma that single steps aim at before noise is added, shape (R, 1, ...)."""
        down = interval.grid.down  # None if this is the coarse solver for a fine one without churn
        return interval.t.sigma if down is None else interval.rows(down[interval.stop - 1])

    def down_sigma(self, interval: StepInterval) -> Tensor:
        """Return the sigma that each row's step or jump aims at before noise is added, shape (R, 1, ...)."""
        # The noise of a jump is the sum of the noises of its steps, so its variance determines where the jump aims.
        # `std` ignores its argument in jumps, and the values of single steps are not used.
        jump = _std_between(interval.std(torch.zeros_like(interval.t.sigma)), interval.t.sigma)
        return torch.where(interval.rows(interval.stop == interval.start + 1), self.target_sigma(interval), jump)


def _std_between(low: Tensor, high: Tensor) -> Tensor:
    """Return the standard deviation of the noise between two sigmas (Algorithm 2, line 6)."""
    return (high**2 - low**2).clamp(min=0) ** 0.5


def check_churned(grid: Grid) -> None:
    """Raise `ValueError` unless the grid comes from `Sigmas`, because only those levels are raised for churn."""
    if grid.down is None:
        raise ValueError(
            "churn is supported on the levels of Sigmas only: pass Sigmas and a bare denoiser, or a scheduler whose "
            "own step has s_churn, as in AnyScheduler(EulerDiscreteScheduler(), {'s_churn': 40.0})"
        )
