"""The sequential loop over an unmodified scheduler: the reference of all comparisons."""

import copy
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def scheduler_loop(
    model: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    generator: Any = None,
    **step_options: Any,
) -> Tensor:
    """Sample sequentially with `scheduler.step`, as the documentation of diffusers shows.

    Args:
        model: called as `model(x, t)` with t of shape (samples,), on the device of x.
        latents: shape (samples, *sample), scaled as the scheduler starts from it (`init_noise_sigma`).
        scheduler: any diffusers scheduler; it is copied, never changed.
        num_inference_steps: the number of steps, as in `set_timesteps`.
        generator: passed to `step` if it takes one; a generator, a list with one per sample, or None.
        step_options: further keyword arguments of `step`, such as `eta`.

    Returns:
        The final samples, of the shape of `latents`.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    # As many pipelines do. Without it the first step is looked up by its timestep, wrongly if that is repeated.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    if "generator" in signature(scheduler.step).parameters:
        step_options["generator"] = generator
    x = latents
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = model(scaled, t.expand(len(x)).to(x.device))
        x = scheduler.step(output, t, x, **step_options).prev_sample
    return x
