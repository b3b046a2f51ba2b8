"""The advice for a sampling problem: times of its network and iterations of its samples, handed to advisors."""

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

import parareal
from parareal.driver import Advisor, Options, advisor_for, check_initial
from parareal_diffusers._sampling.prepared import Ready


def advise_sample(
    ready: Ready,
    latents: Tensor,
    *,
    schedule: str,
    window: int | None,
    max_iterations: int | None,
    speculate_until: int | None,
) -> parareal.Plan | None:
    """Return the plan for a call of `sample` with these options, or None where nothing is measured for it.

    Nothing is measured without a tolerance, and with batches of fixed sizes unless `plan` has timed them.

    Raises:
        TypeError, ValueError: for wrong options, before the network is called.
        Exception: what the network raises while it is timed, a lack of memory included; None is returned where it
            raises `TypeError` or `ValueError`.
    """
    if not isinstance(ready.criterion, parareal.Tolerance):
        return None
    if ready.denoiser.sizes and not _network(ready, latents).measured(ready.max_batch):
        return None
    Options(
        criterion=ready.criterion,
        schedule=schedule,
        window=window,
        max_iterations=max_iterations,
        speculate_until=speculate_until,
    )
    ready.criterion.resolved(check_initial(latents[:1], 1)[1])
    try:
        batch_time(ready, latents)
    except (TypeError, ValueError):  # the model does not fit: the solve reports that as `parareal.PararealError`
        return None
    return advise(ready, latents, schedule=schedule, window=window)


def advise(ready: Ready, latents: Tensor, *, schedule: str = "pipelined", window: int | None = None) -> parareal.Plan:
    """Return the plan for latents of shape (samples, *sample), by a tolerance, from what is known."""
    assert isinstance(ready.criterion, parareal.Tolerance)
    advisor = _problem(ready)
    return advisor.advise(
        ready.grid.steps,
        batch_time=batch_time(ready, latents),
        slices=sorted(advisor.iterations) or None,  # those that were run
        tolerance=ready.criterion.rtol,
        samples=len(latents),
        schedule=schedule,
        window=window,
        max_batch=ready.max_batch,
    )


def learn(ready: Ready, solution: parareal.Solution) -> None:
    """Record the iterations that samples made: one more where the estimate was near the tolerance.

    Similar samples are likely to need the extra iteration.
    """
    assert isinstance(ready.criterion, parareal.Tolerance)
    near = solution.error_estimate > 0.85 * ready.criterion.rtol
    made = (int(n) for n in solution.slice_iterations[-1] + near)
    _problem(ready).learn_iterations(len(solution.boundaries) - 1, made)


def batch_time(ready: Ready, latents: Tensor, seconds: float = 1.0) -> parareal.BatchTime:
    """Return the times of a network's calls on this device, measured once, with no more rows than `max_batch`.

    Args:
        ready: the problem.
        latents: of the shape (samples, *sample), dtype and device that the network will be given.
        seconds: to measure for, at most, unless single calls take longer.

    Raises:
        Exception: what the network raises.
    """

    def call(rows: int) -> None:
        index = torch.arange(rows, device=latents.device)
        try:
            with torch.no_grad():
                ready.denoiser(latents[index % len(latents)], 0 * index, index % len(latents))
            if latents.device.type == "cuda":
                torch.cuda.synchronize(latents.device)
        except Exception as error:
            error.add_note(f"in a call of {rows} rows, timed for slices='auto': max_batch bounds the rows of calls")
            raise

    return _network(ready, latents).batch_time(call, seconds=seconds, most=ready.max_batch)


def _network(ready: Ready, latents: Tensor) -> Advisor:
    """Return the advisor that knows the times of calls: they depend on nothing but the network and its input."""
    denoiser = ready.denoiser
    form = tuple(latents.shape[1:]), latents.dtype, latents.device, denoiser.dtype
    key = (*form, torch.get_num_threads(), denoiser.guidance is not None, tuple(denoiser.sizes))
    return advisor_for(denoiser.model, ("times", *key))


def _problem(ready: Ready) -> Advisor:
    """Return the advisor that knows the iterations of such problems, whatever the shape of their latents."""
    guidance, rtol = ready.denoiser.guidance, getattr(ready.criterion, "rtol", None)
    solvers = [(type(x).__name__, str(replace(x, scheduler=None))) for x in (ready.fine, ready.coarse)]
    scheduler = type(ready.fine.scheduler).__name__
    key: tuple[Hashable, ...] = (*solvers, scheduler, ready.grid.steps, rtol, guidance and guidance.scale)
    return advisor_for(ready.denoiser.model, ("iterations", *key))
