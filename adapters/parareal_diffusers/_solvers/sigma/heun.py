"""Heun's method in sigma."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._solvers.sigma.two_stage import FirstStage, TwoStageChurn


@final
@dataclass(frozen=True)
class Heun(TwoStageChurn):
    """Heun's method in sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 1, and with churn Algorithm 2).

    The slope of a step is the mean of the slopes at its two ends. So each level between the first and the last has two
    nodes: the evaluation at the first one completes the preceding step, and the one at the second starts the next step.
    A last level above zero has two nodes as well: the evaluation at the first one completes the last step. A step from
    node to node is that of `diffusers.HeunDiscreteScheduler` or `FlowMatchHeunDiscreteScheduler`. On `Sigmas` two of
    them are a step of k-diffusion's `sample_heun`.

    Args:
        scheduler: one of these schedulers, or `Sigmas`; not needed for a coarse solver, which makes Euler's step.
        churn: add noise before each step; on `Sigmas` only; keyword only.
    """

    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean of the slopes at both ends of the step."""
        return ((memory.base - memory.clean) / origin + (x - clean) / sigma) / 2

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` unless each step's second node is at its target level."""
        super().check_fine(grid)
        second = slice(1, None, 2)  # odd nodes: the second stages
        stop = grid.stop.sigma if grid.down is None else grid.down
        if not torch.equal(grid.start.sigma[second], stop[second]):
            raise ValueError(
                "Heun needs two nodes at each level: pass a HeunDiscreteScheduler, a FlowMatchHeunDiscreteScheduler or "
                "Sigmas"
            )

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of two nodes per level, but one at the first level and one at a last level of zero."""
        # At sigma 0 the slope is undefined, so the last step is an Euler step, as in Algorithm 1.
        last = sigmas[-1:] if bool(sigmas[-1] == 0) else sigmas[-1:].repeat(2)
        return torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), last])

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the sigmas of the nodes, with churn each step's first one raised, and the sigmas that steps aim at."""
        nodes = self.node_sigmas(sigmas)
        if self.churn is None:
            return nodes, None
        # Even nodes start the steps. Only these are raised; the first stage aims at the level itself.
        starts = nodes.clone()
        starts[: 2 * len(sigmas) - 2 : 2] = self.churn.raise_levels(sigmas)[:-1]
        return starts, nodes[1:]
