"""Runs of `sample` on drawn Gaussian mixtures under eight schedulers."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from parareal_diffusers import sample
from parareal_diffusers.testing import GaussianMixture, relative_errors

import parareal

SCHEDULERS: dict[str, Callable[..., Any]] = {
    "DDIM": DDIMScheduler,
    "DDPM": DDPMScheduler,
    "DPM-Solver++(2M)": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
    "DEIS": DEISMultistepScheduler,
    "Euler": EulerDiscreteScheduler,
    "Heun": HeunDiscreteScheduler,
    "Euler ancestral": EulerAncestralDiscreteScheduler,
}
NO_CLIPPING = {"DDIM", "DDPM"}
SAMPLES = 64
"""samples per call"""
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class MixtureCase:
    """A drawn mixture with its scheduler, steps, slices and tolerance."""

    scheduler: str
    modes: int
    dimensions: int
    deviation: float
    steps: int
    slices: int
    tolerance: float
    seed: int


@dataclass(frozen=True)
class MixtureVerdict:
    """The end of one call of `sample`, per sample."""

    batch: MixtureCase
    outcome: str
    iterations: list[int]
    ratios: list[float]
    """relative error of the final state over the tolerance"""
    oracles: list[int]
    """first iterations whose final state is within the tolerance"""


def draw_batch(seed: int) -> MixtureCase:
    """Return the batch of a seed; the schedulers take turns."""
    draw = np.random.default_rng(seed)
    steps = int(draw.choice([25, 50, 100, 200]))
    return MixtureCase(
        list(SCHEDULERS)[seed % len(SCHEDULERS)],
        int(draw.integers(2, 13)),
        int(draw.choice([2, 4, 16, 64])),
        float(draw.choice([0.03, 0.1, 0.3])),
        steps,
        int(draw.integers(4, round((3 * steps) ** 0.5) + 1)),
        float(draw.choice(TOLERANCES)),
        seed,
    )


def run_batch(batch: MixtureCase) -> MixtureVerdict:
    """Draw `SAMPLES` samples with `Tolerance`, and compare them with the sequential ones."""
    options = {"clip_sample": False} if batch.scheduler in NO_CLIPPING else {}
    scheduler = SCHEDULERS[batch.scheduler](beta_schedule="scaled_linear", **options)
    mixture = GaussianMixture.random(batch.modes, (1, 1, batch.dimensions), batch.deviation, batch.seed)
    generator = torch.Generator().manual_seed(batch.seed)
    latents = torch.randn(SAMPLES, 1, 1, batch.dimensions, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(batch.steps)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    grid = scheduler if hasattr(scheduler, "alphas_cumprod") else DDIMScheduler(beta_schedule="scaled_linear")
    model = mixture.model(grid, "epsilon")

    def solve(**settings: Any) -> parareal.Solution:
        noise = torch.Generator().manual_seed(batch.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sample(model, latents, scheduler, num_inference_steps=batch.steps, generator=noise, **settings)

    reference = solve(slices=1, tolerance=0).final_state
    errors: list[torch.Tensor] = []
    solve(
        slices=batch.slices,
        criterion=parareal.Iterations(min(batch.slices, 8)),
        callback=lambda r: errors.append(relative_errors(r.final_state, reference)),
    )
    oracles = (torch.stack(errors) <= batch.tolerance).int().argmax(dim=0).tolist()
    solution = solve(slices=batch.slices, tolerance=batch.tolerance)
    ratios = (relative_errors(solution.final_state, reference) / batch.tolerance).tolist()
    return MixtureVerdict(batch, solution.outcome.name, solution.slice_iterations[-1].tolist(), ratios, oracles)
