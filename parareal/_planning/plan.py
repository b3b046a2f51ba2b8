"""The choice of a setting: every candidate is simulated with a measured batch-time curve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias, final

import numpy as np
from tqdm.auto import tqdm

from parareal._checks import one_of, whole_number
from parareal._planning.batch_time import BatchTime
from parareal._planning.candidates import Candidate, Plan
from parareal._planning.simulate import Simulation, simulate
from parareal._planning.span_law import AROUND, slices_around_least_span
from parareal._run.options import SCHEDULES

IterationCounts: TypeAlias = int | Sequence[int] | Callable[[int], int | Sequence[int]]


def plan(
    steps: int,
    *,
    iterations: IterationCounts,
    batch_time: BatchTime | Mapping[int, float] | None = None,
    slices: Sequence[int] | None = None,
    levels: Sequence[Sequence[int]] = (),
    schedules: Sequence[str] = SCHEDULES,
    windows: Sequence[int | None] = (None,),
    max_batches: Sequence[int | None] | None = None,
    samples: int = 1,
    devices: int = 1,
    message_time: float = 0.0,
    stages: int = 1,
    coarse_stages: int = 1,
    coarse_steps: int = 1,
    shared: bool = True,
    progress: bool = False,
) -> Plan:
    """Choose slices, schedule and batches for a solve, or advise the sequential one: candidates run by `simulate`.

    Args:
        steps: fine steps N.
        iterations: the number that a solve makes; or several numbers, as found for several samples, over which times
            are averaged; or a function that returns either for a number of slices.
        batch_time: the time of a call by its rows (`BatchTime.measured`), or None for one unit per call.
        slices: numbers to try; by default some around the one of least span.
        levels: nested levels to try, too.
        schedules, windows, max_batches: options to try; by default no bound of a batch, and the size at which a row is
            cheapest.
        samples, devices, message_time, stages, coarse_stages, coarse_steps, shared: as for `simulate`.
        progress: show a bar.

    Raises:
        ValueError, TypeError: for bad input, with a sentence that says what to change.
    """
    whole_number("steps", steps, 1)
    curve = BatchTime.of(batch_time)
    counts = _Counts(iterations)
    if slices is None:
        guess = counts(max(1, round(steps**0.5)))[-1]
        slices = slices_around_least_span(steps, guess, AROUND, steps - 1) or [min(2, steps)]
    if max_batches is None:
        max_batches = _batches(curve, samples)
    settings = _settings(counts, slices, levels, schedules, windows, max_batches)
    costs: dict[str, Any] = {
        "devices": devices,
        "batch_time": curve,
        "message_time": message_time,
        "samples": samples,
        "stages": stages,
        "coarse_stages": coarse_stages,
        "coarse_steps": coarse_steps,
        "shared": shared,
    }
    bar = tqdm(settings, desc="plan", unit="setting", disable=not progress)
    candidates = [_simulated(steps, counts(setting["slices"]), setting, costs) for setting in bar]
    alone = simulate(steps, 1, 1, **{**costs, "coarse_stages": 0, "devices": 1})
    return Plan.of(candidates, _candidate({"slices": 1}, [0], [alone]))


@final
@dataclass(frozen=True)
class _Counts:
    """The iterations to expect, by the number of slices."""

    given: IterationCounts

    def __call__(self, slices: int) -> list[int]:
        """Return them, rising."""
        value = self.given(slices) if callable(self.given) else self.given
        numbers = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
        if not numbers:
            raise ValueError(f"iterations has no numbers for {slices} slices: give at least one")
        return sorted(whole_number("iterations", n, 0) for n in numbers)


def _settings(
    counts: _Counts,
    slices: Sequence[int],
    levels: Sequence[Sequence[int]],
    schedules: Sequence[str],
    windows: Sequence[int | None],
    max_batches: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Return all combinations as fields of a `Candidate`."""
    tried = {"slices": [*slices, *levels], "schedules": schedules, "windows": windows, "max_batches": max_batches}
    for name, entries in tried.items():
        if not len(entries):
            raise ValueError(f"{name} must have at least one entry to try")
    for schedule in schedules:
        one_of("schedules: an entry", schedule, SCHEDULES)
    divisions: list[tuple[int, tuple[int, ...] | None]] = [
        *((whole_number("slices: an entry", count, 1), None) for count in slices),
        *((whole_number("levels: a number of slices", level[0], 1), tuple(level)) for level in levels),
    ]
    return [
        {
            "slices": count,
            "levels": nested,
            "schedule": schedule,
            "window": window,
            "speculate_until": speculate_until,
            "max_batch": max_batch,
        }
        for count, nested in divisions
        for schedule in schedules
        for window in windows
        for speculate_until in _speculate_until(counts(count), schedule, window)
        for max_batch in max_batches
    ]


def _speculate_until(iterations: list[int], schedule: str, window: int | None) -> list[int | None]:
    """Return where F might begin to wait: not at all, or from an iteration on that may be the last."""
    if schedule == "synchronous" or window is not None:
        return [None]
    return [None, *sorted(set(iterations))]


def _batches(curve: BatchTime, samples: int) -> list[int | None]:
    """Return bounds of a batch: none, and the size with the least time per row, if neither end of the curve has it."""
    cheapest = min(curve.rows, key=lambda rows: curve(rows) / rows)
    return [None, cheapest] if samples < cheapest < curve.rows[-1] else [None]


def _simulated(steps: int, iterations: list[int], setting: dict[str, Any], costs: dict[str, Any]) -> Candidate:
    """Return a candidate, averaged over numbers of iterations."""
    runs = {n: _simulation(steps, n, setting, costs) for n in set(iterations)}
    return _candidate(setting, iterations, [runs[n] for n in iterations])


def _simulation(steps: int, iterations: int, setting: dict[str, Any], costs: dict[str, Any]) -> Simulation:
    count, options = setting["slices"], {name: value for name, value in setting.items() if name != "slices"}
    if setting["levels"] is not None:
        return simulate(steps, iterations=iterations, **options, **costs)
    # boundaries before the last seldom settle in the iteration in which the last does; with a window they must
    later = 0 if setting["window"] is not None else 1
    table = [iterations + later] * (count - 1) + [iterations]
    return simulate(steps, count, table, **options, **costs)


def _candidate(setting: dict[str, Any], iterations: list[int], runs: list[Simulation]) -> Candidate:
    return Candidate(
        **setting,
        iterations=fmean(iterations),
        span=fmean(run.stats.span for run in runs),
        work=fmean(run.stats.work for run in runs),
        calls=fmean(run.stats.calls for run in runs),
        wall_time=fmean(run.wall_time for run in runs),
    )
