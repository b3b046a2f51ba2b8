"""Candidate settings, and the plan that is decided among them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from parareal._corrections.correction import AbstractCorrection

WORTHWHILE = 1.1
"""The predicted speed-up from which a parallel solve is advised.

Predicted times are too short by 12 % in the median (docs/how-to/plan.md), and 1.1 * 0.88 = 0.97: a solve at this threshold
is then hardly slower than the sequential one, as `"auto"` promises. A smaller gain is not worth that risk.
"""


@final
@dataclass(frozen=True)
class Candidate:
    """One setting, and its predicted cost: means over the iterations that solves were found to make."""

    slices: int
    """1 for the sequential solve"""
    iterations: float
    """at the last boundary"""
    span: float
    """evaluations on the critical path"""
    work: float
    """evaluations"""
    calls: float
    wall_time: float
    """seconds, or the unit of the batch times"""
    levels: tuple[int, ...] | None = None
    correction: AbstractCorrection | None = None
    """None for the coarse difference, the only one tried today"""
    schedule: str = "pipelined"
    window: int | None = None
    speculate_until: int | None = None
    """the iteration from which F waits for the last state to be judged"""
    max_batch: int | None = None

    def speedup(self, sequential: "Candidate") -> float:
        """Return how many times as fast as the sequential solve this is."""
        return sequential.wall_time / self.wall_time if self.wall_time else float("inf")


@final
@dataclass(frozen=True)
class Plan:
    """The advice for one kind of problem: the best parallel setting, or the sequential solve."""

    best: Candidate
    """the fastest parallel setting, also where it is not advised; the sequential solve where there was none to try"""
    sequential: Candidate
    candidates: tuple[Candidate, ...] = field(repr=False)
    """all that were predicted, the fastest first"""

    @staticmethod
    def of(candidates: Iterable[Candidate], sequential: Candidate) -> "Plan":
        """Return the plan that follows from predictions."""
        ranked = tuple(sorted(candidates, key=lambda c: c.wall_time))
        return Plan(ranked[0] if ranked else sequential, sequential, ranked)

    @property
    def predicted_speedup(self) -> float:
        """The speed-up of the best parallel setting, also where it is not advised."""
        return self.best.speedup(self.sequential)

    @property
    def worthwhile(self) -> bool:
        """The one decision rule: the best parallel setting is predicted to be `WORTHWHILE` times as fast, or more."""
        return bool(self.candidates) and self.predicted_speedup >= WORTHWHILE

    @property
    def advised(self) -> Candidate:
        """The setting to solve with."""
        return self.best if self.worthwhile else self.sequential

    @property
    def slices(self) -> int:
        """The number of slices; 1 where the sequential solve is advised."""
        return self.advised.slices

    @property
    def levels(self) -> tuple[int, ...] | None:
        """Numbers of slices of nested levels, or None."""
        return self.advised.levels

    @property
    def correction(self) -> AbstractCorrection | None:
        """The correction; None for the coarse difference."""
        return self.advised.correction

    @property
    def schedule(self) -> str:
        """The schedule."""
        return self.advised.schedule

    @property
    def window(self) -> int | None:
        """The window, or None."""
        return self.advised.window

    @property
    def speculate_until(self) -> int | None:
        """The iteration from which F waits for the last state to be judged, or None."""
        return self.advised.speculate_until

    @property
    def max_batch(self) -> int | None:
        """Rows of one call, at most, or None."""
        return self.advised.max_batch

    @property
    def iterations(self) -> float:
        """The mean number of iterations at the last boundary."""
        return self.advised.iterations

    @property
    def predicted_span(self) -> float:
        """Evaluations on the critical path."""
        return self.advised.span

    @property
    def predicted_work(self) -> float:
        """Evaluations."""
        return self.advised.work

    @property
    def predicted_states(self) -> int:
        """States held at the same time, at most: four per slice in flight, one per boundary."""
        if not self.worthwhile:
            return 2
        in_flight = self.slices if self.window is None else min(self.window, self.slices)
        return 4 * in_flight + self.slices + 1

    @property
    def predicted_wall_time(self) -> float:
        """Seconds, or the unit of the batch times."""
        return self.advised.wall_time

    @property
    def predicted_sequential_time(self) -> float:
        """Seconds of the sequential solve, or the unit of the batch times; NaN where nothing was timed."""
        return self.sequential.wall_time

    def explain(self) -> str:
        """Return the advice in words, and the best candidates as a table."""
        if not self.candidates:
            return "Solve sequentially: there is no parallel setting to try."
        best, against = self.best, f"against {self.predicted_sequential_time:.3g} sequentially"
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
        options = ("slices", "schedule", "window", "speculate_until", "max_batch")
        lines: list[tuple[str, ...]] = [(*options, "iterations", "span", "work", "calls", "time", "speed-up")]
        for c in self.candidates[:rows]:
            cells = (c.levels or c.slices, *(getattr(c, name) for name in options[1:]))
            counts = (f"{c.iterations:.1f}", f"{c.span:.0f}", f"{c.work:.0f}", f"{c.calls:.0f}")
            times = (f"{c.wall_time:.3g}", f"{c.speedup(self.sequential):.2f}")
            lines.append((*("-" if x is None else str(x) for x in cells), *counts, *times))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )
