"""DPM-Solver-2 as k-diffusion has it: the midpoint method in sigma."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._two_stage import TwoStage


@final
@dataclass(frozen=True)
class KDPM2(TwoStage):
    """The midpoint method in sigma, the middle taken in log sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 2).

    It is inspired by DPM-Solver-2. The slope of a step is that at its middle, which is a node of its own: odd nodes are
    middles. From node to next node it is `diffusers.KDPM2DiscreteScheduler.step`; k-diffusion's `sample_dpm_2` on
    `Sigmas`.

    Args:
        scheduler: a KDPM2DiscreteScheduler, or `Sigmas`; not needed for a coarse solver, which makes Euler's step.
    """

    def whole(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the slope at the middle."""
        return second

    def nodes(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of nodes, those of steps and of their middles, (2N,), from N + 1 levels ending at zero."""
        middle = sigmas[:-1].log().lerp(sigmas[1:].log(), 0.5).exp()
        between = torch.stack([middle, sigmas[1:]], dim=1).flatten()
        nodes = torch.cat([sigmas[:1], between])
        return nodes[:-1] if bool(sigmas[-1] == 0) else nodes
