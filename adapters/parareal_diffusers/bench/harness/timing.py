"""Wall time of the methods against the sequential loop, measured in turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from parareal_diffusers.bench.cases.problems import CPU, BenchProblem
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.bench.harness.collect import RunSelection, RunStore, TableKey
from parareal_diffusers.bench.harness.methods import BenchMethod
from parareal_diffusers.testing import scheduler_loop

TOLERANCE = 1e-2
RUNS = 5
MAX_TIMED_STEPS = 196
"""default of the largest number of steps that is timed"""
MAX_BASELINE_AGE = 10.0
"""seconds for which a time of the sequential loop is used before it is measured again"""


def time_call(call: Callable[[], Any], device: torch.device = CPU) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start_time = time.perf_counter()
    result = call()
    if device.type != "cpu":
        # Kernels run asynchronously: without this the time would be that of launching them.
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start_time, result


def median_and_range(ratios: Sequence[float]) -> list[float]:
    """Return the median, the smallest and the largest."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def measure_speedups(
    selection: RunSelection, store: RunStore, max_steps: int = MAX_TIMED_STEPS
) -> dict[str, list[float]]:
    """Time all methods as run, with tolerance 1e-2, on one sample after another.

    Results are stored after each table, and what is stored is not timed again.

    Returns:
        By `wall_key`: the median, smallest and largest speed-up, and the worst relative error. A speed-up is the time
        of the loop over the unmodified scheduler, on the same sample some seconds before at most, over the method's.
    """
    speedups = store.update_notes("walls")
    for key in selection.list_tables():
        methods = [m for m in selection.methods_of(key) if wall_key(key, m) not in speedups]
        if methods and key.steps <= max_steps:
            measured = _time_methods(key, methods, selection.build_problem(key.problem), store)
            speedups = store.update_notes("walls", measured)
    return speedups


def _time_methods(
    key: TableKey, methods: Sequence[BenchMethod], problem: BenchProblem, store: RunStore
) -> dict[str, list[float]]:
    """Time the methods of one table in turn, so that a slow phase of the machine meets all of them."""
    targets = store.reference(key, problem)
    scheduler = problem.scheduler_for(key.steps)
    device = problem.latents.device
    ratios: dict[str, list[float]] = {wall_key(key, method): [] for method in methods}
    errors = dict.fromkeys(ratios, 0.0)
    with tqdm(total=(RUNS + 1) * len(methods), desc=f"timing {key.problem}, {key.steps} steps", unit="run") as bar:
        for run in range(RUNS + 1):
            # Another sample in each run, because the number of iterations depends on the sample.
            index, baseline, measured_at = run % problem.samples, 0.0, float("-inf")
            single, target = problem.select_sample(index), Target(targets[index : index + 1])
            loop = partial(scheduler_loop, single.build_network(key.steps), single.latents, scheduler, key.steps)
            for name, method in zip(ratios, methods, strict=True):
                if time.monotonic() - measured_at > MAX_BASELINE_AGE:
                    baseline, _ = time_call(loop, device)
                    measured_at = time.monotonic()
                stop = Stop(method.rule, TOLERANCE)
                seconds, iterates = time_call(partial(method.run, single, key.steps, target, stop), device)
                if run:  # the first run warms up
                    ratios[name].append(baseline / seconds)
                    errors[name] = max(errors[name], iterates[-1].error)
                bar.update()
    return {name: [*median_and_range(values), errors[name]] for name, values in ratios.items()}


def wall_key(key: TableKey, method: BenchMethod) -> str:
    """Return the key under which a time is stored: problem, steps, method, rule, tolerance and present settings.

    A method whose settings change gets another key, so that it is timed again.
    """
    return "|".join(map(str, (*key, method.name, method.rule, f"{TOLERANCE:g}", method.settings(key.steps))))
