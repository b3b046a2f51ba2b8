"""The record of a solve: increments and defects, and every propagation."""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from parareal._iteration.messages import Correction, Delivery


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


@dataclass(slots=True)
class History:
    """The record of one solve over `boundaries` boundaries and `samples` samples."""

    boundaries: int
    samples: int
    propagations: list[Propagation] = field(default_factory=list)
    _increments: list[np.ndarray] = field(default_factory=list)
    _defects: list[np.ndarray] = field(default_factory=list)

    def propagated(self, results: list[Delivery], origin: float) -> None:
        """Record finished propagations; `origin` is when the solve began."""
        now = time.perf_counter() - origin
        for request, result, began in results:
            start = request.value.depth
            names = (request.sample, request.slice, request.iteration, request.kind.value)
            clock = (start, start + result.cost, began - origin, now)
            self.propagations.append(Propagation(*names, *clock, request.level, request.start, request.stop))

    def corrected(self, correction: Correction) -> None:
        """Record the increment of an iteration, and the defect of the iteration before it."""
        sample, boundary, iteration, increment, defect = correction
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
