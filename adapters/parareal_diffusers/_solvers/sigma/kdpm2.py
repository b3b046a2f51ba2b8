"""The midpoint method in sigma, which k-diffusion calls DPM-Solver-2."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._grid.sigmas import ancestral_std, ancestral_targets, with_middles
from parareal_diffusers._solvers.sigma.two_stage import FirstStage, TwoStageChurn


@final
@dataclass(frozen=True)
class KDPM2(TwoStageChurn):
    """The midpoint method in sigma, with the middle in log sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 2).

    It is inspired by DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927). The slope of a step is the slope at its middle,
    which is a node of its own, with an odd number. A step from node to node is `diffusers.KDPM2DiscreteScheduler.step`.
    On `Sigmas` two of them are a step of k-diffusion's `sample_dpm_2` or `sample_dpm_2_ancestral`.

    Args:
        scheduler: a KDPM2DiscreteScheduler, or `Sigmas`; not needed for a coarse solver, which makes Euler's step.
        ancestral: step to a level below the next node's and add noise up to it.
        churn: add noise before each step; on `Sigmas` only; keyword only.

    Raises:
        ValueError: for `ancestral` together with `churn`.
    """

    ancestral: bool = False

    def __post_init__(self) -> None:
        if self.ancestral and self.churn is not None:
            raise ValueError("KDPM2 adds ancestral noise or churn, not both: leave one of them out")

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.ancestral or self.churn is not None

    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the slope at the middle of the step."""
        return (x - clean) / sigma

    def noise_std(self, s: Levels, t: Levels, completes: Tensor) -> Tensor:
        """Return the standard deviation of ancestral noise, at the ends of steps only."""
        return torch.where(completes, ancestral_std(s, t), 0.0) if self.ancestral else torch.zeros_like(t.sigma)

    def draws(self, grid: Grid) -> Tensor:
        """Return for each node whether the stage from there adds noise.

        These are the second stages that end above zero; with churn, all second stages but the last.
        """
        if self.churn is not None:
            return super().draws(grid)
        # Odd nodes are middles, and the stages from there complete the steps.
        return (torch.arange(grid.steps) % 2 == 1) & (grid.stop.sigma > 0)

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the steps' starts and middles."""
        return with_middles(sigmas, ancestral_targets(sigmas) if self.ancestral else sigmas[1:])

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the sigmas of the nodes, with churn each step's start raised, and the sigmas that steps aim at."""
        if self.churn is None:
            return self.node_sigmas(sigmas), None
        nodes = with_middles(self.churn.raise_levels(sigmas), sigmas[1:])
        # First stages aim at the middles, and second ones at the next level itself, not at its raised node.
        down = nodes[1:].clone()
        down[1::2] = sigmas[1 : 1 + len(down[1::2])]
        return nodes, down
