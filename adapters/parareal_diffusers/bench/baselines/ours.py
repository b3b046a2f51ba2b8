"""Parareal, ours and SRDS: settings of `sample`."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

import parareal
from parareal_diffusers._sampling.sample import sample
from parareal_diffusers._sampling.spacing import boundaries
from parareal_diffusers.bench.cases.problems import Problem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

MOST = 40
"""iterations, at most, of a search for the first that is good enough"""


def solve(problem: Problem, steps: int, target: Target, stop: Stop, options: dict[str, Any]) -> Sequence[Iterate]:
    """Run a setting on one sample.

    An oracle's iterate counts what a run to so many iterations takes, which does not begin the next one; a run with a
    stop rule counts all it has begun.
    """
    options = placed(problem.scheduler_for(steps), steps, options)
    if stop.rule == "oracle":
        return _iterates(problem, steps, target, stop.tolerance, options)
    given, named = problem.arguments(steps)
    criterion = (
        parareal.Increment(stop.tolerance, 0.0) if stop.rule == "increment" else parareal.Tolerance(stop.tolerance)
    )
    found = sample(*given, **named, criterion=criterion, **options)
    stats = found.stats
    return [target.iterate(found.final_state, found.iterations, stats.span, stats.work, stats.calls, stats.peak_batch)]


def placed(scheduler: Any, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return options with boundaries for `log_snr`, if that is among them."""
    if "log_snr" not in options:
        return options
    rest = {name: value for name, value in options.items() if name not in ("log_snr", "slices")}
    count = options["levels"][0] if "levels" in options else options["slices"]
    nodes = boundaries(scheduler, count, num_inference_steps=steps, log_snr=options["log_snr"])
    return {**rest, "boundaries": tuple(nodes)}


def _iterates(
    problem: Problem, steps: int, target: Target, tolerance: float, options: dict[str, Any]
) -> Sequence[Iterate]:
    states: list[Tensor] = []
    options = {
        name: value for name, value in options.items() if name != "speculate_until"
    }  # who knows when to stop waits for nothing

    def keep(refinement: parareal.Refinement) -> bool:
        states.append(refinement.final_state)
        return len(states) <= MOST and target.iterate(refinement.final_state, 0, 0, 0, 0, 0).error > tolerance

    given, named = problem.arguments(steps)
    # with levels, a run to the end on the outermost would run those within to theirs at once
    most = options["levels"][0] - 1 if "levels" in options else steps
    sample(*given, **named, criterion=parareal.Iterations(most), callback=keep, throw=False, **options)
    found = []
    for iteration, state in enumerate(states):
        cost = costs(steps, iteration, tuple(options.items()))
        found.append(target.iterate(state, iteration, cost.span, cost.work, cost.calls, cost.peak_batch))
    return found


@cache
def costs(steps: int, iterations: int, options: tuple[tuple[str, Any], ...]) -> parareal.Stats:
    """Return what so many iterations over DDIM's steps take: the engine counts them on a state of one number."""
    state = torch.full((1, 1), 0.5, dtype=torch.float64)
    given = {"num_inference_steps": steps, "criterion": parareal.Iterations(iterations), **dict(options)}
    return sample(_rough, state, DDIMScheduler(clip_sample=False), throw=False, **given).stats


def _rough(x: Tensor, t: Tensor) -> Tensor:
    """Return noise that no two iterates agree on, so that no evaluation is spared."""
    return torch.sin(1e3 * x + t[:, None])
