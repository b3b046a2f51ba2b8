"""DPM-Solver++(2S) in sigma: the two-stage ancestral and SDE samplers of k-diffusion."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal.driver import one_of
from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._grid.sigmas import ancestral_std, ancestral_targets, with_middles
from parareal_diffusers._solvers.sigma.two_stage import FirstStage, TwoStage


@final
@dataclass(frozen=True)
class DPM2S(TwoStage):
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, Algorithm 1, r = 1/2), with noise as in k-diffusion.

    The first stage steps to the middle. The second starts again from the step's first state, in a straight line towards
    the clean sample predicted at the middle. On `Sigmas` it is `sample_dpmpp_2s_ancestral` or `sample_dpmpp_sde`, whose
    Brownian path is passed as `noise_sampler=`.

    Args:
        scheduler: `Sigmas`; not needed for a coarse solver, which makes Euler's step.
        noise: `"none"`, `"ancestral"` (at the end of each step) or `"sde"` (also in the middle).

    Raises:
        ValueError: for another value of `noise`.
    """

    noise: str = "ancestral"

    def __post_init__(self) -> None:
        one_of("noise", self.noise, ("none", "ancestral", "sde"))

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.noise != "none"

    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the slope from the step's first state to the clean sample predicted at its middle."""
        return (memory.base - clean) / origin

    def noise_std(self, s: Levels, t: Levels, completes: Tensor) -> Tensor:
        """Return the standard deviations at the ends of steps and, for `noise="sde"`, in their middles."""
        return torch.where(completes | (self.noise == "sde"), ancestral_std(s, t), 0.0)

    def draws(self, grid: Grid) -> Tensor:
        """Return for each node whether the stage from there adds noise.

        These are the stages that end above zero: second ones, and for `noise="sde"` also first ones.
        """
        # Odd nodes are middles, and the stages from there complete the steps.
        return ((torch.arange(grid.steps) % 2 == 1) | (self.noise == "sde")) & (grid.stop.sigma > 0)

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the steps' starts and middles."""
        # The middle lies between the start and what the step aims at. k-diffusion's SDE sampler takes the next level.
        return with_middles(sigmas, ancestral_targets(sigmas) if self.noise == "ancestral" else sigmas[1:])
