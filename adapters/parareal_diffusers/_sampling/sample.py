"""Sampling a diffusion model in parallel in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

import parareal
from parareal.driver import SEQUENTIAL_NOTE, check_callback, resolve_renamed
from parareal_diffusers._noise import Generators, NoiseSampler
from parareal_diffusers._sampling.advice import SamplingAdvisor
from parareal_diffusers._sampling.coarse_stepper import build_propagators
from parareal_diffusers._sampling.denoiser import Denoised, Guidance
from parareal_diffusers._sampling.noise_source import (
    add_initial_noise,
    check_generator,
    check_noise_sampler,
    make_noise_source,
    record_noise_sampler,
)
from parareal_diffusers._sampling.options import resolve_boundaries
from parareal_diffusers._sampling.problem import prepare_problem


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
    spot_check: float | None = None,
    max_batch: int | None = None,
    pad_batch: bool | Sequence[int] = False,
    generator: Generators = None,
    noise_sampler: NoiseSampler | None = None,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    eager: int | None = None,
) -> parareal.Solution:
    """Draw samples from a diffusion model, equal to those of the scheduler's own loop up to `tolerance`.

    Args:
        model: a network called as `model(x, t, **model_kwargs)`, diffusers' UNets included, that returns a tensor of
            the shape of x, (rows, *sample); t has shape (rows,). It may be in half precision.
        latents: noise of shape (samples, *sample), float32 or float64, scaled as the scheduler's loop starts from it.
            The network's output is cast to their dtype, in which the scheduler then works and draws noise.
        solver: a scheduler of diffusers, which is copied, never changed (docs/results/support.md lists those that are
            supported), or one of our solvers with a scheduler, as in `DDIM(scheduler, eta=0.5)`. Such a solver takes
            nodes, prediction type, clipping and thresholding from its scheduler; order, algorithm, variance and eta
            are its own.
        num_inference_steps: the number of steps N, as in `set_timesteps`. None if the scheduler's timesteps are set.
        model_kwargs: class labels, text embeddings and other keyword arguments of the model. Tensors whose first
            dimension is the number of samples are gathered for the rows of each call. A tensor that has that size by
            coincidence needs another leading dimension.
        guidance: `Guidance(scale, model_kwargs=...)` for classifier-free guidance.
        slices: a number, `"auto"`, `"sqrt"` or `"steps"`. `"auto"` chooses from the time of the network's calls,
            measured once, and from the iterations of earlier calls or else expected ones (`plan`, docs/how-to/plan.md);
            it chooses one slice if more are not predicted to be faster. Measured times vary, so the number of slices
            can differ between runs of one program, and the results can differ within the tolerance. `"sqrt"`, the
            rounded root of N, is deterministic. `"steps"` is one slice per step.
        boundaries: nodes between 0 and N, rising, both ends included, in place of `slices`.
        levels: nested levels, outermost first, in place of `slices`: `(12, 9)` is 12 slices of 9 slices each
            (`parareal.Parareal`). `boundaries` may bound the slices of the outermost level.
        coarse: the solver of the coarse jumps: a name (`"auto"`, `"same"`, `"ddim"`, `"ddpm"`, `"dpmpp_2m"`,
            `"dpmpp_3m"`, `"dpmpp_2m_sde"`, `"extrapolated"`, `"identity"`), one of our solvers, or a diffusers
            scheduler with a native solver. It affects the speed, not the result. `"auto"` is the solver that
            converged fastest on the shipped network for this kind of fine solver (docs/results/solvers.md).
        tolerance: relative error of the final state at which a sample stops, by the estimates that each slice makes
            (`parareal.Tolerance`); below 1. `error_estimate` at the end may be a few times larger. 0 runs to the end,
            which gives the sequential result to rounding.
        criterion: another criterion of the engine, in place of `tolerance`.
        max_iterations: iterations after which the solve fails; None for no limit but that of the criterion.
        schedule: `"pipelined"` or `"synchronous"`, as for `parareal.solve`.
        window: largest number of slices under way at a time, as for `parareal.solve`.
        speculate_until: iteration from which on fine propagations start only after the final state has been rejected;
            None to speculate always, or as the plan says.
        spot_check: share of the slices on which the solver runs once more after the stop, as for `parareal.solve`.
        max_batch: the largest number of rows of states in one call; None for no bound. With guidance the network is
            called with twice as many rows.
        pad_batch: for a network compiled for fixed batch sizes: True fills every call up to `max_batch` rows; a
            sequence of sizes, as in (1, 8, 32), fills each call up to the next size. With guidance the network is
            called with twice as many rows.
        generator: the source of noise of a stochastic solver, as in diffusers: one `torch.Generator`, a list with one
            per sample, or None for torch's global generator. The noise is that of the sequential loop, and the
            generator is left in the state in which that loop leaves it.
        noise_sampler: for a solver on `Sigmas`, the source of noise in place of `generator`, as in k-diffusion. It is
            called as `noise_sampler(sigma, sigma_next)`, once per step that adds noise, in the order of the loop, and
            returns standard noise of the latents' shape; for instance increments of a Brownian path
            (docs/explained/history-and-noise.md).
        callback: called with a `parareal.Refinement` after every iteration. If it returns False, or any value other
            than None that Python takes for false, the solve is cancelled.
        progress: show a progress bar.
        throw: raise `parareal.PararealError` if the solve fails; otherwise return what was reached.
        eager: the old name of `speculate_until`, accepted with a warning for one release.

    Returns:
        A `parareal.Solution`; its `final_state` has the shape of `latents`.

    Raises:
        TypeError, ValueError: for wrong arguments, before any work; for an output of the wrong form, at the network's
            first call.
        parareal.PararealError: as `parareal.solve`.
    """
    check_callback(callback)
    speculate_until = resolve_renamed("eager", eager, "speculate_until", speculate_until)
    problem = prepare_problem(
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
    check_noise_sampler(noise_sampler, problem.fine, generator)
    # A noise sampler is called for all its noise here, because wrong noise must be reported before any work.
    noise_source = (
        None if noise_sampler is None else record_noise_sampler(problem.fine, problem.grid, latents, noise_sampler)
    )
    settings = {"schedule": schedule, "window": window, "speculate_until": speculate_until}
    plan = None
    if slices == "auto" and boundaries is None and levels is None:
        plan = SamplingAdvisor(problem, latents).plan_call(max_iterations=max_iterations, **settings)
    if plan is not None:
        settings["speculate_until"] = plan.speculate_until if speculate_until is None else speculate_until
        boundaries = problem.boundaries(plan.slices)  # spaced for the coarse solver, so they replace the number
    nodes = resolve_boundaries(boundaries, slices, levels, problem.fine.base_nodes(problem.grid))
    # The generator is not touched before this line: errors above leave it as it was.
    if noise_sampler is None:
        noise_source = make_noise_source(
            problem.fine, problem.grid, latents, generator, latents.dtype, range(problem.grid.steps)
        )
    latents = add_initial_noise(problem.fine, problem.grid, latents, noise_source)
    # The checks above read single numbers of the grid, so it stays on the CPU until here.
    grid = problem.grid.to(latents.device)
    # From here on the engine works. The network is called by `Denoiser`, and the steps are made by `SolverStepper` and
    # `CoarseStepper`.
    solution = parareal.solve(
        *build_propagators(
            problem.fine, problem.coarse, grid, problem.denoiser, noise_source, latents, problem.criterion
        ),
        latents,
        nodes,
        batch_dims=1,
        criterion=problem.criterion,
        max_iterations=max_iterations,
        levels=levels,
        executor=parareal.BatchedExecutor(problem.max_batch),
        spot_check=spot_check,
        callback=callback,
        progress=progress,
        throw=throw,
        **settings,
    )
    # A run that stopped early may not have needed the noise of all steps; the sequential loop draws all of it.
    if noise_source is not None:
        noise_source.finish()
    if plan is not None and not plan.worthwhile:
        return replace(solution, message=f"{solution.message} {SEQUENTIAL_NOTE}")
    return solution
