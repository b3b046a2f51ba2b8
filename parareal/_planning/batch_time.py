"""The batch-time curve of a machine: the time of a batched call by its number of rows."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from parareal._checks import RenamedAttribute, whole_number

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""numbers of rows that are timed by default; closer together where curves bend most"""


@final
@dataclass(frozen=True)
class BatchTime:
    """The seconds that a batched call takes, as a function of its number of rows.

    Called with a number of rows, it returns seconds: interpolated linearly between the measured sizes, and extrapolated
    by the slope between the last two beyond them.

    Args:
        rows: measured numbers of rows, positive and rising.
        seconds: seconds of one call with each number of rows, positive.

    Raises:
        ValueError: if the two differ in length, hold a number that is not positive, or `rows` does not rise.

    Examples:
        >>> import parareal
        >>> curve = parareal.BatchTime((1, 8), (1.0, 1.7))
        >>> curve(2)
        1.1
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.seconds):
            raise ValueError(
                "rows and seconds must have the same length, 1 or more, but have "
                f"{len(self.rows)} and {len(self.seconds)}"
            )
        if self.rows[0] < 1 or any(b <= a for a, b in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError(f"rows must be at least 1 and strictly rising, but were {self.rows}")
        if not min(self.seconds) > 0:
            raise ValueError(f"seconds must be positive, but were {self.seconds}")

    @staticmethod
    def of(curve: "BatchTime | Mapping[int, float] | None") -> "BatchTime":
        """Return a `BatchTime` from one of its forms.

        Args:
            curve: a `BatchTime`, returned unchanged; a mapping from rows to seconds; or None for one second per call
                whatever its rows.

        Raises:
            TypeError: for anything else.
            ValueError: for a mapping whose numbers `BatchTime` refuses.
        """
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

    measured = RenamedAttribute("measured", "measure")

    @staticmethod
    def measure(
        call: Callable[[int], None], *, sizes: Sequence[int] = SIZES, seconds: float = 3.0, max_rows: int | None = None
    ) -> "BatchTime":
        """Measure a curve: time `call(rows)` for several numbers of rows, and return the medians.

        Sizes are timed in turn, in several rounds, so that a slow moment of the machine does not affect one size
        alone. A size whose call takes longer than a fifth of `seconds` is the last one timed.

        Args:
            call: makes one call with a number of rows, and returns when the call has ended (synchronize a GPU). Its
                exceptions are passed on.
            sizes: numbers of rows, rising.
            seconds: the time to spend, approximately.
            max_rows: the largest number of rows that may be called, which is timed, too, unless it exceeds all `sizes`;
                None for no bound.

        Raises:
            ValueError: if `max_rows` is not a whole number of at least 1, or `sizes` is empty.
        """
        if not len(sizes):
            raise ValueError("sizes must have at least one number of rows, but was empty")
        if max_rows is not None:
            whole_number("max_rows", max_rows, 1)
            # the bound itself is timed, so that no allowed number of rows is extrapolated
            sizes = [*(rows for rows in sizes if rows < max_rows), *([max_rows] if max_rows <= max(sizes) else [])]
        start_time = time.perf_counter()
        timings: dict[int, list[float]] = {}
        for rows in sizes:
            call(rows)  # not timed: the first call of a shape allocates memory and may compile
            timings[rows] = [_time_call(call, rows)]
            # two sizes at least, because one gives no slope
            if len(timings) > 1 and timings[rows][0] > seconds / 5:
                break
        while time.perf_counter() - start_time < seconds and len(timings[sizes[0]]) < 15:
            for rows, times in timings.items():
                times.append(_time_call(call, rows))
        medians = [statistics.median(times) for times in timings.values()]
        return BatchTime(tuple(timings), tuple(medians))

    def __call__(self, rows: int) -> float:
        """Return the seconds of a call with `rows` rows."""
        if len(self.rows) > 1 and rows > self.rows[-1]:
            slope = (self.seconds[-1] - self.seconds[-2]) / (self.rows[-1] - self.rows[-2])
            return self.seconds[-1] + max(slope, 0.0) * (rows - self.rows[-1])  # a falling slope is noise
        return float(np.interp(rows, self.rows, self.seconds))


def _time_call(call: Callable[[int], None], rows: int) -> float:
    """Return the seconds of one call."""
    start_time = time.perf_counter()
    call(rows)
    return time.perf_counter() - start_time
