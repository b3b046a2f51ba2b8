"""What is sampled: networks, schedulers, noise."""

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
from parareal_diffusers._sampling.problem import prepare
from parareal_diffusers._schedulers.native import copy_with_timesteps, grid_of
from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers.testing import GaussianMixture

STEPS = (25, 100, 196, 961)
"""the numbers of steps in the tables of SRDS"""
CPU = torch.device("cpu")


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A network, a scheduler and noise for some samples."""

    name: str
    title: str
    model: Callable[..., Any]
    scheduler: Any
    """a diffusers scheduler, as it comes with the model"""
    latents: Tensor
    """shape (samples, *sample)"""
    model_kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    """a row a sample in each"""
    guidance: Guidance | None = None

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.latents)

    def sample(self, index: int) -> "Problem":
        """Return the problem of one sample alone."""
        return alone(self, index)

    def on(self, device: torch.device) -> "Problem":
        """Return the problem on a device; a network that is there already is not copied."""
        model = self.model
        if isinstance(model, torch.nn.Module) and next(model.parameters()).device != device:
            model = copy.deepcopy(model).to(device)
        return replace(_mapped(self, lambda x: x.to(device)), model=model)

    def scheduler_for(self, steps: int) -> Any:
        """Return the scheduler; with "leading" timesteps where its own spacing adds a step (docs/reference/upstream.md)."""
        if len(copy_with_timesteps(self.scheduler, steps).timesteps) == steps:
            return self.scheduler
        return type(self.scheduler).from_config(self.scheduler.config, timestep_spacing="leading")

    def arguments(self, steps: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what `sample` is given."""
        named = {"num_inference_steps": steps, "model_kwargs": self.model_kwargs, "guidance": self.guidance}
        return (self.model, self.latents, self.scheduler_for(steps)), named

    def parts(self, steps: int) -> "Parts":
        """Return what methods with a loop of their own are written in."""
        given, named = self.arguments(steps)
        ready = prepare(*given, **named)
        return Parts(ready.fine, ready.grid.to(self.latents.device), ready.denoiser, self.latents)

    def network(self, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the network with its guidance and conditioning, as the loop over the unmodified scheduler calls it."""
        scheduler = copy_with_timesteps(self.scheduler_for(steps), steps)
        grid = grid_of(scheduler).to(self.latents.device)
        denoiser = Denoiser(self.model, grid, self.samples, self.model_kwargs, self.guidance)
        node = torch.zeros(int(scheduler.timesteps.max()) + 1, dtype=torch.long)
        node[scheduler.timesteps] = torch.arange(grid.steps)
        node = node.to(self.latents.device)  # looked up there, so that nothing waits
        index = torch.arange(self.samples, device=self.latents.device)

        def network(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, node[t], index)

        return network


def alone(given: Any, index: int) -> Any:
    """Return a dataclass with `latents`, `model_kwargs` and `guidance`, a row a sample, for one sample alone."""
    return part(given, slice(index, index + 1))


def part(given: Any, rows: slice) -> Any:
    """Return the same for some of the samples."""
    return _mapped(given, lambda x: x[rows])


def _mapped(given: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to all that has a row a sample."""
    guidance = given.guidance
    if guidance is not None:
        guidance = replace(guidance, model_kwargs={k: function(v) for k, v in guidance.model_kwargs.items()})
    kwargs = {k: function(v) for k, v in given.model_kwargs.items()}
    return replace(given, latents=function(given.latents), model_kwargs=kwargs, guidance=guidance)


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The solver, its grid, the network by rows, and the noise of one sample."""

    solver: Solver
    grid: Grid
    denoiser: Denoiser
    latents: Tensor
    """shape (1, *sample)"""


def mixture(samples: int) -> Problem:
    """Return a mixture of twelve Gaussians in 64 dimensions: its exact score, float64."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    score = GaussianMixture.random().model(scheduler, "epsilon")
    return Problem("mixture", "Gaussian mixture, exact score", score, scheduler, noise(samples, 1, 8, 8).double())


def fashion(samples: int, scale: float) -> Problem:
    """Return the shipped network, one class after the other."""
    net, scheduler = _fashion()
    guidance = Guidance(scale, {"class_labels": torch.full((samples,), 10)}) if scale != 1 else None
    name = f"fashion-mnist-{scale:g}"
    kwargs = {"class_labels": torch.arange(samples) % 10}
    latents = noise(samples, 1, 28, 28)
    return Problem(name, f"trained network, guidance {scale:g}", net, scheduler, latents, kwargs, guidance)


def maze(samples: int) -> Problem:
    """Return the shipped diffusion policy, from and to random places of the maze."""
    net, scheduler = models.load("maze")
    ends = torch.stack(
        [2 * torch.rand(4, generator=torch.Generator().manual_seed(121 + i)) - 1 for i in range(samples)]
    )
    title = "diffusion policy, plans in a maze"
    return Problem("maze", title, net, scheduler, noise(samples, net.config.points, 2), {"ends": ends})


def noise(samples: int, *shape: int) -> Tensor:
    """Return standard noise; that of a sample does not depend on how many there are."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(21 + i)) for i in range(samples)])


@cache
def _fashion() -> tuple[Any, Any]:
    return models.load("fashion-mnist")


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "mixture": mixture,
    "fashion-mnist-1": lambda samples: fashion(samples, 1.0),
    "fashion-mnist-3": lambda samples: fashion(samples, 3.0),
    "maze": maze,
}
"""by name, made for a number of samples; one with a network of its own adds a function and a line"""
COSTLY = ("fashion-mnist-1", "fashion-mnist-3")
"""those whose evaluations take milliseconds"""
