"""Sources of noise for stochastic solvers, drawn as the sequential loop draws it, and checks of these sources."""

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


def make_noise_source(
    solver: Solver, grid: Grid, latents: Tensor, generator: Generators, dtype: torch.dtype, steps: range
) -> NoiseSource | None:
    """Return the noise of every step, drawn in the order of the sequential loop; None for a deterministic solver.

    Nothing is drawn until the noise is needed.

    Args:
        solver: the fine solver.
        grid: its grid.
        latents: shape (samples, *sample).
        generator: one, one per sample, or None for torch's global generator.
        dtype: of the network's output in the sequential loop.
        steps: the steps that the sequential loop makes.
    """
    if not solver.stochastic:
        return None
    if isinstance(solver, AnyScheduler):
        check_noise_dtype(solver, dtype, latents.dtype)
        return Replay(solver.scheduler, grid, latents, generator, steps, solver.options)
    noisy_steps = [i for i in _list_noisy_steps(solver, grid) if i in steps]
    if solver.initial_noise_std(grid) is not None:
        noisy_steps = [-1, *noisy_steps]  # the loop draws the noise of the latents before that of all steps
    record = RecordedNoise(generator, latents.shape, latents.device, solver.noise_dtype(dtype), noisy_steps)
    return _scale_noise(record, solver, grid)


def record_noise_sampler(solver: Solver, grid: Grid, latents: Tensor, noise_sampler: NoiseSampler) -> Noise | None:
    """Return the noise of every step, from a function of the two sigmas of a step; None for a deterministic solver.

    The function is called for all steps at once, here.
    """
    if not solver.stochastic:
        return None
    starts, stops, base_nodes = grid.start.sigma, grid.stop.sigma, solver.base_nodes(grid)
    spans = {i: (starts[base_nodes[i]], stops[i]) for i in _list_noisy_steps(solver, grid)}
    record = RecordedNoiseSampler(noise_sampler, latents, spans)
    _ = record.entries  # a cached property: reading it calls the function, and checks its results before any work
    return _scale_noise(record, solver, grid)


def _list_noisy_steps(solver: Solver, grid: Grid) -> list[int]:
    """Return the steps for which the scheduler draws noise."""
    return torch.nonzero(solver.draws(grid)).flatten().tolist()


def _scale_noise(record: RecordedNoise | RecordedNoiseSampler, solver: Solver, grid: Grid) -> Noise:
    """Return recorded standard noise, scaled as a solver adds it."""
    base_nodes = solver.base_nodes(grid)
    return Noise(record, solver.linear(StepInterval.of_steps(grid, base_nodes)), base_nodes)


def add_initial_noise(solver: Solver, grid: Grid, latents: Tensor, noise_source: NoiseSource | None) -> Tensor:
    """Return the state from which the first step starts.

    That is the latents; for a solver with churn, the latents plus the noise that raises them to the level of the first
    node.
    """
    std = solver.initial_noise_std(grid)
    if std is None:
        return latents
    assert isinstance(noise_source, Noise)  # solvers with churn are native, so their noise is no `Replay`
    return latents + std * noise_source.step(-1)  # -1 is the draw before all steps, as in `make_noise_source`


def check_noise_dtype(solver: Solver, output_dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    """Raise `ValueError` for a scheduler whose own step would draw other noise than in the sequential loop.

    A scheduler that draws noise itself does so in the dtype of the network's output, and in another dtype the same
    generator gives other numbers. The engine's states are float32 or float64, even if the network is in half precision.
    """
    if isinstance(solver, AnyScheduler) and solver.stochastic and output_dtype != state_dtype:
        native = "FlowMatchEulerDiscreteScheduler" if is_flow(solver.scheduler) else "EulerAncestralDiscreteScheduler"
        raise ValueError(
            f"{type(solver.scheduler).__name__} draws noise in its own step, in "
            f"{str(output_dtype).removeprefix('torch.')} for this network, and states are wider: use a network in "
            f"single precision, or a scheduler with a native solver, such as {native}"
        )


def check_generator(generator: Any, latents: Tensor) -> None:
    """Raise `TypeError` or `ValueError` unless noise like latents can be drawn from a generator or a list of them."""
    generators = [generator] if isinstance(generator, torch.Generator) else generator
    if generators is None:
        return
    if not isinstance(generators, list | tuple) or not all(isinstance(g, torch.Generator) for g in generators):
        raise TypeError(f"generator must be a torch.Generator, a list of them or None, not {type(generator).__name__}")
    if len(generators) not in (1, len(latents)):
        raise ValueError(
            f"generator has {len(generators)} entries for {len(latents)} samples: give one per sample, or a single one"
        )
    wrong = [str(g.device) for g in generators if g.device.type not in ("cpu", latents.device.type)]
    if wrong:
        raise ValueError(
            f"generator must be on {latents.device.type}, as the latents are, or on the CPU, but was on {wrong[0]}"
        )


def check_noise_sampler(noise_sampler: Any, solver: Solver, generator: Any) -> None:
    """Raise `TypeError` or `ValueError` unless `noise_sampler` is None or a supported source of the solver's noise."""
    if noise_sampler is None:
        return
    if not callable(noise_sampler):
        raise TypeError(
            "noise_sampler must be a function of two sigmas that returns noise like latents, or None, not "
            f"{type(noise_sampler).__name__}"
        )
    if not isinstance(solver.scheduler, Sigmas):
        raise ValueError(
            "noise_sampler is for solvers on Sigmas: give a solver on a scheduler's nodes a generator instead"
        )
    if generator is not None:
        raise ValueError("noise comes either from noise_sampler or from generator: leave one of them out")
    if getattr(solver, "churn", None) is not None:
        raise ValueError("churn draws its noise from a generator, as in k-diffusion: leave noise_sampler out")
