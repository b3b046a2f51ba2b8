"""The reference: the loop over an unmodified scheduler."""

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
    """Sample one `scheduler.step` after the other, from the first node on.

    Args:
        model: called as `model(x, t)` with t of shape (samples,), on the device of x.
        latents: of shape (samples, *sample), of the scheduler's initial scale.
        scheduler: any diffusers scheduler; it is copied, never changed.
        num_inference_steps: as in `set_timesteps`.
        generator: handed to `step` by those that draw noise.
        step_options: for `step`, as `eta`.

    Returns:
        The final sample, of the shape of `latents`.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps)
    if hasattr(scheduler, "set_begin_index"):  # as many pipelines do; a repeated first timestep is looked up wrongly
        scheduler.set_begin_index(0)
    if "generator" in signature(scheduler.step).parameters:
        step_options["generator"] = generator
    x = latents
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = model(scaled, t.expand(len(x)).to(x.device))
        x = scheduler.step(output, t, x, **step_options).prev_sample
    return x
