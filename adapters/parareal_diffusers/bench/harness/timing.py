"""Wall time against the sequential loop, both in one run."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from parareal_diffusers.bench.cases.problems import CPU, Problem
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.bench.harness.collect import Choice, Store, Where
from parareal_diffusers.bench.harness.methods import BenchMethod
from parareal_diffusers.testing import scheduler_loop

TOLERANCE = 1e-2
RUNS = 5
MOST_STEPS = 196
"""above which nothing is timed unless asked for"""
FRESH = 10.0
"""seconds for which the time of the sequential loop on a sample is taken to hold"""


def took(call: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
    """Return the seconds that a call takes, with all that it left to a device, and its result."""
    began = time.perf_counter()
    result = call()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began, result


def spread(ratios: Sequence[float]) -> list[float]:
    """Return the median, the smallest and the largest."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def measure(choice: Choice, store: Store, most_steps: int = MOST_STEPS) -> dict[str, list[float]]:
    """Time all methods as run, with tolerance 1e-2, on one sample after the other; kept in the store when done.

    Returns:
        By `wall_key`: the median, smallest and largest ratio of the time of the loop over the unmodified scheduler, on
        the same sample at most some seconds before, to the method's; and the worst error.
    """
    walls = store.note("walls")
    for where in choice.tables():
        methods = [m for m in choice.chosen(where) if wall_key(where, m) not in walls]
        if methods and where.steps <= most_steps:
            walls = store.note("walls", _time(where, methods, choice.problem(where.problem), store))
    return walls


def _time(where: Where, methods: Sequence[BenchMethod], problem: Problem, store: Store) -> dict[str, list[float]]:
    targets = store.reference(where, problem)
    scheduler = problem.scheduler_for(where.steps)
    device = problem.latents.device
    ratios: dict[str, list[float]] = {wall_key(where, method): [] for method in methods}
    errors = dict.fromkeys(ratios, 0.0)
    with tqdm(total=(RUNS + 1) * len(methods), desc=f"timing {where.problem}, {where.steps} steps", unit="run") as bar:
        for run in range(RUNS + 1):
            index, base, when = run % problem.samples, 0.0, float("-inf")
            one, target = problem.sample(index), Target(targets[index : index + 1])
            loop = partial(scheduler_loop, one.network(where.steps), one.latents, scheduler, where.steps)
            for key, method in zip(ratios, methods, strict=True):
                if time.monotonic() - when > FRESH:
                    base, _ = took(loop, device)
                    when = time.monotonic()
                stop = Stop(method.rule, TOLERANCE)
                parallel, found = took(partial(method.run, one, where.steps, target, stop), device)
                if run:  # the first warms up
                    ratios[key].append(base / parallel)
                    errors[key] = max(errors[key], found[-1].error)
                bar.update()
    return {key: [*spread(found), errors[key]] for key, found in ratios.items()}


def wall_key(where: Where, method: BenchMethod) -> str:
    """Name what is timed: problem, steps, method, its rule, the tolerance, and the method's settings of today."""
    return "|".join(map(str, (*where, method.name, method.rule, f"{TOLERANCE:g}", method.settings(where.steps))))
