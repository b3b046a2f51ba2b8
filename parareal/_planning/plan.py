"""Which setting to solve with, and whether to: every candidate is simulated with what a batch costs here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, final

from tqdm.auto import tqdm

from parareal._checks import one_of, whole_number
from parareal._planning.batch_time import BatchTime
from parareal._planning.simulate import Simulation, simulate
from parareal._run.options import SCHEDULES

Iterations = int | Sequence[int] | Callable[[int], int | Sequence[int]]

WORTHWHILE = 1.05
"""the predicted speed-up from which a parallel solve is advised: below, the prediction's own error may turn it round"""


@final
@dataclass(frozen=True)
class Candidate:
    """One setting, and what it is predicted to take: means over the iterations that solves were found to make."""

    slices: int
    levels: tuple[int, ...] | None
    schedule: str
    window: int | None
    speculate_until: int | None
    max_batch: int | None
    iterations: float
    span: float
    work: float
    calls: float
    wall_time: float


@final
@dataclass(frozen=True)
class Plan:
    """What to do, and what it is predicted to take."""

    slices: int
    """1 where the sequential solve is advised"""
    levels: tuple[int, ...] | None
    schedule: str
    window: int | None
    speculate_until: int | None
    """the iteration from which F waits for the last state to be judged"""
    max_batch: int | None
    iterations: float
    """at the last boundary, the mean"""
    predicted_span: float
    """evaluations on the critical path"""
    predicted_work: float
    """evaluations"""
    predicted_states: int
    """states held at the same time, at most: four for each slice in flight, one for each boundary"""
    predicted_wall_time: float
    """seconds, or the unit of the batch times"""
    predicted_sequential_time: float
    predicted_speedup: float
    """of the best parallel setting, also where it is not advised"""
    worthwhile: bool
    """whether solving in parallel pays"""
    candidates: tuple[Candidate, ...] = field(repr=False)
    """all that were simulated, the fastest first"""

    def explain(self) -> str:
        """Return the advice in words, and the best candidates as a table."""
        best, against = self.candidates[0], f"against {self.predicted_sequential_time:.3g} sequentially"
        setting = f"levels {best.levels}" if best.levels else f"{best.slices} slices, {best.schedule}"
        if self.worthwhile:
            advice = (
                f"Solve in parallel, with {setting}: predicted {best.wall_time:.3g} {against}, "
                f"{self.predicted_speedup:.2f} times as fast."
            )
        else:
            advice = (
                f"Solve sequentially: the best parallel setting, {setting}, is predicted to take {best.wall_time:.3g} "
                f"{against}, and {self.predicted_speedup:.2f} times as fast does not pay."
            )
        return f"{advice}\n\n{self.table()}"

    def table(self, rows: int = 8) -> str:
        """Return the best candidates as a table."""
        options: tuple[str, ...] = ("slices", "schedule", "window", "speculate_until", "max_batch")
        lines: list[tuple[str, ...]] = [(*options, "iterations", "span", "work", "calls", "time", "speed-up")]
        for c in self.candidates[:rows]:
            cells = (c.levels or c.slices, *(getattr(c, name) for name in options[1:]))
            numbers = (f"{c.iterations:.1f}", f"{c.span:.0f}", f"{c.work:.0f}", f"{c.calls:.0f}", f"{c.wall_time:.3g}")
            speedup = f"{self.predicted_sequential_time / c.wall_time:.2f}"
            lines.append((*("-" if x is None else str(x) for x in cells), *numbers, speedup))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )


