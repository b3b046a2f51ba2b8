"""The grid of nodes that a solver steps over, read off a scheduler."""

import copy
from dataclasses import dataclass
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from parareal._checks import whole_number

_NATIVE = (DDIMScheduler,)


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes 0 .. N of a sampler, node 0 being pure noise.

    Step i goes from node i to node i+1. It has its own "from" and "to" levels, because a scheduler's step need not
    land where the next one starts: `DDIMScheduler` steps from timestep t to t - T//N, whatever entry of `timesteps`
    comes next. Nothing is looked up by timestep; timesteps may repeat.
    """

    timesteps: Tensor
    """what the network is told at the start of each step, int64 of shape (N,)"""
    alpha_from: Tensor
    """alpha_cumprod at the start of each step, float32 of shape (N,)"""
    alpha_to: Tensor
    """alpha_cumprod at the end of each step, float32 of shape (N,)"""
    prediction_type: str
    """what the network predicts: `"epsilon"`, `"v_prediction"` or `"sample"`"""
    clip: float | None
    """the predicted clean sample is clamped to [-clip, clip]"""

    @property
    def steps(self) -> int:
        """The number of steps N that are really taken; it can differ from what was asked for."""
        return len(self.timesteps)

    def to(self, device: torch.device) -> "Grid":
        """Return the grid on a device."""
        timesteps, starts, ends = (x.to(device) for x in (self.timesteps, self.alpha_from, self.alpha_to))
        return Grid(timesteps, starts, ends, self.prediction_type, self.clip)

    @staticmethod
    def of(scheduler: Any, num_inference_steps: int | None = None) -> "Grid":
        """Read the grid off a `DDIMScheduler`, which is copied and not changed.

        Raises:
            TypeError: for any other scheduler.
            ValueError: for a configuration that has no native solver, or if the number of steps is not known.
        """
        if not isinstance(scheduler, _NATIVE):
            raise TypeError(
                f"no native solver for {type(scheduler).__name__} yet: use diffusers.DDIMScheduler.from_config("
                "scheduler.config) if the model may be sampled with DDIM"
            )
        if scheduler.config["thresholding"]:
            raise ValueError("dynamic thresholding has no native solver yet: set thresholding=False in the scheduler")
        scheduler = copy.deepcopy(scheduler)
        if num_inference_steps is not None:
            whole_number("num_inference_steps", num_inference_steps, 1)
            scheduler.set_timesteps(num_inference_steps)
        elif scheduler.num_inference_steps is None:
            raise ValueError("num_inference_steps is needed: pass it, or call set_timesteps on the scheduler before")
        stride = scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
        timesteps = scheduler.timesteps.to("cpu", torch.int64)
        ends = [
            scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod
            for t in (timesteps - stride).tolist()
        ]
        clip = scheduler.config["clip_sample_range"] if scheduler.config["clip_sample"] else None
        starts = scheduler.alphas_cumprod[timesteps]  # a negative timestep counts from the end, as in the scheduler
        return Grid(timesteps, starts, torch.stack(ends), scheduler.config["prediction_type"], clip)


def per_row(values: Tensor, state: Tensor) -> Tensor:
    """Reshape one number a row so that it multiplies the rows of `state`."""
    return values.reshape(-1, *[1] * (state.ndim - 1))
