"""Subjects of the reproduction: the shipped model, a pixel model or a Stable Diffusion, from a folder or a hub id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import Guidance, models
from parareal_diffusers.bench.cases.problems import select_sample
from torch import Tensor

PROMPTS = ("a cat on a sofa", "two people ride bicycles along a beach", "a bowl of fruit on a wooden table")
SCALE = 7.5  # the paper's guidance


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its DDIM scheduler, and noise and conditioning for some samples."""

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

    def select_sample(self, i: int) -> "Subject":
        """Return the subject with sample i alone."""
        return select_sample(self, i)

    @torch.no_grad()
    def decode_images(self, state: Tensor) -> Tensor:
        """Return the images of states, uint8 of shape (samples, 3, height, width)."""
        if self.vae is not None:
            state = self.vae.decode(state.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        rgb = state.float().expand(-1, 3, -1, -1)
        return ((rgb / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def load_subject(name: str, samples: int, seed: int, prompts: Sequence[str]) -> Subject:
    """Load a model, and draw noise for some samples.

    Args:
        name: name of a shipped model, a folder in the format of diffusers, or a hub id.
        samples: number of samples.
        seed: seed of the noise.
        prompts: prompts of a Stable Diffusion, repeated in turn; unused by other models.

    Raises:
        OSError: if the folder does not exist or the model cannot be downloaded.
        ValueError: if the pipeline is unsupported: not of pixels and no Stable Diffusion 1 or 2.
    """
    if name in models.FOLDERS:
        net, own = models.load(name)
        # The shipped scheduler's own spacing adds a step with 961 steps (docs/reference/upstream.md).
        leading = DDIMScheduler.from_config(own.config, timestep_spacing="leading")
        labels = {"class_labels": torch.arange(samples) % 10}
        return Subject(name, "shipped", net, leading, draw_noise(samples, (1, 28, 28), seed), labels)
    pipe: Any = DiffusionPipeline.from_pretrained(name)
    net, scheduler = pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config)
    shape = (net.config.in_channels, net.config.sample_size, net.config.sample_size)
    latents = draw_noise(samples, shape, seed)
    if not hasattr(pipe, "vae"):
        return Subject(name, "pixel", net, scheduler, latents)
    if not (hasattr(pipe, "encode_prompt") and hasattr(pipe, "text_encoder")) or hasattr(pipe, "text_encoder_2"):
        raise ValueError(
            f"the model {name} is a {type(pipe).__name__}, which is unsupported: use a DDPM or DDIM pipeline, or a "
            "Stable Diffusion 1 or 2"
        )
    sample_prompts = [prompts[i % len(prompts)] for i in range(samples)]
    with torch.no_grad():
        conditional, unconditional = pipe.encode_prompt(sample_prompts, "cpu", 1, True)
    guidance = Guidance(SCALE, {"encoder_hidden_states": unconditional})
    kwargs = {"encoder_hidden_states": conditional}
    return Subject(name, "text", net, scheduler, latents, kwargs, guidance, pipe.vae, sample_prompts)


def draw_noise(samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return standard noise, seeded per sample, so that it does not depend on the number of samples."""
    noise = (torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + i)) for i in range(samples))
    return torch.stack(list(noise))
