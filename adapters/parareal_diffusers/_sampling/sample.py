"""Sampling a diffusion model in parallel in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

import parareal
from parareal.driver import SEQUENTIAL_NOTE, renamed
from parareal_diffusers._noise import Generators, NoiseSampler
from parareal_diffusers._sampling.advice import SampleAdvice
from parareal_diffusers._sampling.coarse_stepper import propagators
from parareal_diffusers._sampling.denoiser import Denoised, Guidance
from parareal_diffusers._sampling.noise_source import check_generator, check_sampler, entered, noise_of, sampled_noise
from parareal_diffusers._sampling.options import boundaries_of
from parareal_diffusers._sampling.prepared import prepare


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
        slices: a number, `"sqrt"`, `"steps"` or `"auto"`. `"auto"` is decided by timing, so results of one program can
            differ within the tolerance between runs: `"sqrt"`, the rounded root of N, is deterministic. `"auto"` is
            what an advisor chooses from the times of the network's calls, measured once, and the iterations seen or
            to expect (`plan`, docs/how-to/plan.md): one slice where more are not predicted to be faster. `"steps"` is one
            per step.
        boundaries: nodes between 0 and N to use as boundaries instead, rising, both ends included.
        levels: nested levels instead, outermost first: `(12, 9)` is 12 slices of 9 slices each (`parareal.Parareal`).
            `boundaries` may give those of the outermost level.
        coarse: the solver of the coarse jumps: a name (`"auto"`, `"same"`, `"ddim"`, `"ddpm"`, `"dpmpp_2m"`,
            `"dpmpp_3m"`, `"dpmpp_2m_sde"`, `"extrapolated"`, `"identity"`), one of our solvers, or a diffusers
            scheduler. It decides how fast the answer is reached, not which. `"auto"` is what converged fastest on the
            shipped network for this kind of fine solver (docs/results/solvers.md).
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
            standard noise like latents; for instance increments of a Brownian path (docs/reference/solvers.md).

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
        advice = SampleAdvice(ready, latents).for_call(max_iterations=max_iterations, **settings)
    if advice is not None:
        settings["speculate_until"] = advice.speculate_until if speculate_until is None else speculate_until
        boundaries = ready.boundaries(advice.slices)
    edges = boundaries_of(boundaries, slices, levels, ready.fine.base_nodes(ready.grid))
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
        executor=parareal.BatchedExecutor(ready.max_batch),
        callback=callback,
        progress=progress,
        throw=throw,
        **settings,
    )
    if random is not None:
        random.finish()
    if advice is not None and not advice.worthwhile:
        return replace(solution, message=f"{solution.message} {SEQUENTIAL_NOTE}")
    return solution
