"""`plan`: the choice of a setting, by simulating every candidate with a measured batch-time curve."""

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
from parareal._planning.span_law import FACTORS_TO_SIMULATE, slices_around_least_span
from parareal._run.options import SCHEDULES

IterationCounts: TypeAlias = int | Sequence[int] | Callable[[int], int | Sequence[int]]
"""one number, several of which costs are averaged, or a function of the number of slices that returns either"""


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
    """Choose slices, schedule and batch size for a solve with steppers, or advise against a parallel solve.

    Every combination of `slices` (and `levels`), `schedules`, `windows` and `max_batches` is simulated (`simulate`)
    and compared with the sequential solve on one device. No propagator runs.

    Args:
        steps: fine steps N.
        iterations: expected number of iterations at the last boundary; or one number per sample observed so far, over
            which costs are averaged; or a function that returns either for a number of slices.
        batch_time: seconds of a call by its rows (`BatchTime.measure`), as for `simulate`; None for one unit per call.
        slices: numbers of slices to try; by default six around sqrt(p N), the number with the least span for p
            iterations.
        levels: nested levels to try, too, as in `[(12, 9)]`.
        schedules: schedules to try; by default both.
        windows: windows to try; by default none.
        max_batches: largest numbers of rows of a call to try; by default no bound, and the number of rows with the
            least time per row.
        samples: samples solved at the same time.
        devices: number of devices for the parallel candidates.
        message_time: seconds until a state arrives at another device.
        stages: evaluations of one fine step.
        coarse_stages: evaluations of one coarse step, 0 or more.
        coarse_steps: coarse steps per slice.
        shared: whether F and G share the evaluation at the start of a slice.
        progress: whether to show a progress bar.

    Returns:
        A `Plan`, with all candidates.

    Raises:
        ValueError, TypeError: for invalid arguments; the message says what to change.

    Examples:
        >>> import parareal
        >>> advice = parareal.plan(100, iterations=2, batch_time={1: 1.0, 8: 1.5, 64: 6.0})
        >>> advice.worthwhile, advice.slices
        (True, 10)
    """
    whole_number("steps", steps, 1)
    curve = BatchTime.of(batch_time)
    counts = _Counts(iterations)
    if slices is None:
        guess = counts(max(1, round(steps**0.5)))[-1]
        # on very short grids no number lies between 2 and N - 1
        slices = slices_around_least_span(steps, guess, FACTORS_TO_SIMULATE, steps - 1) or [min(2, steps)]
    if max_batches is None:
        max_batches = _batch_bounds(curve, samples)
    settings = _list_settings(counts, slices, levels, schedules, windows, max_batches)
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
    candidates = [_predict_candidate(steps, counts(setting["slices"]), setting, costs) for setting in bar]
    # one slice without coarse evaluations is the sequential solve, which uses one device only
    sequential = simulate(steps, 1, 1, **{**costs, "coarse_stages": 0, "devices": 1})
    return Plan.of(candidates, _average({"slices": 1}, [0], [sequential]))


@final
@dataclass(frozen=True)
class _Counts:
    """The expected numbers of iterations, as a function of the number of slices."""

    expected: IterationCounts

    def __call__(self, slices: int) -> list[int]:
        """Return the numbers for `slices` slices, rising."""
        value = self.expected(slices) if callable(self.expected) else self.expected
        numbers = list(value) if isinstance(value, Sequence | np.ndarray) else [value]
        if not numbers:
            raise ValueError(f"iterations has no numbers for {slices} slices: give at least one")
        return sorted(whole_number("iterations", n, 0) for n in numbers)


def _list_settings(
    counts: _Counts,
    slices: Sequence[int],
    levels: Sequence[Sequence[int]],
    schedules: Sequence[str],
    windows: Sequence[int | None],
    max_batches: Sequence[int | None],
) -> list[dict[str, Any]]:
    """Return all combinations, each as fields of a `Candidate`; arguments as for `plan`."""
    choices = {"slices": [*slices, *levels], "schedules": schedules, "windows": windows, "max_batches": max_batches}
    for name, entries in choices.items():
        if not len(entries):
            raise ValueError(f"{name} must have at least one entry to try")
    if any(not len(level) for level in levels):
        raise ValueError(f"levels: an entry must have at least one number of slices, but levels was {list(levels)}")
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
        for speculate_until in _speculation_bounds(counts(count), schedule, window)
        for max_batch in max_batches
    ]


def _speculation_bounds(iterations: list[int], schedule: str, window: int | None) -> list[int | None]:
    """Return the values of `speculate_until` to try: None, and every iteration that may be the last."""
    # Bounds are tried only without a window and with the pipelined schedule, to keep the number of candidates small.
    if schedule == "synchronous" or window is not None:
        return [None]
    return [None, *sorted(set(iterations))]


def _batch_bounds(curve: BatchTime, samples: int) -> list[int | None]:
    """Return the values of `max_batch` to try: None, and the number of rows with the least time per row.

    The latter only if it lies between the number of samples and the largest measured size.
    """
    cheapest = min(curve.rows, key=lambda rows: curve(rows) / rows)
    return [None, cheapest] if samples < cheapest < curve.rows[-1] else [None]


def _predict_candidate(steps: int, iterations: list[int], setting: dict[str, Any], costs: dict[str, Any]) -> Candidate:
    """Simulate a setting for every number of iterations that is expected, and return the mean costs."""
    runs = {n: _simulate_setting(steps, n, setting, costs) for n in set(iterations)}  # equal numbers run once
    return _average(setting, iterations, [runs[n] for n in iterations])


def _simulate_setting(steps: int, iterations: int, setting: dict[str, Any], costs: dict[str, Any]) -> Simulation:
    """Simulate a setting for one number of iterations at the last boundary."""
    count, options = setting["slices"], {name: value for name, value in setting.items() if name != "slices"}
    if setting["levels"] is not None:
        return simulate(steps, iterations=iterations, **options, **costs)
    # Boundaries before the last seldom settle as early as the last one: their slices then begin one more iteration,
    # whose work counts. With a window they must settle first, or the window does not move on.
    later = 0 if setting["window"] is not None else 1
    table = [iterations + later] * (count - 1) + [iterations]
    return simulate(steps, count, table, **options, **costs)


def _average(setting: dict[str, Any], iterations: list[int], runs: list[Simulation]) -> Candidate:
    """Return a candidate with the mean costs of several simulations."""
    return Candidate(
        **setting,
        iterations=fmean(iterations),
        span=fmean(run.stats.span for run in runs),
        work=fmean(run.stats.work for run in runs),
        calls=fmean(run.stats.calls for run in runs),
        wall_time=fmean(run.wall_time for run in runs),
    )
