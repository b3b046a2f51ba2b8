"""Heun's method in sigma."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._solvers.sigma.two_stage import Churning, FirstStage


@final
@dataclass(frozen=True)
class Heun(Churning):
    """Heun's method in sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 1, and with churn Algorithm 2).

    The slope of a step is the mean of those at its two ends, so each level but the first and last has two nodes: at the
    first the step before is completed. From node to next node it is the step of `diffusers.HeunDiscreteScheduler` or
    `FlowMatchHeunDiscreteScheduler`; on `Sigmas` it is k-diffusion's `sample_heun`.

    Args:
        scheduler: one of these, or `Sigmas`; not needed for a coarse solver, which makes Euler's step.
        churn: add noise before each step, on `Sigmas` only; by name.
    """

    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean of the slopes at both ends."""
        return ((memory.base - memory.clean) / origin + (x - clean) / sigma) / 2

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` unless levels come in pairs."""
        super().check_fine(grid)
        second = slice(1, None, 2)
        stop = grid.stop.sigma if grid.down is None else grid.down
        if not torch.equal(grid.start.sigma[second], stop[second]):
            raise ValueError(
                "Heun needs two nodes at each level, as HeunDiscreteScheduler, FlowMatchHeunDiscreteScheduler and "
                "Sigmas make them"
            )

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return two nodes at each level but the first and, where that is zero, the last."""
        last = sigmas[-1:] if bool(sigmas[-1] == 0) else sigmas[-1:].repeat(2)
        return torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), last])

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the nodes, the first of each step raised by churn, and where steps end before."""
        nodes = self.node_sigmas(sigmas)
        if self.churn is None:
            return nodes, None
        raised = nodes.clone()
        raised[: 2 * len(sigmas) - 2 : 2] = self.churn.raise_levels(sigmas)[:-1]
        return raised, nodes[1:]
