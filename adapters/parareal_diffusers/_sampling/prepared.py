"""A sampling problem, checked: what `sample` and `plan` have in common."""

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
from parareal_diffusers._sampling.coarse import coarse_solver
from parareal_diffusers._sampling.denoiser import Denoised, Denoiser, Guidance
from parareal_diffusers._sampling.options import boundaries_of, criterion_of, sizes_of
from parareal_diffusers._sampling.spacing import spaced
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import check_known, check_nodes, grid_of, prepared, solver_of
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers._solvers.solver import Solver

LOG_SNR = 0.4
"""how slices are spaced by default, as of `boundaries`: with it errors were least (docs/results/extrapolated.md)"""


@final
@dataclass(frozen=True)
class Ready:
    """A sampling problem: solvers, nodes, network, and when to stop."""

    fine: Solver
    coarse: Solver
    grid: Grid
    denoiser: Denoiser
    criterion: parareal.AbstractCriterion
    max_batch: int | None
    """rows of one call, at most; None for no bound"""

    def boundaries(self, count: int) -> list[int]:
        """Return the nodes that bound `count` slices, where the user leaves them open.

        Extrapolated jumps gain by shorter slices where the noise ends, others do not (docs/results/extrapolated.md).
        """
        bases = list(self.fine.base_nodes(self.grid))
        even = boundaries_of(None, count, None, bases)
        cycles = bases != list(range(self.grid.steps))
        if cycles or not isinstance(self.coarse, Extrapolated) or count == 1:
            return even
        return spaced(self.grid, count, LOG_SNR)


def prepare(
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
) -> Ready:
    """Check what is to be sampled; arguments and errors as of `sample`."""
    if not isinstance(latents, Tensor) or latents.ndim < 2:
        raise ValueError("latents must be a tensor of shape (samples, *sample), with at least two dimensions")
    if latents.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"latents must be float32 or float64, not {latents.dtype}; the network may be in half precision"
        )
    if guidance is not None and not isinstance(guidance, Guidance):
        raise TypeError("guidance must be Guidance(scale, model_kwargs={...}): it says what the unguided half is told")
    fine, grid = _fine(solver, num_inference_steps, isinstance(model, Denoised))
    jumps = coarse_solver(coarse, fine, grid)
    fine.check_fine(grid)
    jumps.check_schedule(grid)
    optional_whole_number("max_batch", max_batch, 1)
    sizes = sizes_of(pad_batch, max_batch)
    criterion = criterion_of(criterion, tolerance, grid.steps)
    denoiser = Denoiser(model, grid.to(latents.device), len(latents), model_kwargs or {}, guidance, sizes)
    return Ready(fine, jumps, grid, denoiser, criterion, max(sizes, default=max_batch))


def _fine(solver: Any, steps: int | None, denoises: bool) -> tuple[Solver, Grid]:
    """Return the fine solver and its grid."""
    if isinstance(solver, Solver):
        if solver.scheduler is None:
            name = type(solver).__name__
            raise ValueError(f"{name} needs the nodes to step over: {name}(scheduler), with a diffusers scheduler")
        if isinstance(solver.scheduler, Sigmas):
            return solver, _sigma_grid(solver, steps, denoises)
        own = isinstance(solver, AnyScheduler)
        (check_known if own else check_nodes)(solver.scheduler)
        scheduler = prepared(solver.scheduler, steps)
        if own:
            return _own_step(scheduler, denoises, solver.options)
        solver = replace(solver, scheduler=scheduler)
    else:
        scheduler = prepared(solver, steps)
        solver = solver_of(scheduler)
    if isinstance(solver, AnyScheduler):
        return _own_step(scheduler, denoises)
    grid = grid_of(scheduler)
    if not denoises:
        return solver, grid
    if solver.wants_variance:
        raise ValueError("a model marked denoised predicts no variance: use variance_type='fixed_small'")
    if bool((grid.start.alpha == 0).any()):
        raise ValueError(
            "the grid starts at zero signal, where sigma would be infinite for a model marked denoised: use another "
            "schedule (no flow, no rescale_betas_zero_snr), or timestep_spacing='leading'"
        )
    return solver, replace(grid, prediction_type="sample")


def _sigma_grid(solver: Solver, steps: int | None, denoises: bool) -> Grid:
    """Return the grid of a solver on `Sigmas`."""
    if not denoises:
        raise ValueError("Sigmas says nothing of timesteps: mark a model that is told sigma by denoised(model)")
    if steps is not None:
        raise ValueError("Sigmas already says how many steps there are: leave num_inference_steps out")
    if solver.wants_variance:
        raise ValueError("a model marked denoised predicts no variance: use variance_type='fixed_small'")
    return solver.grid_on(solver.scheduler)


def _own_step(scheduler: Any, denoises: bool, options: Mapping[str, Any] = MappingProxyType({})) -> tuple[Solver, Grid]:
    """Return the solver that is a scheduler's own step, and its grid."""
    if denoises:
        name = type(scheduler).__name__
        raise ValueError(
            f"{name} has no native solver, which a model marked denoised needs: use EulerDiscreteScheduler"
        )
    solver = AnyScheduler(scheduler, options)
    return solver, solver.grid()
