"""The network of the maze model: a residual MLP over whole plans."""

import math
from typing import Any, final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional


class AdaptiveResidualBlock(nn.Module):
    """A residual block whose norm is modulated by noise level and conditions (Peebles, Xie 2023, section 3.2).

    Args:
        width: width of the rows.
        embedding_width: width of the embedding of noise level and conditions.
    """

    # The names of submodules here and in `Planner` are keys of the shipped weights.
    def __init__(self, width: int, embedding_width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding_width, 3 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        # With a zero gate the block is the identity at the start of training (adaLN-Zero).
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return x plus the block's residual, shape (rows, width); `embedding` has shape (rows, embedding_width)."""
        shift, scale, gate = self.modulation(embedding).chunk(3, 1)
        return x + gate * self.down(functional.silu(self.up(torch.addcmul(shift, self.norm(x), 1 + scale))))


OCTAVES = (1, 2, 4, 8)
"""frequencies, in units of pi, of the waves that embed start and goal; smooth inputs alone do not resolve the walls"""


@final
class Planner(ModelMixin, ConfigMixin):
    """A denoiser of plans, after the network of a diffusion policy (Chi et al. 2023); it predicts the velocity.

    Called as `planner(plans, timestep, ends=ends)`: plans of shape (rows, points, 2), one timestep for all rows or one
    per row, and `ends` of shape (rows, 4), the start and the goal of each plan: x, y, x, y.

    Args:
        points: the number of way points of a plan.
        width: width of the residual blocks.
        depth: the number of residual blocks.
        embedding_width: width of the embedding of timestep and ends.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, points: int = 32, width: int = 128, depth: int = 16, embedding_width: int = 128):
        super().__init__()
        self.enter = nn.Linear(2 * points, width)
        self.ends = nn.Linear(4 + 8 * len(OCTAVES), embedding_width)
        self.time = nn.Linear(embedding_width, embedding_width)
        self.mixed = nn.Linear(embedding_width, embedding_width)
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(width, embedding_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 2 * points)
        half = embedding_width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        # Not persistent: they are constants, and no part of the shipped weights.
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("octaves", math.pi * torch.tensor([float(n) for n in OCTAVES]), persistent=False)

    def forward(self, sample: Tensor, timestep: Any, ends: Tensor) -> Tensor:
        """Return the velocity alpha * noise - sigma * clean, shape (rows, points, 2)."""
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1, 1)
        angles = times.to(sample.dtype) * self.frequencies.to(sample.dtype)
        time_waves = torch.cat([angles.sin(), angles.cos()], 1)
        phases = (ends[:, :, None] * self.octaves.to(ends.dtype)).flatten(1)
        end_waves = torch.cat([ends, phases.sin(), phases.cos()], 1)
        # A single timestep has one row here, which is broadcast to the rows of the ends.
        embedding = functional.silu(self.mixed(functional.silu(self.time(time_waves) + self.ends(end_waves))))
        x = self.enter(sample.flatten(1))
        for block in self.blocks:
            x = block(x, embedding)
        return self.leave(functional.silu(self.norm(x))).view_as(sample)
