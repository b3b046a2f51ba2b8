"""The noise of a stochastic solver, drawn as the sequential loop draws it, and what may be wrong with its source."""

from typing import Any

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._noise import Generators, Noise, NoiseSampler, NoiseSource, RecordedNoise, RecordedNoiseSampler
from parareal_diffusers._schedulers.fallback import AnyScheduler, is_flow
from parareal_diffusers._schedulers.replay import Replay
from parareal_diffusers._solvers.solver import Solver
from parareal_diffusers._solvers.step_interval import StepInterval


def noise_of(
    solver: Solver, grid: Grid, latents: Tensor, generator: Generators, dtype: torch.dtype, within: range
) -> NoiseSource | None:
    """Return the noise of every step, drawn in the order of the sequential loop; None where there is none.

    `dtype` is that of the network's output in the loop, and `within` has the steps that it makes.
    """
    if not solver.stochastic:
        return None
    if isinstance(solver, AnyScheduler):
        check_own_noise(solver, dtype, latents.dtype)
        return Replay(solver.scheduler, grid, latents, generator, within, solver.options)
    steps = [i for i in drawing(solver, grid) if i in within]
    if solver.initial_noise_std(grid) is not None:
        steps = [-1, *steps]  # the noise of latents comes first
    record = RecordedNoise(generator, latents.shape, latents.device, solver.noise_dtype(dtype), steps)
    return noise_on(record, solver, grid)


def drawing(solver: Solver, grid: Grid) -> list[int]:
    """Return the steps for which noise is drawn."""
    return torch.nonzero(solver.draws(grid)).flatten().tolist()


def noise_on(record: RecordedNoise | RecordedNoiseSampler, solver: Solver, grid: Grid) -> Noise:
    """Return recorded noise, as a solver adds it."""
    bases = solver.base_nodes(grid)
    return Noise(record, solver.linear(StepInterval.of_steps(grid, bases)), bases)


def sampled_noise(solver: Solver, grid: Grid, latents: Tensor, noise_sampler: NoiseSampler) -> Noise | None:
    """Return the noise of every step, from a function of the sigmas that it goes from and to."""
    if not solver.stochastic:
        return None
    starts, stops, bases = grid.start.sigma, grid.stop.sigma, solver.base_nodes(grid)
    spans = {i: (starts[bases[i]], stops[i]) for i in drawing(solver, grid)}
    record = RecordedNoiseSampler(noise_sampler, latents, spans)
    _ = record.entries  # all of it, before any work
    return noise_on(record, solver, grid)


def entered(solver: Solver, grid: Grid, latents: Tensor, random: NoiseSource | None) -> Tensor:
    """Return latents as the first step starts from them."""
    scale = solver.initial_noise_std(grid)
    if scale is None:
        return latents
    assert isinstance(random, Noise)  # solvers that add noise to latents are native
    return latents + scale * random.step(-1)


def check_own_noise(solver: Solver, network: torch.dtype, states: torch.dtype) -> None:
    """Raise `ValueError` for a scheduler that would draw its noise in another dtype than the sequential loop's."""
    if isinstance(solver, AnyScheduler) and solver.stochastic and network != states:
        native = "FlowMatchEulerDiscreteScheduler" if is_flow(solver.scheduler) else "EulerAncestralDiscreteScheduler"
        raise ValueError(
            f"{type(solver.scheduler).__name__} draws noise in its own step, in {str(network).removeprefix('torch.')} "
            "for this network, and states are wider: use a network in single precision, or a scheduler with a native "
            f"solver, as {native}"
        )


def check_generator(generator: Any, latents: Tensor) -> None:
    """Raise `TypeError` or `ValueError` unless noise for latents can be drawn from a generator, or several."""
    given = [generator] if isinstance(generator, torch.Generator) else generator
    if given is None:
        return
    if not isinstance(given, list | tuple) or not all(isinstance(g, torch.Generator) for g in given):
        raise TypeError("generator must be a torch.Generator, a list of them or None")
    if len(given) not in (1, len(latents)):
        raise ValueError(
            f"generator has {len(given)} entries for {len(latents)} samples: give one for each, or a single one"
        )
    if any(g.device.type not in ("cpu", latents.device.type) for g in given):
        raise ValueError(f"generator must be on {latents.device.type}, as the latents are, or on the CPU")


def check_sampler(noise_sampler: Any, solver: Solver, generator: Any) -> None:
    """Raise `TypeError` or `ValueError` unless a noise sampler, if there is any, can be asked for a solver's noise."""
    if noise_sampler is None:
        return
    if not callable(noise_sampler):
        raise TypeError("noise_sampler must be a function of two sigmas that returns noise like latents, or None")
    if not isinstance(solver.scheduler, Sigmas):
        raise ValueError("noise_sampler is for solvers on Sigmas: give those on a scheduler's nodes a generator")
    if generator is not None:
        raise ValueError("noise comes from noise_sampler or from generator: leave one of them out")
    if getattr(solver, "churn", None) is not None:
        raise ValueError("churn draws its noise from a generator, which k-diffusion does too: leave noise_sampler out")
