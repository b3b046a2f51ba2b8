"""What is sampled: the shipped model, a pixel model or a Stable Diffusion, from a hub id or a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import Guidance, models
from parareal_diffusers.bench.cases.problems import alone
from torch import Tensor

PROMPTS = ("a cat on a sofa", "two people ride bicycles along a beach", "a bowl of fruit on a wooden table")
SCALE = 7.5  # the paper's guidance


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its DDIM scheduler, and noise for some samples."""

    name: str
    kind: str
    """`"shipped"`, `"pixel"` or `"text"`"""
    model: Any
    scheduler: Any
    """a `DDIMScheduler`"""
    latents: Tensor
    """shape (samples, *sample)"""
    model_kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    guidance: Guidance | None = None
    vae: Any = None
    prompts: Sequence[str] = ()

    def sample(self, i: int) -> "Subject":
        """Return the subject of sample i alone."""
        return alone(self, i)

    @torch.no_grad()
    def pictures(self, state: Tensor) -> Tensor:
        """Return pictures, uint8 of shape (samples, 3, height, width)."""
        if self.vae is not None:
            state = self.vae.decode(state.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        rgb = state.float().expand(-1, 3, -1, -1)
        return ((rgb / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def subject(name: str, samples: int, seed: int, prompts: Sequence[str]) -> Subject:
    """Load what is to be sampled: `"fashion-mnist"`, a folder of diffusers' format, or a hub id.

    Raises:
        OSError: where it cannot be had.
        ValueError: for a pipeline that is neither of pixels nor a Stable Diffusion.
    """
    if name in models.FOLDERS:
        net, own = models.load(name)
        leading = DDIMScheduler.from_config(own.config, timestep_spacing="leading")
        labels = {"class_labels": torch.arange(samples) % 10}
        return Subject(name, "shipped", net, leading, noise(samples, (1, 28, 28), seed), labels)
    pipe: Any = DiffusionPipeline.from_pretrained(name)
    net, scheduler = pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config)
    shape = (net.config.in_channels, net.config.sample_size, net.config.sample_size)
    latents = noise(samples, shape, seed)
    if not hasattr(pipe, "vae"):
        return Subject(name, "pixel", net, scheduler, latents)
    if not (hasattr(pipe, "encode_prompt") and hasattr(pipe, "text_encoder")) or hasattr(pipe, "text_encoder_2"):
        raise ValueError(
            f"{name} is a {type(pipe).__name__}: give a DDPM or DDIM pipeline, or a Stable Diffusion 1 or 2"
        )
    told = [prompts[i % len(prompts)] for i in range(samples)]
    with torch.no_grad():
        own, free = pipe.encode_prompt(told, "cpu", 1, True)
    guidance = Guidance(SCALE, {"encoder_hidden_states": free})
    return Subject(name, "text", net, scheduler, latents, {"encoder_hidden_states": own}, guidance, pipe.vae, told)


def noise(samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return standard noise; a sample's does not depend on how many there are."""
    draws = (torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + i)) for i in range(samples))
    return torch.stack(list(draws))
