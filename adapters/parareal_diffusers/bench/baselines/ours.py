"""Parareal on the engine, ours and SRDS: settings of `sample`."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

import parareal
from parareal_diffusers._sampling.sample import sample
from parareal_diffusers._sampling.spacing import boundaries
from parareal_diffusers.bench.cases.problems import BenchProblem
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

MAX_ITERATIONS = 40
"""upper bound on the iterations in which an oracle looks for the first iterate within the tolerance"""


def solve(problem: BenchProblem, steps: int, target: Target, stop: Stop, options: dict[str, Any]) -> Sequence[Iterate]:
    """Run one setting of `sample` on one sample.

    With the rule `"oracle"`, iterate k costs what a run of exactly k iterations costs, without any work on iteration
    k + 1. A run with another rule counts every evaluation that it made, speculative ones included.
    """
    options = place_boundaries(problem.scheduler_for(steps), steps, options)
    if stop.rule == "oracle":
        return _list_iterates(problem, steps, target, stop.tolerance, options)
    positional, named = problem.build_arguments(steps)
    # No absolute tolerance: the rule is relative to the RMS of each state, as it is for the baselines.
    criterion = (
        parareal.Increment(stop.tolerance, 0.0) if stop.rule == "increment" else parareal.Tolerance(stop.tolerance)
    )
    solution = sample(*positional, **named, criterion=criterion, **options)
    stats = solution.stats
    costs = (stats.span, stats.work, stats.calls, stats.peak_batch)
    return [target.record(solution.final_state, solution.iterations, *costs)]


def place_boundaries(scheduler: Any, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """Replace `log_snr` and the number of slices by the boundaries that they define; other options stay."""
    if "log_snr" not in options:
        return options
    rest = {name: value for name, value in options.items() if name not in ("log_snr", "slices")}
    # With nested levels the boundaries are those of the outermost level.
    count = options["levels"][0] if "levels" in options else options["slices"]
    nodes = boundaries(scheduler, count, num_inference_steps=steps, log_snr=options["log_snr"])
    return {**rest, "boundaries": tuple(nodes)}


def _list_iterates(
    problem: BenchProblem, steps: int, target: Target, tolerance: float, options: dict[str, Any]
) -> Sequence[Iterate]:
    """Return all iterates up to the first one within the tolerance, each with the cost of a run that ends there."""
    states: list[Tensor] = []
    # An oracle knows when to stop, so it never waits for a rejection before it starts an iteration.
    options = {name: value for name, value in options.items() if name != "speculate_until"}

    def record_state(refinement: parareal.Refinement) -> bool:
        states.append(refinement.final_state)
        return len(states) <= MAX_ITERATIONS and target.record(refinement.final_state, 0, 0, 0, 0, 0).error > tolerance

    positional, named = problem.build_arguments(steps)
    # The number of outermost slices minus 1: with one more iteration the run would be complete, and the inner levels
    # would be run to their ends as well.
    most = options["levels"][0] - 1 if "levels" in options else steps
    # The callback ends the run, which is no failure here, so nothing is raised.
    sample(*positional, **named, criterion=parareal.Iterations(most), callback=record_state, throw=False, **options)
    iterates = []
    for iteration, state in enumerate(states):
        # The run above speculated beyond each iterate, so its own counts cannot be used.
        stats = count_costs(steps, iteration, tuple(options.items()))  # a tuple can be hashed for the cache
        iterates.append(target.record(state, iteration, stats.span, stats.work, stats.calls, stats.peak_batch))
    return iterates


@cache
def count_costs(steps: int, iterations: int, options: tuple[tuple[str, Any], ...]) -> parareal.Stats:
    """Count what `iterations` iterations over DDIM's steps cost, by a run of the engine on a state of one number.

    Counts do not depend on the network or the sample, so one run per setting and number of iterations is enough.
    """
    state = torch.full((1, 1), 0.5, dtype=torch.float64)
    named = {"num_inference_steps": steps, "criterion": parareal.Iterations(iterations), **dict(options)}
    return sample(_irregular_network, state, DDIMScheduler(clip_sample=False), throw=False, **named).stats


def _irregular_network(x: Tensor, t: Tensor) -> Tensor:
    """Return an output so sensitive to x that iterates never repeat: bitwise equal ones would save evaluations."""
    return torch.sin(1e3 * x + t[:, None])
