"""The network of the maze model: a residual MLP over whole plans."""

import math
from typing import Any, final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """One residual block, told of noise level and conditions by an adaptive norm (Peebles, Xie 2023, section 3.2)."""

    def __init__(self, width: int, told: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(told, 3 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return x, shape (rows, width), and what the block adds to it."""
        shift, scale, gate = self.modulation(told).chunk(3, 1)
        return x + gate * self.down(functional.silu(self.up(torch.addcmul(shift, self.norm(x), 1 + scale))))


OCTAVES = (1, 2, 4, 8)
"""of the waves by which the ends are told, beside the numbers themselves: walls are sharp"""


@final
class Planner(ModelMixin, ConfigMixin):
    """A denoiser of plans: what diffusion policies call their noise prediction network (Chi et al. 2023).

    Called as `net(plans, timestep, ends=ends)`: plans of shape (rows, points, 2), a timestep for all rows or each,
    and `ends` of shape (rows, 4), where the plan is to begin and to end: x, y, x, y.

    Args:
        points: way points of a plan.
        width: of the residual blocks.
        depth: how many blocks.
        told: width of the embedding of timestep and ends.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, points: int = 32, width: int = 128, depth: int = 16, told: int = 128):
        super().__init__()
        self.enter = nn.Linear(2 * points, width)
        self.ends = nn.Linear(4 + 8 * len(OCTAVES), told)
        self.time = nn.Linear(told, told)
        self.mixed = nn.Linear(told, told)
        self.blocks = nn.ModuleList(Block(width, told) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 2 * points)
        frequencies = torch.exp(-math.log(10_000) * torch.arange(told // 2) / (told // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("octaves", math.pi * torch.tensor([float(n) for n in OCTAVES]), persistent=False)

    def forward(self, sample: Tensor, timestep: Any, ends: Tensor) -> Tensor:
        """Return the velocity alpha * noise - sigma * clean, shape (rows, points, 2)."""
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1, 1)
        angles = times.to(sample.dtype) * self.frequencies.to(sample.dtype)
        wave = torch.cat([angles.sin(), angles.cos()], 1)
        places = (ends[:, :, None] * self.octaves.to(ends.dtype)).flatten(1)
        places = torch.cat([ends, places.sin(), places.cos()], 1)
        told = functional.silu(self.mixed(functional.silu(self.time(wave) + self.ends(places))))
        x = self.enter(sample.flatten(1))
        for block in self.blocks:
            x = block(x, told)
        return self.leave(functional.silu(self.norm(x))).view_as(sample)
