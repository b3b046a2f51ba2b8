"""A peer that others wrote: diffusers' own ParaDiGMS pipeline on a tiny Stable Diffusion with random weights.

Random weights converge in few iterations: this shows that our ParaDiGMS makes the same iterations as theirs, and what
both cost beside `parallelize`, not how fast any of them is on a real model.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
from torch import Tensor

from parareal_diffusers._pipelines.handle import parallelize
from parareal_diffusers._sampling.denoiser import Guidance
from parareal_diffusers.bench.baselines.paradigms import paradigms
from parareal_diffusers.bench.cases.problems import Problem, noise
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.bench.harness.timing import RUNS, spread, took
from parareal_diffusers.testing import relative_error

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,  # DDIMParallelScheduler ignores the other choice (docs/upstream.md)
    "steps_offset": 1,
}
PROMPT, SCALE = "a cat", 7.5


def tiny_stable_diffusion() -> dict[str, Any]:
    """Return the parts of a Stable Diffusion of 1.4 million parameters with random weights, made in memory."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in map(chr, range(33, 127)):
        for token in (letter, letter + "</w>"):
            vocabulary.setdefault(token, len(vocabulary))
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    torch.manual_seed(0)
    ids: dict[str, Any] = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
    config = CLIPTextConfig(num_hidden_layers=2, **ids, **sizes)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    blocks: dict[str, Any] = {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    vae = AutoencoderKL(latent_channels=4, norm_num_groups=8, sample_size=32, **blocks)
    return {
        "vae": vae.eval(),
        "text_encoder": CLIPTextModel(config).eval(),
        "tokenizer": tokenizer,
        "unet": unet.eval(),
    }


def sequential_pipeline(parts: dict[str, Any]) -> Any:
    """Return `StableDiffusionPipeline` with DDIM."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    return _quiet(StableDiffusionPipeline, parts, DDIMScheduler(**SCHEDULE))


def paradigms_pipeline(parts: dict[str, Any]) -> Any:
    """Return `StableDiffusionParadigmsPipeline` with DDIM, on one device."""
    from diffusers import StableDiffusionParadigmsPipeline  # pyright: ignore[reportPrivateImportUsage]

    pipe = _quiet(StableDiffusionParadigmsPipeline, parts, DDIMParallelScheduler(**SCHEDULE))
    pipe.wrapped_unet = pipe.unet
    return pipe


def _quiet(kind: Any, parts: dict[str, Any], scheduler: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = kind(
            **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def as_problem(pipe: Any, latents: Tensor) -> Problem:
    """Return what a pipeline samples, with its prompt and guidance, as a problem of one sample."""
    own, free = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    guidance = Guidance(SCALE, {"encoder_hidden_states": free})
    kwargs = {"encoder_hidden_states": own}
    return Problem("tiny-sd", "tiny Stable Diffusion", pipe.unet, pipe.scheduler, latents, kwargs, guidance)


@final
@dataclass
class Rows:
    """Calls of a network, and their rows; guidance doubles them."""

    calls: list[int] = field(default_factory=list)


@contextmanager
def counted(unet: torch.nn.Module) -> Iterator[Rows]:
    """Count a network's calls."""
    rows = Rows()
    handle = unet.register_forward_pre_hook(lambda _, args: rows.calls.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def rows(steps: int, window: int, tolerances: tuple[float, ...], time: bool = False) -> list[dict[str, str]]:
    """Run the sequential pipeline, their ParaDiGMS pipeline, our loop and `parallelize`; return a table."""
    parts, latents = tiny_stable_diffusion(), noise(1, 4, 16, 16)
    plain, theirs = sequential_pipeline(parts), paradigms_pipeline(parts)
    call = {"num_inference_steps": steps, "guidance_scale": SCALE, "output_type": "latent"}

    def drawn(pipe: Any, **more: Any) -> Tensor:
        return pipe(PROMPT, latents=latents.clone(), **call, **more).images

    reference = drawn(plain)
    problem = as_problem(plain, latents)
    network, target = parts["unet"], Target(reference)
    found = []
    for tolerance in tolerances:

        def ours(tolerance: float = tolerance) -> Tensor:
            with parallelize(plain, tolerance=tolerance, slices=nearest_slices(steps)):
                return drawn(plain)

        def loop(tolerance: float = tolerance) -> float:
            return paradigms(problem.parts(steps), target, Stop("own", tolerance), window)[-1].error

        def pipeline(tolerance: float = tolerance) -> Tensor:
            return drawn(theirs, parallel=window, tolerance=tolerance)

        ways: dict[str, Callable[[], Any]] = {
            "StableDiffusionParadigmsPipeline": pipeline,
            "ParaDiGMS of this harness": loop,
            "parallelize": ours,
        }
        for name, way in ways.items():
            with counted(network) as seen:
                result = way()
            error = result if isinstance(result, float) else relative_error(result, reference)
            row = {
                "method": name,
                "tolerance": f"{tolerance:g}",
                "calls": f"{len(seen.calls)}",
                "work/N": f"{sum(seen.calls) / 2 / steps:.2f}",
                "peak batch": f"{max(seen.calls) // 2}",
                "error": f"{error:.1e}",
            }
            if time:
                ratios = spread([took(lambda: drawn(plain))[0] / took(way)[0] for _ in range(RUNS)])
                row["wall ratio"] = f"{ratios[0]:.2f} ({ratios[1]:.2f} to {ratios[2]:.2f})"
            found.append(row)
    return found


def nearest_slices(steps: int) -> int:
    """Return the slices of our first setting."""
    from parareal_diffusers.bench.harness.methods import OURS, nearest

    return nearest(next(iter(OURS.values())), steps)["slices"]
