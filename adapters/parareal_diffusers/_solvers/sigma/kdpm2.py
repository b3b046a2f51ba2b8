"""DPM-Solver-2 as k-diffusion has it: the midpoint method in sigma."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._grid.sigmas import ancestral_std, downwards, with_middles
from parareal_diffusers._solvers.sigma.two_stage import Churning, FirstStage


@final
@dataclass(frozen=True)
class KDPM2(Churning):
    """The midpoint method in sigma, its middle taken in log sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 2).

    It is inspired by DPM-Solver-2. The slope of a step is that at its middle, which is a node of its own, with an odd
    number. From node to next node it is `diffusers.KDPM2DiscreteScheduler.step`; on `Sigmas` it is k-diffusion's
    `sample_dpm_2` or `sample_dpm_2_ancestral`.

    Args:
        scheduler: a KDPM2DiscreteScheduler, or `Sigmas`; not needed for a coarse solver, which makes Euler's step.
        ancestral: step to a lower level, and add noise up to the next.
        churn: add noise before each step, on `Sigmas` only; by name.

    Raises:
        ValueError: for both kinds of noise.
    """

    ancestral: bool = False

    def __post_init__(self) -> None:
        if self.ancestral and self.churn is not None:
            raise ValueError("KDPM2 adds ancestral noise or churns, not both: leave one of them out")

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.ancestral or self.churn is not None

    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the slope at the middle."""
        return (x - clean) / sigma

    def noise_std(self, s: Levels, t: Levels, completes: Tensor) -> Tensor:
        """Return the scale of the noise of steps that are complete."""
        return torch.where(completes, ancestral_std(s, t), 0.0) if self.ancestral else torch.zeros_like(t.sigma)

    def draws(self, grid: Grid) -> Tensor:
        """Draw noise where a step is completed above zero."""
        if self.churn is not None:
            return super().draws(grid)
        return (torch.arange(grid.steps) % 2 == 1) & (grid.stop.sigma > 0)

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the nodes of steps and of their middles."""
        return with_middles(sigmas, downwards(sigmas) if self.ancestral else sigmas[1:])

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the nodes, steps begun where churn raises them to, and where steps end before."""
        if self.churn is None:
            return self.node_sigmas(sigmas), None
        nodes = with_middles(self.churn.raise_levels(sigmas), sigmas[1:])
        down = nodes[1:].clone()
        down[1::2] = sigmas[1 : 1 + len(down[1::2])]
        return nodes, down
