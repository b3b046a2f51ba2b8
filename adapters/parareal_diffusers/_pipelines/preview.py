"""Pictures of latents, as pipelines make them of their last."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor


def pictures(pipe: Any, latents: Tensor, given: Mapping[str, Any], output_type: str) -> Any:
    """Return pictures of latents of a pipeline that was called with some arguments."""
    with torch.no_grad():
        image = _decoded(pipe, latents, given) if getattr(pipe, "vae", None) is not None else latents
    processor = getattr(pipe, "image_processor", None) or VaeImageProcessor()
    return processor.postprocess(image.float(), output_type=output_type)


def _decoded(pipe: Any, latents: Tensor, given: Mapping[str, Any]) -> Tensor:
    vae = pipe.vae
    if hasattr(pipe, "_unpack_latents"):  # Flux keeps its latents as a sequence of patches
        default = getattr(pipe, "default_sample_size", 0) * pipe.vae_scale_factor
        height, width = (given.get(side) or default for side in ("height", "width"))
        latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    dtype, config = vae.dtype, vae.config
    upcast = dtype is torch.float16 and config.get("force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        latents = latents.to(vae.dtype)
        mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            mean, std = (
                torch.tensor(x, dtype=latents.dtype, device=latents.device)[:, None, None] for x in (mean, std)
            )
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
        return vae.decode(latents, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(dtype)
