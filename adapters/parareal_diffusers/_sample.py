"""Sampling a diffusion model in parallel in time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

import parareal
from parareal._checks import no_unknown, one_of
from parareal._edges import nodes
from parareal_diffusers._ddim import DDIM
from parareal_diffusers._denoiser import Denoiser, Guidance
from parareal_diffusers._dpmpp_2m import DPMSolverPP2M
from parareal_diffusers._grid import Grid
from parareal_diffusers._identity import Identity
from parareal_diffusers._solvers import Solver

COARSE: dict[str, type[Solver]] = {
    "auto": DPMSolverPP2M,
    "same": DDIM,
    "ddim": DDIM,
    "dpmpp_2m": DPMSolverPP2M,
    "identity": Identity,
}


def sample(
    model: Callable[..., Any],
    latents: Tensor,
    solver: Any,
    *,
    num_inference_steps: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    guidance: Guidance | None = None,
    slices: int | str = "auto",
    boundaries: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    coarse: str | type[Solver] = "auto",
    tolerance: float = 1e-2,
    criterion: parareal.AbstractCriterion | None = None,
    max_iterations: int | None = None,
    schedule: str = "pipelined",
    window: int | None = None,
    max_batch: int | None = None,
    callback: Callable[[parareal.Refinement], Any] | None = None,
    progress: bool = False,
    throw: bool = True,
    **unknown: Any,
) -> parareal.Solution:
    """Draw samples from a diffusion model, equal to the scheduler's own loop up to `tolerance`.

    Args:
        model: a network called as `model(x, t, **model_kwargs)`, diffusers' UNets included, whose output has the shape
            of x, (rows, *sample); t has shape (rows,). It may be in half precision.
        latents: noise of shape (samples, *sample), float32 or float64, as the scheduler's loop starts from.
        solver: a `diffusers.DDIMScheduler`; it is copied, never changed.
        num_inference_steps: steps N, as in `set_timesteps`.
        model_kwargs: class labels, text embeddings and the like. Tensors whose first dimension is the number of
            samples are gathered for the rows of each call.
        guidance: `Guidance(scale, model_kwargs=...)` for classifier-free guidance.
        slices: how many; `"sqrt"` means the rounded root of N, `"steps"` one for each step, and `"auto"` the rounded
            root of 3N, which has the least span if three iterations are made.
        boundaries: nodes between 0 and N to use as boundaries instead, rising, both ends included.
        levels: nested levels instead, outermost first: `(12, 9)` is 12 slices of 9 slices each (`parareal.Parareal`).
            `boundaries` may give those of the outermost level.
        coarse: `"same"` or `"ddim"` (a DDIM jump a slice), `"dpmpp_2m"` or `"auto"` (a DPM-Solver++(2M) jump, which
            costs the same and errs less), `"identity"`, or a `Solver` class.
        tolerance: relative error of the final state to stop at, per sample, by estimates that each slice makes
            (`parareal.Tolerance`); `error_estimate` at the end may be a few times larger. 0 runs to the end, which
            gives the sequential answer to rounding.
        criterion: another criterion of the engine, instead of `tolerance`.
        max_iterations, schedule, window, callback, progress, throw: as for `parareal.solve`.
        max_batch: rows in one call of the network, at most; None for no bound. Guidance doubles them.

    Returns:
        A `parareal.Solution`; its `final_state` has the shape of `latents`.

    Raises:
        TypeError, ValueError: before any work, with a sentence that says what to change.
        parareal.PararealError: as `parareal.solve`.
    """
    no_unknown(sample, unknown)
    if not isinstance(latents, Tensor) or latents.ndim < 2:
        raise ValueError("latents must be a tensor of shape (samples, *sample), with at least two dimensions")
    if guidance is not None and not isinstance(guidance, Guidance):
        raise TypeError("guidance must be Guidance(scale, model_kwargs={...}): it says what the unguided half is told")
    grid = Grid.of(solver, num_inference_steps).to(latents.device)
    denoiser = Denoiser(model, len(latents), model_kwargs or {}, guidance)
    edges = _boundaries(boundaries, slices, levels, grid.steps)
    if criterion is None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be positive, or 0 to run to the end, got {tolerance}")
        criterion = parareal.Tolerance(tolerance) if tolerance else parareal.Iterations(grid.steps)
    return parareal.solve(
        parareal.Steps(DDIM(grid, denoiser)),
        parareal.Steps(_coarse(coarse)(grid, denoiser), steps=1),
        latents,
        edges,
        batch_dims=1,
        criterion=criterion,
        max_iterations=max_iterations,
        schedule=schedule,
        window=window,
        levels=levels,
        executor=parareal.BatchedExecutor(max_batch),
        callback=callback,
        progress=progress,
        throw=throw,
    )


def _coarse(coarse: str | type[Solver]) -> type[Solver]:
    if isinstance(coarse, type) and issubclass(coarse, Solver):
        return coarse
    one_of("coarse", coarse, COARSE)
    return COARSE[str(coarse)]


def _boundaries(
    boundaries: Sequence[int] | None, slices: int | str, levels: Sequence[int] | None, steps: int
) -> list[int]:
    """Return the nodes that bound the slices, or the ends for levels."""
    if boundaries is not None:
        if slices != "auto":
            raise ValueError(f"boundaries already say how many slices there are: leave slices={slices!r} out")
        given = [int(n) for n in boundaries]
        if len(given) < 2 or given[0] != 0 or given[-1] != steps:
            raise ValueError(f"boundaries must begin with node 0 and end with node {steps}, got {list(boundaries)}")
        return given
    return nodes(slices, levels, steps)
