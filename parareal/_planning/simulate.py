"""Simulated solves: the engine itself, run on a virtual clock, to predict costs on other machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from parareal._checks import one_of, renamed, whole_number
from parareal._criteria import AbstractCriterion, Evidence, Iterations
from parareal._planning.batch_time import BatchTime
from parareal._planning.virtual_devices import ClusterExecutor, Meter
from parareal._problem.boundaries import divide
from parareal._problem.problem import Problem
from parareal._problem.propagators import Stepper, Steps
from parareal._results.solution import Stats
from parareal._run.loop import Run
from parareal._run.options import SCHEDULES, Options


@final
@dataclass(frozen=True)
class Simulation:
    """The simulated cost of a solve; times in the unit of `batch_time`."""

    wall_time: float
    """from the start to the last result"""
    sequential_time: float
    """of the sequential solve on one device"""
    devices: int
    busy: float
    """the mean share of the time that a device computes"""
    stats: Stats
    """work, span, calls and peak batch as the engine counts them; its wall time is that of this simulation"""

    @property
    def speedup(self) -> float:
        """The time of the sequential solve over that of this one; infinite where this one takes none."""
        return self.sequential_time / self.wall_time if self.wall_time else float("inf")

    @property
    def efficiency(self) -> float:
        """Speed-up per device."""
        return self.speedup / self.devices


def simulate(
    steps: int,
    slices: int | None = None,
    iterations: int | Sequence[int] = 1,
    *,
    levels: Sequence[int] | None = None,
    boundaries: Sequence[int] | None = None,
    devices: int | None = 1,
    batch_time: BatchTime | Mapping[int, float] | None = None,
    message_time: float = 0.0,
    stages: int = 1,
    coarse_stages: int = 1,
    coarse_steps: int = 1,
    shared: bool = True,
    samples: int = 1,
    schedule: str = "pipelined",
    window: int | None = None,
    speculate_until: int | None = None,
    max_batch: int | None = None,
    eager: int | None = None,
) -> Simulation:
    """Predict a solve's time, work and span, on one device or many.

    The engine itself runs on a virtual clock, with a small problem that never converges by itself: so counts are the
    engine's own, and for a fixed number of iterations those of docs/explained/theory.md, eq. 9 to 13. Devices are dealt the
    slices in turn; each makes batched calls of the rows that wait there, as one real device does.

    Args:
        steps: fine steps N.
        slices: number of slices; or `levels`, nested, outermost first; or `boundaries`, nodes from 0 to N.
        iterations: the number made; or one number per slice, in which it settles (`Solution.slice_iterations`):
            earlier slices may then do work that is later discarded.
        devices: P; None for as many as there are slices.
        batch_time: seconds of a call by its rows: a `BatchTime`, a mapping from rows to seconds, or None for one
            second per call whatever its rows, with which a wall time is a span.
        message_time: seconds for a state to reach another device.
        stages, coarse_stages, coarse_steps: evaluations of a fine and of a coarse step, and coarse steps of a slice.
        shared: whether F and G share the evaluation at the start of a slice.
        samples: solved at the same time.
        schedule, window, speculate_until, max_batch, eager: as for `solve`; `max_batch` is a device's.

    Raises:
        ValueError, TypeError: for bad input, with a sentence that says what to change.
    """
    _check(steps, samples, stages, coarse_stages, coarse_steps, schedule, message_time)
    curve, nodes = BatchTime.of(batch_time), _nodes(steps, slices, levels, boundaries)
    counts = [len(nodes) - 1] if levels is None else [int(n) for n in levels]
    devices = int(np.prod(counts)) if devices is None else whole_number("devices", devices, 1)
    meter = Meter(_evaluated)
    fine = Steps(_Chaotic(meter, 37.0, stages))
    coarse_meter = meter if shared else Meter(_evaluated, meter.rows)
    coarse = Steps(_Chaotic(coarse_meter, 53.0, coarse_stages), coarse_steps)
    problem = Problem.checked(fine, coarse, np.linspace(0.1, 0.9, samples)[:, None], nodes, 1, levels=levels)
    executor = ClusterExecutor(devices, curve, message_time, max_batch, counts, meter)
    until = renamed("eager", eager, "speculate_until", speculate_until)
    criterion = _criterion(iterations, counts[0])
    options = Options(criterion=criterion, schedule=schedule, executor=executor, window=window, speculate_until=until)
    stats, busy = _run(problem, options, executor)
    sequential_time = steps * stages * _sequential(curve, samples, max_batch)
    return Simulation(stats.wall_time, sequential_time, devices, busy, stats)


def _check(
    steps: int,
    samples: int,
    stages: int,
    coarse_stages: int,
    coarse_steps: int,
    schedule: str,
    message_time: float,
) -> None:
    for name, number in {"steps": steps, "samples": samples, "stages": stages, "coarse_steps": coarse_steps}.items():
        whole_number(name, number, 1)
    whole_number("coarse_stages", coarse_stages, 0)
    one_of("schedule", schedule, SCHEDULES)
    if not message_time >= 0:
        raise ValueError(f"message_time must be seconds, 0 or more, got {message_time}")


def _run(problem: Problem, options: Options, executor: ClusterExecutor) -> tuple[Stats, float]:
    """Return the counts of a run, its wall time that of the virtual clock, and the mean share of busy time."""
    run = Run(problem, options)
    for _ in run.iterations():
        pass
    if run.error is not None:
        raise run.error
    cluster = executor.cluster
    assert cluster is not None
    total = len(cluster.devices) * cluster.now
    busy = sum(device.seconds for device in cluster.devices) / total if total else 0.0  # no evaluation, no time
    return replace(run.solution().stats, wall_time=cluster.now), busy


def _sequential(curve: BatchTime, samples: int, most: int | None) -> float:
    """Return the seconds that all samples take for one evaluation each."""
    most = samples if most is None else min(most, samples)
    whole, rest = divmod(samples, most)
    return whole * curve(most) + (curve(rest) if rest else 0.0)


def _nodes(steps: int, slices: int | None, levels: Sequence[int] | None, boundaries: Sequence[int] | None) -> list[int]:
    given = [x is not None for x in (slices, levels, boundaries)]
    if sum(given) != 1:
        raise ValueError("give one of slices, levels and boundaries")
    if levels is not None:
        return [0, steps]
    if boundaries is not None:
        nodes = [whole_number("boundaries: a node", n, 0) for n in boundaries]
        if len(nodes) < 2 or nodes[0] != 0 or nodes[-1] != steps:
            raise ValueError(f"boundaries must begin with 0 and end with {steps}, got {list(boundaries)}")
        return nodes
    count = whole_number("slices", slices, 1)
    if count > steps:
        raise ValueError(f"slices must be at most the {steps} steps, got {count}")
    return divide(0, steps, count, whole=True)


def _criterion(iterations: int | Sequence[int], slices: int) -> AbstractCriterion:
    if isinstance(iterations, Sequence | np.ndarray):
        table = [whole_number("iterations: the number of a slice", int(n), 0) for n in iterations]
        if len(table) != slices:
            raise ValueError(f"iterations has {len(table)} numbers for {slices} slices: give one for each, or a number")
        return _Scripted(tuple(table))
    return Iterations(whole_number("iterations", iterations, 0))


@final
@dataclass(frozen=True)
class _Scripted(AbstractCriterion):
    """Accept the end of each slice in the iteration that is written down for it; the last one stops the solve."""

    cumulative: ClassVar[bool] = True
    table: tuple[int, ...]

    def accepts(self, evidence: Evidence) -> bool:
        """Look it up."""
        return evidence.iteration >= self.table[evidence.boundary - 1]


def _evaluated(state: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.sin(29.0 * state + where[:, None])


@final
class _Chaotic(Stepper):
    """A map without meaning whose iterates stay bounded and never agree: a solve ends when it is told to."""

    def __init__(self, evaluate: Any, factor: float, stages: int):
        self.evaluate, self.factor, self.stages = evaluate, factor, stages

    def step(self, state: np.ndarray, memory: None, start: np.ndarray, stop: np.ndarray) -> Any:  # pyright: ignore
        """Advance every row by one step."""
        new = np.sin(self.factor * state + stop[:, None])
        for stage in range(self.stages):
            value = yield (new if stage else state), start
            new = np.sin(self.factor * state + value)
        return new, None
