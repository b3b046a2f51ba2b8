"""The record of a solve: increments, defects, and every propagation."""

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final, overload

import numpy as np

from parareal._checks import RenamedAttribute
from parareal._iteration.messages import Delivery, Kind, UpdateRecord


class Propagation(NamedTuple):
    """One finished propagation of F or G across one slice, as timelines and traces show it."""

    sample: int
    """index of the sample"""
    slice: int
    """index of the slice among those of its own level"""
    iteration: int
    """iteration of its own level; 0 starts from the prediction"""
    kind: str
    """`"fine"` or `"coarse"`"""
    start: float
    """evaluations on the critical path before it, with unlimited devices"""
    stop: float
    """`start` plus the evaluations that it takes"""
    start_time: float
    """start time, in seconds since the start of the solve"""
    end_time: float
    """end time, in seconds since the start of the solve"""
    level: int
    """0 for the outermost of nested levels"""
    t0: float
    """left boundary of the slice"""
    t1: float
    """right boundary of the slice"""

    began = RenamedAttribute("began", "start_time")
    ended = RenamedAttribute("ended", "end_time")


@final
class Propagations(Sequence[Propagation]):
    """All propagations of a solve, in the order in which they ended.

    A solve has tens of thousands of them, and few callers read any. So they are stored as plain numbers, and the
    `Propagation` objects are built when they are read.
    """

    def __init__(self) -> None:
        self._numbers = array("d")  # `_WIDTH` numbers per propagation

    def record(self, delivery: Delivery, origin: float, end_time: float) -> None:
        """Add a finished propagation.

        Args:
            delivery: the request, its result and its start time.
            origin: start time of the solve, in seconds of `time.perf_counter`.
            end_time: end time of the propagation, in seconds since `origin`.
        """
        request, result, start_time = delivery
        # reading `request.level` follows the chain of outer requests; without nesting the answer is known
        start, level = request.value.depth, 0 if request.outer is None else request.level
        self._numbers.extend(
            (
                request.sample,
                request.slice,
                request.iteration,
                request.kind is Kind.FINE,
                start,
                start + result.cost,
                start_time - origin,
                end_time,
                level,
                float(request.start),
                float(request.stop),
            )
        )

    def __len__(self) -> int:
        return len(self._numbers) // _WIDTH

    @overload
    def __getitem__(self, index: int) -> Propagation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Propagation]: ...
    def __getitem__(self, index: int | slice) -> Propagation | list[Propagation]:
        """Build one propagation, or a list of them for a slice of indices."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        # indexing a range resolves negative indices, and raises `IndexError`, which iteration over a sequence needs
        first = range(len(self))[index] * _WIDTH
        row = self._numbers[first : first + _WIDTH]
        sample, number, iteration, fine, start, stop, start_time, end_time, level, t0, t1 = row
        names = int(sample), int(number), int(iteration), (Kind.FINE if fine else Kind.COARSE).value
        return Propagation(*names, start, stop, start_time, end_time, int(level), t0, t1)


_WIDTH = len(Propagation._fields)


@final
@dataclass(slots=True)
class History:
    """The record of one solve: tables of increments and defects that grow with the iterations, and the propagations."""

    boundaries: int
    """number of boundaries, the first included"""
    samples: int
    """number of samples"""
    propagations: Propagations = field(default_factory=Propagations)
    _increments: list[np.ndarray] = field(default_factory=list)
    _defects: list[np.ndarray] = field(default_factory=list)

    def record_propagations(self, results: list[Delivery], origin: float) -> None:
        """Record propagations that have just finished; `origin` is the start time of the solve."""
        now = time.perf_counter() - origin
        for delivery in results:
            self.propagations.record(delivery, origin, now)

    def record_update(self, record: UpdateRecord) -> None:
        """Record the increment of an iteration, and the defect of the iteration before it."""
        sample, boundary, iteration, increment, defect = record
        # samples advance at different speeds, so the first one to reach an iteration adds its tables
        while len(self._increments) <= iteration:
            for table in (self._increments, self._defects):
                table.append(np.full((self.boundaries, self.samples), np.nan))
        self._increments[iteration][boundary, sample] = increment
        # an update computes the residual of the iterate that it replaces
        self._defects[iteration - 1][boundary, sample] = defect

    def tables(self, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the increments and the defects up to an iteration, NaN where none was computed.

        Each has shape (iterations + 1, boundaries, samples).
        """
        empty = np.full((self.boundaries, self.samples), np.nan)

        def pad(table: list[np.ndarray]) -> np.ndarray:
            return np.stack([*table, *[empty] * (iterations + 1)][: iterations + 1])

        return pad(self._increments), pad(self._defects)

    def increments(self, iteration: int) -> np.ndarray:
        """Return the increments of one iteration, shape (boundaries, samples), NaN where none was computed."""
        rows = self._increments[iteration : iteration + 1]
        # a copy: later updates of the same iteration must not change what a caller has received
        return rows[0].copy() if rows else np.full((self.boundaries, self.samples), np.nan)

    def worst_increment(self, iteration: int) -> float:
        """Return the largest increment of an iteration so far; NaN if it has none yet."""
        if iteration >= len(self._increments) or np.isnan(self._increments[iteration]).all():
            return float("nan")  # `nanmax` of nothing would warn
        return float(np.nanmax(self._increments[iteration]))
