"""Sampling a diffusion model in parallel in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import parareal
from parareal.driver import divide_grid, renamed, whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._noise import Generators, NoiseSampler
from parareal_diffusers._sampling.coarse import coarse_solver
from parareal_diffusers._sampling.coarse_stepper import propagators
from parareal_diffusers._sampling.denoiser import Denoised, Denoiser, Guidance
from parareal_diffusers._sampling.noise_source import check_generator, check_sampler, entered, noise_of, sampled_noise
from parareal_diffusers._sampling.plan import Ready
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import check_known, check_nodes, grid_of, prepared, solver_of
from parareal_diffusers._solvers.solver import Solver


def sample(
    model: Callable[..., Any] | Denoised,
    latents: Tensor,
    solver: Any,
    *,
    num_inference_steps: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    guidance: Guidance | None = None,
    slices: int | str = "auto",
    boundaries: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    coarse: Any = "auto",
    tolerance: float = 1e-2,
    criterion: parareal.AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    window: int | None = None,
    speculate_until: int | None = None,
    max_batch: int | None = None,
    pad_batch: bool | Sequence[int] = False,
    generator: Generators = None,
    noise_sampler: NoiseSampler | None = None,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    eager: int | None = None,
) -> parareal.Solution:
    """Draw samples from a diffusion model, equal to the scheduler's own loop up to `tolerance`.

    Args:
        model: a network called as `model(x, t, **model_kwargs)`, diffusers' UNets included, whose output has the shape
            of x, (rows, *sample); t has shape (rows,). It may be in half precision.
        latents: noise of shape (samples, *sample), float32 or float64, as the scheduler's loop starts from. The
            network's output is cast to their dtype, in which the scheduler then works and draws noise.
        solver: a scheduler of diffusers, which is copied, never changed (docs/results/support.md has the list), or
            one of our solvers with a scheduler whose nodes to step over, as in `DDIM(scheduler, eta=0.5)`. From the
            scheduler it takes nodes, prediction type, clipping and thresholding; order, algorithm, variance and eta are
            the object's own.
        num_inference_steps: steps N, as in `set_timesteps`.
        model_kwargs: class labels, text embeddings and the like. Tensors whose first dimension is the number of
            samples are gathered for the rows of each call; give one that is not meant so another leading dimension.
        guidance: `Guidance(scale, model_kwargs=...)` for classifier-free guidance.
        slices: how many; `"sqrt"` means the rounded root of N, `"steps"` one for each step, and `"auto"`
            chooses by what calls of the network take here, timed once, and the iterations to expect (`plan`): on one
            device few are best, and one, step by step, where more would not be faster.
        boundaries: nodes between 0 and N to use as boundaries instead, rising, both ends included.
        levels: nested levels instead, outermost first: `(12, 9)` is 12 slices of 9 slices each (`parareal.Parareal`).
            `boundaries` may give those of the outermost level.
        coarse: the solver of the coarse jumps: a name (`"auto"`, `"same"`, `"ddim"`, `"ddpm"`, `"dpmpp_2m"`,
            `"dpmpp_3m"`, `"dpmpp_2m_sde"`, `"extrapolated"`, `"identity"`), one of our solvers, or a diffusers
            scheduler. It decides how fast the answer is reached, not which. `"auto"` is what converged fastest on the
            shipped network for this kind of fine solver (docs/solvers.md).
        tolerance: relative error of the final state to stop at, per sample, by estimates that each slice makes
            (`parareal.Tolerance`); `error_estimate` at the end may be a few times larger. 0 runs to the end, which
            gives the sequential answer to rounding.
        criterion: another criterion of the engine, instead of `tolerance`.
        max_iterations, schedule, window, speculate_until, callback, progress, throw: as for `parareal.solve`.
        max_batch: rows of states in one call, at most; None for no bound. With guidance the network is given twice as
            many.
        pad_batch: for a network compiled for fixed batches: True fills every call up to `max_batch` rows; a sequence of
            sizes, as in (1, 8, 32), fills it up to the next of them; with guidance the network is given twice as many.
        generator: what a stochastic solver draws its noise from, as in diffusers: one `torch.Generator`, a list of one
            for each sample, or None for torch's global one. The noise is the sequential loop's, and the generator is
            left where that loop leaves it.
        noise_sampler: for a solver on `Sigmas`, what it gets its noise from instead, as in k-diffusion: called as
            `noise_sampler(sigma, sigma_next)`, once for each step that adds noise, in the loop's order, it returns
            standard noise like latents; for instance increments of a Brownian path (docs/solvers.md).

    Returns:
        A `parareal.Solution`; its `final_state` has the shape of `latents`.

    Raises:
        TypeError, ValueError: before any work, with a sentence that says what to change. At the network's first
            output, for one that does not fit.
        parareal.PararealError: as `parareal.solve`.
    """
    speculate_until = renamed("eager", eager, "speculate_until", speculate_until)
    ready = prepare(
        model,
        latents,
        solver,
        num_inference_steps=num_inference_steps,
        model_kwargs=model_kwargs,
        guidance=guidance,
        coarse=coarse,
        tolerance=tolerance,
        criterion=criterion,
        pad_batch=pad_batch,
        max_batch=max_batch,
    )
    check_generator(generator, latents)
    check_sampler(noise_sampler, ready.fine, generator)
    random = None if noise_sampler is None else sampled_noise(ready.fine, ready.grid, latents, noise_sampler)
    settings = {"schedule": schedule, "window": window, "speculate_until": speculate_until}
    advice = None
    if slices == "auto" and boundaries is None and levels is None:
        advice = ready.advice(latents, max_iterations=max_iterations, max_batch=max_batch, **settings)
    if advice is not None:
        settings["speculate_until"] = advice.speculate_until if speculate_until is None else speculate_until
        cut = ready.cut(advice.slices)
        slices, boundaries = cut.get("slices", slices), cut.get("boundaries")
    edges = boundaries_of(boundaries, slices, levels, ready.fine.bases(ready.grid))
    if noise_sampler is None:
        random = noise_of(ready.fine, ready.grid, latents, generator, latents.dtype, range(ready.grid.steps))
    latents = entered(ready.fine, ready.grid, latents, random)
    grid = ready.grid.to(latents.device)
    solution = parareal.solve(
        *propagators(ready.fine, ready.coarse, grid, ready.denoiser, random, latents, ready.criterion),
        latents,
        edges,
        batch_dims=1,
        criterion=ready.criterion,
        max_iterations=max_iterations,
        levels=levels,
        executor=parareal.BatchedExecutor(max(ready.denoiser.sizes, default=max_batch)),
        callback=callback,
        progress=progress,
        throw=throw,
        **settings,
    )
    if random is not None:
        random.finish()
    if advice is not None and not advice.worthwhile:
        note = "Sampled step by step, for in parallel in time it would not be faster here (parareal_diffusers.plan)."
        return replace(solution, message=f"{solution.message} {note}")
    return solution


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
    fine.check(grid)
    jumps.suits(grid)
    sizes = sizes_of(pad_batch, max_batch)
    criterion = criterion_of(criterion, tolerance, grid.steps)
    denoiser = Denoiser(model, grid.to(latents.device), len(latents), model_kwargs or {}, guidance, sizes)
    return Ready(fine, jumps, grid, denoiser, criterion)


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


def criterion_of(
    criterion: parareal.AbstractCriterion | None, tolerance: float, steps: int
) -> parareal.AbstractCriterion:
    """Return the criterion, by default that for a tolerance; 0 runs to the end of so many steps."""
    if criterion is not None:
        return criterion
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be positive, or 0 to run to the end, got {tolerance}")
    return parareal.Tolerance(tolerance) if tolerance else parareal.Iterations(steps)


def sizes_of(pad_batch: bool | Sequence[int], max_batch: int | None) -> list[int]:
    """Return the batch sizes that calls are filled up to; none for no filling."""
    if pad_batch is False:
        return []
    if pad_batch is True:
        if max_batch is None:
            raise ValueError("pad_batch=True fills every call up to max_batch rows: give max_batch, or the sizes")
        return [whole_number("max_batch", max_batch, 1)]
    if not isinstance(pad_batch, Sequence) or isinstance(pad_batch, str) or not pad_batch:
        raise TypeError(f"pad_batch must be True, False or batch sizes as in (1, 8, 32), got {pad_batch!r}")
    sizes = [whole_number("pad_batch: a batch size", size, 1) for size in pad_batch]
    if max_batch is not None and max_batch != max(sizes):
        raise ValueError(f"max_batch={max_batch} is not the largest of pad_batch={tuple(sizes)}: leave it out")
    return sizes


def boundaries_of(
    boundaries: Sequence[int] | None, slices: int | str, levels: Sequence[int] | None, bases: Sequence[int]
) -> list[int]:
    """Return the nodes that bound the slices, or the ends for levels.

    Where steps come in cycles, slices begin with a cycle if there are enough: `bases` says where each step's began.
    """
    steps = len(bases)
    if boundaries is not None:
        if slices != "auto":
            raise ValueError(f"boundaries already say how many slices there are: leave slices={slices!r} out")
        given = [whole_number("boundaries: a node", n, 0) for n in boundaries]
        if len(given) < 2 or given[0] != 0 or given[-1] != steps:
            raise ValueError(f"boundaries must begin with node 0 and end with node {steps}, got {list(boundaries)}")
        return given
    edges = divide_grid(slices, levels, steps)
    starts = [*(i for i, base in enumerate(bases) if i == base), steps]
    aligned = sorted({min(starts, key=lambda start: abs(start - edge)) for edge in edges})
    return aligned if len(aligned) == len(edges) else edges
