"""Churn: noise added before each step, which then starts from a higher level (Karras et al. 2022, Algorithm 2)."""

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
    """The stochastic sampler of Karras et al. (2022, arXiv 2206.00364, Algorithm 2), by k-diffusion's names.

    Before a step from sigma noise takes the state up to sigma * (1 + gamma), where the network is asked; gamma is the
    smaller of s_churn / N and sqrt(2) - 1 for s_tmin <= sigma <= s_tmax, and else zero. Noise is drawn for all N steps,
    as k-diffusion draws it.

    To the engine that noise belongs to the end of the step before, and the first of it to the latents.

    Args:
        s_churn: the amount of noise, shared out among the steps.
        s_tmin: no noise is added below this sigma,
        s_tmax: nor above this one.
        s_noise: by what the added noise is multiplied.

    Raises:
        ValueError: for negative numbers, or s_tmin above s_tmax.
    """

    s_churn: float
    s_tmin: float = 0.0
    s_tmax: float = inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.s_churn) and self.s_churn >= 0 and isfinite(self.s_noise) and self.s_noise >= 0):
            raise ValueError(f"s_churn and s_noise must be zero or more, got {self.s_churn} and {self.s_noise}")
        if not 0 <= self.s_tmin <= self.s_tmax:
            raise ValueError(f"0 <= s_tmin <= s_tmax is needed, got {self.s_tmin} and {self.s_tmax}")

    def raise_levels(self, sigmas: Tensor) -> Tensor:
        """Return N + 1 levels, each but the last taken up to where its step starts."""
        gamma = min(self.s_churn / (len(sigmas) - 1), 2**0.5 - 1)
        within = (sigmas >= self.s_tmin) & (sigmas <= self.s_tmax)
        within[-1] = False
        return torch.where(within, sigmas * (gamma + 1), sigmas)

    def initial_noise_std(self, sigmas: Tensor) -> float:
        """Return how much noise takes latents from the first of N + 1 levels up to where the first step starts."""
        return float(_between(sigmas[0], self.raise_levels(sigmas)[0])) * self.s_noise

    def noise_std(self, interval: StepInterval) -> Tensor:
        """Return how much noise takes each row's state from where a single step ends up to level t, times s_noise.

        Of shape (R, 1, ..), in the states' dtype; zero for steps that end at the next node's level.
        """
        return _between(self.target_sigma(interval), interval.t.sigma).to(interval.state.dtype) * self.s_noise

    def target_sigma(self, interval: StepInterval) -> Tensor:
        """Return the sigma that single steps go down to before noise is added, of shape (R, 1, ..)."""
        down = interval.grid.down  # None where this is a coarse solver for another that does not churn
        return interval.t.sigma if down is None else interval.rows(down[interval.stop - 1])

    def down_sigma(self, interval: StepInterval) -> Tensor:
        """Return the sigma that each row's step or jump goes down to before noise is added, of shape (R, 1, ..)."""
        jump = _between(interval.std(torch.zeros_like(interval.t.sigma)), interval.t.sigma)
        return torch.where(interval.rows(interval.stop == interval.start + 1), self.target_sigma(interval), jump)


def _between(low: Tensor, high: Tensor) -> Tensor:
    """Return the standard deviation of the noise that takes a state from one sigma up to another."""
    return (high**2 - low**2).clamp(min=0) ** 0.5


def check_churned(grid: Grid) -> None:
    """Raise `ValueError` where levels are not those of `Sigmas`, which alone are raised."""
    if grid.down is None:
        raise ValueError(
            "churn raises the levels of Sigmas: give the solver Sigmas and a bare denoiser, or take a scheduler whose "
            "own step has s_churn, as in AnyScheduler(EulerDiscreteScheduler(), {'s_churn': 40.0})"
        )
