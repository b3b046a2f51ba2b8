"""The record of a solve: increments and defects, and every propagation."""

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final, overload

import numpy as np

from parareal._iteration.messages import Delivery, Kind, UpdateRecord


class Propagation(NamedTuple):
    """One finished propagation, for timelines.

    `start` and `stop` count evaluations on the critical path with unlimited devices; `began` and `ended` are
    seconds since the solve began. `level` is 0 for the outermost of nested levels; `slice` and `iteration` are those
    of its own level, `t0` and `t1` the slice's boundaries.
    """

    sample: int
    slice: int
    iteration: int
    kind: str
    """`"fine"` or `"coarse"`"""
    start: float
    stop: float
    began: float
    ended: float
    level: int
    t0: float
    t1: float


@final
class Propagations(Sequence[Propagation]):
    """All propagations of a solve in the order in which they ended.

    They are kept as numbers and made when read: a solve has tens of thousands, and few of its callers look at them.
    """

    def __init__(self) -> None:
        self._numbers = array("d")

    def record(self, delivery: Delivery, origin: float, ended: float) -> None:
        """Add a finished propagation; `origin` is when the solve began."""
        request, result, began = delivery
        start, level = request.value.depth, 0 if request.outer is None else request.level
        self._numbers.extend(
            (
                request.sample,
                request.slice,
                request.iteration,
                request.kind is Kind.FINE,
                start,
                start + result.cost,
                began - origin,
                ended,
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
        """Return one propagation, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index] * _WIDTH
        sample, number, iteration, fine, start, stop, began, ended, level, t0, t1 = self._numbers[at : at + _WIDTH]
        names = int(sample), int(number), int(iteration), (Kind.FINE if fine else Kind.COARSE).value
        return Propagation(*names, start, stop, began, ended, int(level), t0, t1)


_WIDTH = len(Propagation._fields)


@final
@dataclass(slots=True)
class History:
    """The record of one solve over `boundaries` boundaries and `samples` samples."""

    boundaries: int
    samples: int
    propagations: Propagations = field(default_factory=Propagations)
    _increments: list[np.ndarray] = field(default_factory=list)
    _defects: list[np.ndarray] = field(default_factory=list)

    def propagated(self, results: list[Delivery], origin: float) -> None:
        """Record finished propagations; `origin` is when the solve began."""
        now = time.perf_counter() - origin
        for delivery in results:
            self.propagations.record(delivery, origin, now)

    def updated(self, record: UpdateRecord) -> None:
        """Record the increment of an iteration, and the defect of the iteration before it."""
        sample, boundary, iteration, increment, defect = record
        while len(self._increments) <= iteration:
            for table in (self._increments, self._defects):
                table.append(np.full((self.boundaries, self.samples), np.nan))
        self._increments[iteration][boundary, sample] = increment
        self._defects[iteration - 1][boundary, sample] = defect

    def tables(self, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Return increments and defects, each of shape (iterations + 1, boundaries, samples), NaN where not made."""
        empty = np.full((self.boundaries, self.samples), np.nan)

        def padded(table: list[np.ndarray]) -> np.ndarray:
            return np.stack([*table, *[empty] * (iterations + 1)][: iterations + 1])

        return padded(self._increments), padded(self._defects)

    def increments(self, iteration: int) -> np.ndarray:
        """Return the increments of one iteration, shape (boundaries, samples), NaN where not made."""
        made = self._increments[iteration : iteration + 1]
        return made[0].copy() if made else np.full((self.boundaries, self.samples), np.nan)

    def worst_increment(self, iteration: int) -> float:
        """Return the largest increment that an iteration has made so far; NaN where it has made none."""
        if iteration >= len(self._increments) or np.isnan(self._increments[iteration]).all():
            return float("nan")
        return float(np.nanmax(self._increments[iteration]))
