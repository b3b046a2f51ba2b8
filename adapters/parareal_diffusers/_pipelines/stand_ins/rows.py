"""The rows that a pipeline's loop carries in place of its latents.

A *row* is one state of one sample at one node of the grid. A *pass* is one execution of the body of the pipeline's
loop. In an unmodified pipeline the latents of a pass are all samples at the same timestep. In a parallelized one they
are the rows that the engine has requested: some samples may be missing, others may occur several times, and
each row has a timestep of its own.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class LatentRows:
    """A description of the rows in the loop's present latents, one entry per row; R is the number of rows."""

    num_samples: int
    """the number of samples of the whole call"""
    sample_index: Tensor | None
    """the sample of each row, int64 of shape (R,); None if the rows are all samples in order"""
    timesteps: Tensor | None
    """the timestep of each row, shape (R,); None if all rows have the timestep that the loop iterates"""
    num_rows: int
    """R; 0 in the first pass, where the number of samples is not known yet"""
    num_steps: int
    """the number of steps from the loop's first one to the end of the scheduler's timesteps"""
    step_numbers: Tensor | None = None
    """the number of each row's step, counted from the loop's first one, int64 of shape (R,); None if all are 0"""
    check_timesteps: bool = False
    """whether to compare the timesteps given to the network with `timesteps`; this waits for the device"""

    @staticmethod
    def first_pass(num_steps: int, num_samples: int = 0) -> "LatentRows":
        """Return the rows of the loop's first pass: all samples in order, at the loop's first timestep."""
        return LatentRows(num_samples, None, None, num_samples, num_steps)

    @property
    def step_numbers_or_zero(self) -> Tensor:
        """The number of each row's step, int64 of shape (R,), or of shape (1,) if all are 0."""
        return torch.zeros(1, dtype=torch.int64) if self.step_numbers is None else self.step_numbers
