"""The time of a batched call by its number of rows: the one thing that a prediction must know of a machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from parareal._checks import whole_number

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@final
@dataclass(frozen=True)
class BatchTime:
    """Seconds of a call by its rows, linear between the sizes measured and beyond the last two.

    Args:
        rows: the sizes measured, rising.
        seconds: of a call of each.

    Raises:
        ValueError: if the two are not of one length, or not positive, or the sizes do not rise.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.seconds):
            raise ValueError(f"give as many seconds as batch sizes, got {len(self.seconds)} for {len(self.rows)}")
        if self.rows[0] < 1 or any(b <= a for a, b in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError(f"batch sizes must be positive and rise, got {self.rows}")
        if not min(self.seconds) > 0:
            raise ValueError(f"the seconds of a call must be positive, got {self.seconds}")

    @staticmethod
    def of(curve: "BatchTime | Mapping[int, float] | None") -> "BatchTime":
        """Return a curve as it is, from pairs of rows and seconds, or, for None, one second for any number of rows."""
        if curve is None:
            return BatchTime((1,), (1.0,))
        if isinstance(curve, BatchTime):
            return curve
        if not isinstance(curve, Mapping):
            raise TypeError(
                f"batch_time must be a BatchTime, a mapping from rows to seconds, or None, not {type(curve).__name__}"
            )
        pairs = sorted(curve.items())
        return BatchTime(tuple(int(rows) for rows, _ in pairs), tuple(float(seconds) for _, seconds in pairs))

    @staticmethod
    def measured(
        call: Callable[[int], None], *, sizes: Sequence[int] = SIZES, seconds: float = 3.0, most: int | None = None
    ) -> "BatchTime":
        """Time `call(rows)`: medians over rounds of all sizes in turn.

        Sizes that take longer than a fifth of the time are left out; the curve goes on beyond the last as between the
        last two.

        Args:
            call: makes a call of a number of rows, and returns when it is done. Its errors are passed on.
            sizes: numbers of rows, rising.
            seconds: to measure for, at most.
            most: the largest number of rows that may be called, itself timed too; None for no bound.

        Raises:
            ValueError: if `most` is no positive whole number.
        """
        if most is not None:
            whole_number("most", most, 1)
            sizes = [*(rows for rows in sizes if rows < most), *([most] if most <= max(sizes) else [])]
        began = time.perf_counter()
        taken: dict[int, list[float]] = {}
        for rows in sizes:
            call(rows)  # the first call of a shape allocates and compiles
            taken[rows] = [_seconds(call, rows)]
            if len(taken) > 1 and taken[rows][0] > seconds / 5:
                break
        while time.perf_counter() - began < seconds and len(taken[sizes[0]]) < 15:
            for rows, times in taken.items():
                times.append(_seconds(call, rows))
        medians = [statistics.median(times) for times in taken.values()]
        return BatchTime(tuple(taken), tuple(medians))

    def __call__(self, rows: int) -> float:
        """Return the seconds of a call."""
        if len(self.rows) > 1 and rows > self.rows[-1]:
            slope = (self.seconds[-1] - self.seconds[-2]) / (self.rows[-1] - self.rows[-2])
            return self.seconds[-1] + max(slope, 0.0) * (rows - self.rows[-1])
        return float(np.interp(rows, self.rows, self.seconds))


def _seconds(call: Callable[[int], None], rows: int) -> float:
    began = time.perf_counter()
    call(rows)
    return time.perf_counter() - began