def plan(
    steps: int,
    *,
    iterations: Iterations,
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
    """Choose slices, schedule and batches for a solve of so many steps, or advise the sequential solve.

    Every candidate is run by `simulate`; the one with the least predicted time wins.

    Args:
        steps: fine steps N.
        iterations: how many a solve makes; or several numbers, as found for several samples, over which times are
            averaged; or a function that says so for a number of slices.
        batch_time: what a call of some rows takes (`BatchTime.measured`), or None for one unit a call.
        slices: numbers to try; by default some around the one of least span.
        levels: nested levels to try, too.
        schedules, windows, max_batches: what to try; by default no bound of a batch, and the size at which a row is
            cheapest.
        samples, devices, message_time, stages, coarse_stages, coarse_steps, shared: as for `simulate`.
        progress: show a bar.

    Raises:
        ValueError, TypeError: for bad input, with a sentence that says what to change.
    """
    whole_number("steps", steps, 1)
    for schedule in schedules:
        one_of("schedules: an entry", schedule, SCHEDULES)
    curve = BatchTime.of(batch_time)

    def made(count: int) -> list[int]:
        found = iterations(count) if callable(iterations) else iterations
        return sorted(whole_number("iterations", n, 0) for n in ([found] if isinstance(found, int) else found))

    counts = _counts(steps, made(max(1, round(steps**0.5)))[-1]) if slices is None else list(slices)
    settings = [
        {"slices": count, "schedule": schedule, "window": window, "speculate_until": speculate_until, "max_batch": most}
        for count in [*counts, *map(tuple, levels)]
        for schedule in schedules
        for window in windows
        for speculate_until in _speculate_until(made(_outermost(count)), schedule, window)
        for most in (_batches(curve, samples) if max_batches is None else max_batches)
    ]
    cost: dict[str, Any] = {
        "devices": devices,
        "batch_time": curve,
        "message_time": message_time,
        "samples": samples,
        "stages": stages,
        "coarse_stages": coarse_stages,
        "coarse_steps": coarse_steps,
        "shared": shared,
    }
    found = []
    for setting in tqdm(settings, desc="plan", unit="setting", disable=not progress):
        numbers = made(_outermost(setting["slices"]))
        runs = {n: _simulated(steps, n, setting, cost) for n in set(numbers)}
        found.append(_candidate(setting, numbers, [runs[n] for n in numbers]))
    alone: dict[str, Any] = {
        "slices": 1,
        "schedule": "pipelined",
        "window": None,
        "speculate_until": None,
        "max_batch": None,
    }
    sequential = _candidate(alone, [0], [simulate(steps, 1, 1, **{**cost, "coarse_stages": 0, "devices": 1})])
    return _plan(sorted(found, key=lambda c: c.wall_time), sequential)


def _outermost(count: int | tuple[int, ...]) -> int:
    return count[0] if isinstance(count, tuple) else count


def _simulated(steps: int, iterations: int, setting: dict[str, Any], cost: dict[str, Any]) -> Simulation:
    options = dict(setting)
    count = options.pop("slices")
    if isinstance(count, tuple):
        return simulate(steps, iterations=iterations, levels=count, **options, **cost)
    # boundaries before the last seldom settle in the iteration in which the last does; with a window they must
    waits = 0 if setting["window"] is not None else 1
    table = [iterations + waits] * (count - 1) + [iterations]
    return simulate(steps, count, table, **options, **cost)


def _candidate(setting: dict[str, Any], numbers: list[int], runs: list[Simulation]) -> Candidate:
    count = setting["slices"]
    levels = count if isinstance(count, tuple) else None
    return Candidate(
        **{**setting, "slices": _outermost(count)},
        levels=levels,
        iterations=fmean(numbers),
        span=fmean(run.stats.span for run in runs),
        work=fmean(run.stats.work for run in runs),
        calls=fmean(run.stats.calls for run in runs),
        wall_time=fmean(run.wall_time for run in runs),
    )


def _plan(found: list[Candidate], sequential: Candidate) -> Plan:
    best = found[0]
    speedup = sequential.wall_time / best.wall_time
    pays = speedup >= WORTHWHILE
    chosen = best if pays else sequential
    flying = chosen.slices if chosen.window is None else min(chosen.window, chosen.slices)
    return Plan(
        slices=chosen.slices,
        levels=chosen.levels,
        schedule=chosen.schedule,
        window=chosen.window,
        speculate_until=chosen.speculate_until,
        max_batch=chosen.max_batch,
        iterations=chosen.iterations,
        predicted_span=chosen.span,
        predicted_work=chosen.work,
        predicted_states=4 * flying + chosen.slices + 1 if pays else 2,
        predicted_wall_time=chosen.wall_time,
        predicted_sequential_time=sequential.wall_time,
        predicted_speedup=speedup,
        worthwhile=pays,
        candidates=tuple(found),
    )


def _counts(steps: int, iterations: int) -> list[int]:
    """Return numbers of slices around sqrt(pN), which has the least span (docs/theory.md, eq. 9)."""
    middle = (max(iterations, 1) * steps) ** 0.5
    around = (round(middle * factor) for factor in (0.35, 0.5, 0.7, 1.0, 1.4, 2.0))
    return sorted({count for count in around if 1 < count < steps} or {min(2, steps)})


def _speculate_until(iterations: list[int], schedule: str, window: int | None) -> list[int | None]:
    """Return where F might begin to wait: not at all, or from an iteration on that may be the last."""
    if schedule == "synchronous" or window is not None:
        return [None]
    return [None, *sorted(set(iterations))]


def _batches(curve: BatchTime, samples: int) -> list[int | None]:
    """Return bounds of a batch: none, and where a row is cheapest, for beyond that more rows only wait longer."""
    cheapest = min(curve.rows, key=lambda rows: curve(rows) / rows)
    return [None, cheapest] if samples < cheapest < curve.rows[-1] else [None]
