"""Wall time against the sequential loop, both in turn in one run."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from parareal_diffusers.bench._collect import Choice, Store, Where
from parareal_diffusers.bench._methods import Method
from parareal_diffusers.bench._problems import PROBLEMS, Problem
from parareal_diffusers.bench._record import Stop, Target
from parareal_diffusers.testing import scheduler_loop

TOLERANCE = 1e-2
RUNS = 5
MOST_STEPS = 196
"""above which nothing is timed unless asked for"""


def took(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spread(ratios: Sequence[float]) -> list[float]:
    """Return the median, the smallest and the largest."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def measure(choice: Choice, store: Store, most_steps: int = MOST_STEPS) -> dict[str, list[float]]:
    """Time all methods as run, with tolerance 1e-2, on one sample after the other; kept in the store when done.

    Returns:
        By problem, steps, method, rule and tolerance: the median, smallest and largest ratio of the time of the loop
        over the unmodified scheduler, on the same sample just before, to the method's.
    """
    walls = store.note("walls")
    jobs = [(w, m, r) for w in choice.tables() if w.steps <= most_steps for m in choice.chosen(w) for r in m.rules]
    left = [job for job in jobs if _key(*job) not in walls]
    for where in dict.fromkeys(w for w, _, _ in left):
        mine = [(m, r) for w, m, r in left if w == where]
        walls = store.note("walls", _time(where, mine, PROBLEMS[where.problem](choice.samples), store))
    return walls


def _time(where: Where, mine: Sequence[tuple[Method, str]], problem: Problem, store: Store) -> dict[str, list[float]]:
    targets = store.reference(where, problem)
    scheduler = problem.scheduler_for(where.steps)
    ratios: dict[str, list[float]] = {_key(where, m, r): [] for m, r in mine}
    for run in tqdm(range(RUNS + 1), desc=f"timing {where.problem}, {where.steps} steps", unit="run"):
        index = run % problem.samples
        one, target = problem.sample(index), Target(targets[index : index + 1])
        network = one.network(where.steps)
        for method, rule in mine:
            base = took(lambda one=one, network=network: scheduler_loop(network, one.latents, scheduler, where.steps))
            stop = Stop(rule, TOLERANCE)
            parallel = took(lambda m=method, one=one, target=target, stop=stop: m.run(one, where.steps, target, stop))
            if run:  # the first warms up
                ratios[_key(where, method, rule)].append(base / parallel)
    return {key: spread(found) for key, found in ratios.items()}


def _key(where: Where, method: Method, rule: str) -> str:
    return f"{where.problem}|{where.steps}|{method.name}|{rule}|{TOLERANCE:g}"
