"""`simulate`: the engine itself, run on a virtual clock, to predict the cost of a solve on other machines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from parareal._checks import one_of, resolve_renamed, whole_number
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
    """The simulated cost of a solve. Times are in the unit of `batch_time`."""

    wall_time: float
    """time from the start to the last result"""
    sequential_time: float
    """time of the sequential solve on one device"""
    devices: int
    """number of devices"""
    busy: float
    """mean fraction of the time during which a device computes"""
    stats: Stats
    """work, span, calls and peak batch, counted by the engine; its `wall_time` is the simulated one"""

    @property
    def speedup(self) -> float:
        """Sequential time divided by wall time; infinite if the solve takes no time."""
        return self.sequential_time / self.wall_time if self.wall_time else float("inf")

    @property
    def efficiency(self) -> float:
        """Speed-up divided by the number of devices."""
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
    """Predict time, work and span of a solve with steppers, on one device or several, without running a propagator.

    The engine itself runs, on a virtual clock, with a small chaotic problem in place of the user's. So all counts are
    those of a real solve; for a fixed number of iterations they obey docs/explained/theory.md, eq. 9 to 13. Slices are
    assigned to devices in turn, and each device makes batched calls of the rows that wait there.

    Args:
        steps: fine steps N.
        slices: number of slices. Pass exactly one of `slices`, `levels` and `boundaries`.
        iterations: number of iterations; or one number per slice, the iteration in which its right boundary settles
            (as `Solution.slice_iterations`). Slices may then do speculative work that is discarded.
        levels: numbers of slices of nested levels, outermost first.
        boundaries: nodes that bound the slices, from 0 to N.
        devices: number of devices P; None for one per slice of the innermost level.
        batch_time: seconds of a call by its rows, on each device: a `BatchTime`, or a mapping from rows to seconds.
            None for one second per call whatever its rows; without `max_batch`, the wall time is then the span.
        message_time: seconds until a state arrives at another device.
        stages: evaluations of one fine step.
        coarse_stages: evaluations of one coarse step, 0 or more.
        coarse_steps: coarse steps per slice.
        shared: whether F and G share the evaluation at the start of a slice.
        samples: samples solved at the same time.
        schedule: `"pipelined"` or `"synchronous"`, as for `solve`.
        window: the largest number of slices under way at a time, as for `solve`; None for no bound.
        speculate_until: iteration from which fine propagations wait for the final state, as for `solve`.
        max_batch: largest number of rows of a call, on each device; None for no bound.
        eager: deprecated name of `speculate_until`.

    Returns:
        The predicted times and counts.

    Raises:
        ValueError, TypeError: for invalid arguments; the message says what to change.

    Examples:
        >>> import parareal
        >>> predicted = parareal.simulate(100, 10, iterations=2)
        >>> predicted.stats.span, round(predicted.speedup, 2)
        (28, 3.57)
    """
    _check_arguments(steps, samples, stages, coarse_stages, coarse_steps, schedule, message_time)
    curve, nodes = BatchTime.of(batch_time), _list_nodes(steps, slices, levels, boundaries)
    counts = [len(nodes) - 1] if levels is None else [int(n) for n in levels]
    devices = int(np.prod(counts)) if devices is None else whole_number("devices", devices, 1)
    # The engine shares evaluations of steppers whose `evaluate` is one object. Without sharing there are two objects,
    # which record in the same list, because the clock needs the rows of all calls.
    meter = Meter(_evaluate)
    fine = Steps(_Chaotic(meter, 37.0, stages))
    coarse_meter = meter if shared else Meter(_evaluate, meter.rows)
    coarse = Steps(_Chaotic(coarse_meter, 53.0, coarse_stages), coarse_steps)
    problem = Problem.create(fine, coarse, np.linspace(0.1, 0.9, samples)[:, None], nodes, 1, levels=levels)
    executor = ClusterExecutor(devices, curve, message_time, max_batch, counts, meter)
    until = resolve_renamed("eager", eager, "speculate_until", speculate_until)
    criterion = _make_criterion(iterations, counts[0])
    options = Options(criterion=criterion, schedule=schedule, executor=executor, window=window, speculate_until=until)
    stats, busy = _run_on_clock(problem, options, executor)
    sequential_time = steps * stages * _evaluation_time(curve, samples, max_batch)
    return Simulation(stats.wall_time, sequential_time, devices, busy, stats)


def _check_arguments(
    steps: int,
    samples: int,
    stages: int,
    coarse_stages: int,
    coarse_steps: int,
    schedule: str,
    message_time: float,
) -> None:
    """Raise `ValueError` for counts, times and names that are out of range."""
    for name, number in {"steps": steps, "samples": samples, "stages": stages, "coarse_steps": coarse_steps}.items():
        whole_number(name, number, 1)
    whole_number("coarse_stages", coarse_stages, 0)
    one_of("schedule", schedule, SCHEDULES)
    if not message_time >= 0:
        raise ValueError(f"message_time must be seconds, 0 or more, but was {message_time}")


def _run_on_clock(problem: Problem, options: Options, executor: ClusterExecutor) -> tuple[Stats, float]:
    """Run a solve on virtual devices; return its statistics, with virtual time, and the mean fraction of busy time."""
    run = Run(problem, options)
    for _ in run.iterations():
        pass
    if run.error is not None:
        raise run.error  # a fault of the simulation itself, since no propagator of the user runs
    cluster = executor.cluster
    assert cluster is not None
    total = len(cluster.devices) * cluster.now
    # without evaluations no time passes
    busy = sum(device.seconds for device in cluster.devices) / total if total else 0.0
    return replace(run.solution().stats, wall_time=cluster.now), busy


def _evaluation_time(curve: BatchTime, samples: int, max_batch: int | None) -> float:
    """Return the seconds of one evaluation of every sample, in calls of at most `max_batch` rows."""
    rows = samples if max_batch is None else min(max_batch, samples)
    calls, rest = divmod(samples, rows)
    return calls * curve(rows) + (curve(rest) if rest else 0.0)


def _list_nodes(
    steps: int, slices: int | None, levels: Sequence[int] | None, boundaries: Sequence[int] | None
) -> list[int]:
    """Return the nodes that bound the slices; with nested levels the two ends, which `Problem.create` divides.

    Raises:
        ValueError: unless exactly one of `slices`, `levels` and `boundaries` is passed and valid.
    """
    if sum(x is not None for x in (slices, levels, boundaries)) != 1:
        raise ValueError(
            "pass exactly one of slices, levels and boundaries, but they were "
            f"slices={slices}, levels={levels}, boundaries={boundaries}"
        )
    if levels is not None:
        return [0, steps]
    if boundaries is not None:
        nodes = [whole_number("boundaries: a node", n, 0) for n in boundaries]
        if len(nodes) < 2 or nodes[0] != 0 or nodes[-1] != steps:
            raise ValueError(f"boundaries must begin with 0 and end with {steps}, but were {list(boundaries)}")
        return nodes
    count = whole_number("slices", slices, 1)
    if count > steps:
        raise ValueError(f"slices must be at most the {steps} steps, but was {count}")
    return divide(0, steps, count, whole=True)


def _make_criterion(iterations: int | Sequence[int], slices: int) -> AbstractCriterion:
    """Return the criterion that stops a solve after the given iterations; arguments as for `simulate`."""
    if isinstance(iterations, Sequence | np.ndarray):
        table = [whole_number("iterations: the number of a slice", int(n), 0) for n in iterations]
        if len(table) != slices:
            raise ValueError(
                f"iterations has {len(table)} numbers for {slices} slices: pass one per slice, or a single number"
            )
        return _PrescribedIterations(tuple(table))
    return Iterations(whole_number("iterations", iterations, 0))


@final
@dataclass(frozen=True)
class _PrescribedIterations(AbstractCriterion):
    """Accept the right boundary of each slice from a prescribed iteration on; accepting the last stops the solve."""

    # so that accepting the last boundary stops the solve although others have not settled
    cumulative: ClassVar[bool] = True
    table: tuple[int, ...]
    """iteration per slice"""

    def accepts(self, evidence: Evidence) -> bool:
        """Return whether the boundary's iteration has been reached."""
        return evidence.iteration >= self.table[evidence.boundary - 1]


def _evaluate(state: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the right-hand side of the chaotic problem."""
    return np.sin(29.0 * state + where[:, None])


@final
class _Chaotic(Stepper):
    """A chaotic, bounded map in place of the user's method.

    The engine skips work where two iterates agree bitwise. Iterates of this map practically never do, so every count is
    that of the general case, and only the criterion ends the solve. F and G differ by their `factor`.
    """

    def __init__(self, evaluate: Any, factor: float, stages: int):
        self.evaluate, self.factor, self.stages = evaluate, factor, stages

    def step(self, state: np.ndarray, memory: None, start: np.ndarray, stop: np.ndarray) -> Any:  # pyright: ignore
        """Advance every row by one step, with `stages` evaluations."""
        # without an evaluation, as for Picard's G, the state must change all the same
        new = np.sin(self.factor * state + stop[:, None])
        for stage in range(self.stages):
            value = yield (new if stage else state), start  # only the first stage can be shared between F and G
            new = np.sin(self.factor * state + value)
        return new, None
