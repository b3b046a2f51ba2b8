"""The rows that a pipeline's loop carries as its latents."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class LatentRows:
    """The rows that the loop's latents are at the moment."""

    samples: int
    """how many samples there are in all"""
    sample: Tensor | None
    """which sample each row belongs to, int64 of shape (R,); None where the rows are the samples in order"""
    times: Tensor | None
    """each row's timestep, shape (R,); None where all have the loop's own"""
    count: int
    """R"""
    steps: int
    """how many steps there are from the loop's first to the end of its scheduler's timesteps"""
    numbers: Tensor | None = None
    """the number of each row's step, counted from the loop's first, int64 of shape (R,); None for 0"""
    check: bool = False
    """whether to look if the network is given these timesteps; it costs a wait for the device"""

    @staticmethod
    def first(steps: int, samples: int = 0) -> "LatentRows":
        """Return the rows of the loop's first pass, in which it is not known yet how many samples there are."""
        return LatentRows(samples, None, None, samples, steps)

    @property
    def places(self) -> Tensor:
        """The number of each row's step, shape (R,), or (1,) where all are 0."""
        return torch.zeros(1, dtype=torch.int64) if self.numbers is None else self.numbers
