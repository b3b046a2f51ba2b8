"""Sampling problems of the comparison: networks, schedulers and noise."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from parareal_diffusers import models
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._sampling.denoiser import Denoiser, Guidance
from parareal_diffusers._sampling.problem import prepare_problem
from parareal_diffusers._schedulers.native import build_grid, copy_with_timesteps
from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers.testing import GaussianMixture

STEPS = (25, 100, 196, 961)
"""the numbers of steps in the tables of SRDS (arXiv 2412.08292)"""
CPU = torch.device("cpu")


@final
@dataclass(frozen=True, eq=False)
class BenchProblem:
    """A network, a scheduler, and noise and conditioning for some samples."""

    name: str
    """short name, as of files and command lines"""
    title: str
    """name in tables and figures"""
    model: Callable[..., Any]
    scheduler: Any
    """the diffusers scheduler that belongs to the model"""
    latents: Tensor
    """initial noise, shape (samples, *sample)"""
    model_kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    """the network's keyword arguments, each with one row per sample"""
    guidance: Guidance | None = None

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.latents)

    def select_sample(self, index: int) -> "BenchProblem":
        """Return the problem of one sample alone."""
        return select_sample(self, index)

    def to(self, device: torch.device) -> "BenchProblem":
        """Return the problem on a device; a network that is there already is not copied."""
        model = self.model
        if isinstance(model, torch.nn.Module) and next(model.parameters()).device != device:
            # `Module.to` works in place, and the loaded network is shared by all problems that use it.
            model = copy.deepcopy(model).to(device)
        return replace(_map_tensors(self, lambda x: x.to(device)), model=model)

    def scheduler_for(self, steps: int) -> Any:
        """Return the scheduler for a number of steps.

        Where its own timestep spacing yields another number of steps, it is a copy with the spacing "leading"
        (docs/reference/upstream.md).
        """
        if len(copy_with_timesteps(self.scheduler, steps).timesteps) == steps:
            return self.scheduler
        return type(self.scheduler).from_config(self.scheduler.config, timestep_spacing="leading")

    def build_arguments(self, steps: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments of `sample`."""
        named = {"num_inference_steps": steps, "model_kwargs": self.model_kwargs, "guidance": self.guidance}
        return (self.model, self.latents, self.scheduler_for(steps)), named

    def build_parts(self, steps: int) -> "SamplerParts":
        """Return the parts from which methods with a loop of their own are built."""
        positional, named = self.build_arguments(steps)
        ready = prepare_problem(*positional, **named)
        return SamplerParts(ready.fine, ready.grid.to(self.latents.device), ready.denoiser, self.latents)

    def build_network(self, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the network with guidance and conditioning, with the signature that `scheduler_loop` expects.

        The function takes states of shape (samples, *sample) and timesteps of shape (samples,).
        """
        scheduler = copy_with_timesteps(self.scheduler_for(steps), steps)
        grid = build_grid(scheduler).to(self.latents.device)
        denoiser = Denoiser(self.model, grid, self.samples, self.model_kwargs, self.guidance)
        # The denoiser takes nodes. DDIM's timesteps are distinct integers, so a table maps them back to nodes.
        node = torch.zeros(int(scheduler.timesteps.max()) + 1, dtype=torch.long)
        node[scheduler.timesteps] = torch.arange(grid.steps)
        node = node.to(self.latents.device)  # a lookup on the CPU would wait for the device in every step
        index = torch.arange(self.samples, device=self.latents.device)

        def network(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, node[t], index)

        return network


def select_sample(problem: Any, index: int) -> Any:
    """Return the problem of one sample alone.

    Args:
        problem: a dataclass with the fields `latents`, `model_kwargs` and `guidance`, whose tensors have one row per
            sample.
        index: the sample's number.
    """
    return select_samples(problem, slice(index, index + 1))


def select_samples(problem: Any, rows: slice) -> Any:
    """Return the problem of some of its samples; `problem` as of `select_sample`."""
    return _map_tensors(problem, lambda x: x[rows])


def _map_tensors(problem: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of the problem with a function applied to every tensor that has one row per sample."""
    guidance = problem.guidance
    if guidance is not None:
        guidance = replace(guidance, model_kwargs={k: function(v) for k, v in guidance.model_kwargs.items()})
    kwargs = {k: function(v) for k, v in problem.model_kwargs.items()}
    return replace(problem, latents=function(problem.latents), model_kwargs=kwargs, guidance=guidance)


@final
@dataclass(frozen=True, eq=False)
class SamplerParts:
    """The parts of a sampler for one sample: solver, grid, network by rows, and noise."""

    solver: Solver
    grid: Grid
    denoiser: Denoiser
    latents: Tensor
    """initial noise, shape (1, *sample)"""


def build_mixture(samples: int) -> BenchProblem:
    """Return a mixture of twelve Gaussians in 64 dimensions, with its exact score, in float64."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    score = GaussianMixture.random().model(scheduler, "epsilon")
    latents = draw_noise(samples, 1, 8, 8).double()
    return BenchProblem("mixture", "Gaussian mixture, exact score", score, scheduler, latents)


def build_fashion(samples: int, scale: float) -> BenchProblem:
    """Return the shipped Fashion-MNIST network with a guidance scale; samples go through the ten classes in turn."""
    net, scheduler = _load_fashion()
    # Class 10 is the unconditional one. With scale 1 guidance is the conditional prediction itself.
    guidance = Guidance(scale, {"class_labels": torch.full((samples,), 10)}) if scale != 1 else None
    name = f"fashion-mnist-{scale:g}"
    kwargs = {"class_labels": torch.arange(samples) % 10}
    latents = draw_noise(samples, 1, 28, 28)
    return BenchProblem(name, f"trained network, guidance {scale:g}", net, scheduler, latents, kwargs, guidance)


def build_maze(samples: int) -> BenchProblem:
    """Return the shipped diffusion policy, between random starts and goals in the maze."""
    net, scheduler = models.load("maze")
    # Seeded per sample, as the noise is.
    ends = torch.stack(
        [2 * torch.rand(4, generator=torch.Generator().manual_seed(121 + i)) - 1 for i in range(samples)]
    )
    title = "diffusion policy, plans in a maze"
    return BenchProblem("maze", title, net, scheduler, draw_noise(samples, net.config.points, 2), {"ends": ends})


def draw_noise(samples: int, *shape: int) -> Tensor:
    """Return standard noise of shape (samples, *shape), seeded per sample.

    The noise of a sample does not depend on the number of samples, so more samples can be added to cached runs.
    """
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(21 + i)) for i in range(samples)])


@cache
def _load_fashion() -> tuple[Any, Any]:
    """Load the network once for the problems with and without guidance."""
    return models.load("fashion-mnist")


PROBLEMS: dict[str, Callable[[int], BenchProblem]] = {
    "mixture": build_mixture,
    "fashion-mnist-1": lambda samples: build_fashion(samples, 1.0),
    "fashion-mnist-3": lambda samples: build_fashion(samples, 3.0),
    "maze": build_maze,
}
"""constructors by name, each for a number of samples; a problem with another network is one more function and line"""
COSTLY = ("fashion-mnist-1", "fashion-mnist-3")
"""problems whose evaluations take milliseconds"""
