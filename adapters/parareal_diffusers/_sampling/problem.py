"""Sampling problems: the arguments that `sample` and `plan` have in common, checked and resolved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import optional_whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._sampling.coarse import resolve_coarse_solver
from parareal_diffusers._sampling.denoiser import Denoised, Denoiser, Guidance
from parareal_diffusers._sampling.options import resolve_batch_sizes, resolve_boundaries, resolve_criterion
from parareal_diffusers._sampling.spacing import space_boundaries
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import (
    build_grid,
    check_native_grid,
    check_supported_scheduler,
    choose_solver,
    copy_with_timesteps,
)
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers._solvers.solver import Solver

LOG_SNR = 0.4
"""`log_snr` of `boundaries` for automatic slices; errors were smallest here (docs/results/extrapolated.md)"""


@final
@dataclass(frozen=True)
class SamplingProblem:
    """A sampling problem: solvers, nodes, network, and when to stop."""

    fine: Solver
    """the solver that defines the result"""
    coarse: Solver
    """the solver of the coarse jumps"""
    grid: Grid
    """the nodes of the fine solver, on the CPU"""
    denoiser: Denoiser
    """the network"""
    criterion: parareal.AbstractCriterion
    """the stop criterion"""
    max_batch: int | None
    """the largest number of rows of one call; None for no bound"""

    def boundaries(self, count: int) -> list[int]:
        """Return the nodes that bound `count` slices, for a user who did not choose boundaries.

        Slices have equal numbers of steps, up to rounding. Only extrapolated jumps get shorter slices at the end, where
        the noise is small, because only they converge faster with them (docs/results/extrapolated.md).
        """
        base_nodes = list(self.fine.base_nodes(self.grid))
        even = resolve_boundaries(None, count, None, base_nodes)
        has_cycles = base_nodes != list(range(self.grid.steps))
        # Slices should begin with a cycle, and `space_boundaries` does not align them.
        if has_cycles or not isinstance(self.coarse, Extrapolated) or count == 1:
            return even
        return space_boundaries(self.grid, count, LOG_SNR)


def prepare_problem(
    model: Callable[..., Any] | Denoised,
    latents: Tensor,
    solver: Any,
    *,
    num_inference_steps: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    guidance: Guidance | None = None,
    coarse: Any = "auto",
    tolerance: float = 1e-2,
    criterion: parareal.AbstractCriterion | None = None,
    pad_batch: bool | Sequence[int] = False,
    max_batch: int | None = None,
) -> SamplingProblem:
    """Check the arguments and return the sampling problem; arguments and errors are those of `sample`.

    The network is not called, and no random number is drawn.
    """
    if not isinstance(latents, Tensor) or latents.ndim < 2:
        actual = f"of shape {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(
            "latents must be a tensor of shape (samples, *sample), with at least two dimensions, but was "
            f"{actual}: add a leading axis of samples"
        )
    if latents.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"latents must be float32 or float64, not {latents.dtype}: convert them; the network may stay in half "
            "precision"
        )
    if guidance is not None and not isinstance(guidance, Guidance):
        raise TypeError(
            "guidance must be Guidance(scale, model_kwargs={...}), which includes the conditioning of the unguided "
            f"half, not {type(guidance).__name__}"
        )
    # The coarse solver is chosen by solver and grid, so these two come first. The order of the remaining checks only
    # decides which of several errors is reported.
    fine, grid = _resolve_fine_solver(solver, num_inference_steps, isinstance(model, Denoised))
    coarse_solver = resolve_coarse_solver(coarse, fine, grid)
    fine.check_fine(grid)
    coarse_solver.check_schedule(grid)
    optional_whole_number("max_batch", max_batch, 1)
    sizes = resolve_batch_sizes(pad_batch, max_batch)
    criterion = resolve_criterion(criterion, tolerance, grid.steps)
    denoiser = Denoiser(model, grid.to(latents.device), len(latents), model_kwargs or {}, guidance, sizes)
    # The engine may batch up to the largest fixed size; the denoiser then fills calls up to one of the sizes.
    return SamplingProblem(fine, coarse_solver, grid, denoiser, criterion, max(sizes, default=max_batch))


def _resolve_fine_solver(solver: Any, steps: int | None, takes_sigma: bool) -> tuple[Solver, Grid]:
    """Return the fine solver and its grid; `takes_sigma` says that the model is marked `denoised`."""
    if isinstance(solver, Solver):
        if solver.scheduler is None:
            name = type(solver).__name__
            raise ValueError(f"{name} needs the nodes to step over: {name}(scheduler) takes them from a scheduler")
        if isinstance(solver.scheduler, Sigmas):
            return solver, _build_sigma_grid(solver, steps, takes_sigma)
        is_fallback = isinstance(solver, AnyScheduler)
        # `AnyScheduler` runs every scheduler's own step; native solver objects need a grid that is known.
        (check_supported_scheduler if is_fallback else check_native_grid)(solver.scheduler)
        # The user's scheduler is only read: timesteps are set on a copy, which takes its place in the solver.
        scheduler = copy_with_timesteps(solver.scheduler, steps)
        if is_fallback:
            return _build_fallback_solver(scheduler, takes_sigma, solver.options)
        solver = replace(solver, scheduler=scheduler)
    else:
        scheduler = copy_with_timesteps(solver, steps)
        solver = choose_solver(scheduler)
    if isinstance(solver, AnyScheduler):
        return _build_fallback_solver(scheduler, takes_sigma)
    grid = build_grid(scheduler)
    if not takes_sigma:
        return solver, grid
    if solver.wants_variance:
        raise ValueError("a model marked denoised predicts no variance: use variance_type='fixed_small'")
    if bool((grid.start.alpha == 0).any()):
        raise ValueError(
            "the grid starts at zero signal, where sigma would be infinite for a model marked denoised: use another "
            "schedule (no flow, no rescale_betas_zero_snr), or timestep_spacing='leading'"
        )
    # Such a model returns the clean sample, whatever the scheduler's config says of its network.
    return solver, replace(grid, prediction_type="sample")


def _build_sigma_grid(solver: Solver, steps: int | None, takes_sigma: bool) -> Grid:
    """Return the grid of a solver on `Sigmas`."""
    if not takes_sigma:
        raise ValueError("Sigmas has no timesteps: mark a model that takes sigma by denoised(model)")
    if steps is not None:
        raise ValueError(
            f"Sigmas already determines the number of steps: leave num_inference_steps out, which was {steps}"
        )
    if solver.wants_variance:
        raise ValueError("a model marked denoised predicts no variance: use variance_type='fixed_small'")
    return solver.grid_on(solver.scheduler)


def _build_fallback_solver(
    scheduler: Any, takes_sigma: bool, options: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Solver, Grid]:
    """Return the solver that runs a scheduler's own step, and its grid."""
    if takes_sigma:
        name = type(scheduler).__name__
        raise ValueError(
            f"{name} has no native solver, which a model marked denoised needs: use EulerDiscreteScheduler"
        )
    solver = AnyScheduler(scheduler, options)
    return solver, solver.grid()
