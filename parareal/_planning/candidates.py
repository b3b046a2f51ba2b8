"""Candidate settings with their predicted costs, and the plan that chooses among them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from parareal._corrections.correction import AbstractCorrection

WORTHWHILE = 1.1
"""The smallest predicted speed-up at which a parallel solve is advised.

Predicted times are too short by 12 % in the median (docs/results/planning.md). At this threshold the true speed-up is
then 1.1 * 0.88 = 0.97, so a parallel solve that was advised is hardly slower than the sequential one.
"""


@final
@dataclass(frozen=True)
class Candidate:
    """One setting of a solve and its predicted cost, averaged over the numbers of iterations that are expected."""

    slices: int
    """number of slices, of the outermost level; 1 for the sequential solve"""
    iterations: float
    """mean number of iterations at the last boundary"""
    span: float
    """evaluations on the critical path"""
    work: float
    """evaluations of all samples"""
    calls: float
    """batched calls, made one after another"""
    wall_time: float
    """seconds, or the unit of the batch times"""
    levels: tuple[int, ...] | None = None
    """numbers of slices of nested levels, outermost first; None for one level"""
    correction: AbstractCorrection | None = None
    """None for the coarse difference, the only correction that plans try so far"""
    schedule: str = "pipelined"
    """as for `solve`"""
    window: int | None = None
    """as for `solve`"""
    speculate_until: int | None = None
    """the iteration from which fine propagations wait until the final state has been rejected, as for `solve`"""
    max_batch: int | None = None
    """largest number of rows of a call; None for no bound"""

    def speedup(self, sequential: "Candidate") -> float:
        """Return the predicted speed-up over the sequential solve; infinite if this candidate takes no time."""
        # a prediction without evaluations takes no time: no iteration, and a correction without G
        return sequential.wall_time / self.wall_time if self.wall_time else float("inf")


@final
@dataclass(frozen=True)
class Plan:
    """The advised setting for one kind of problem: the best parallel candidate, or the sequential solve.

    The properties `slices`, `levels`, `correction`, `schedule`, `window`, `speculate_until`, `max_batch` and
    `iterations` are those of the advised setting. Its costs are `predicted_span`, `predicted_work` and
    `predicted_wall_time`. `print(plan.explain())` shows the reasons.
    """

    best: Candidate
    """the fastest parallel candidate, also if it is not advised; the sequential solve if there was none to try"""
    sequential: Candidate
    """the sequential solve"""
    candidates: tuple[Candidate, ...] = field(repr=False)
    """all parallel candidates, the fastest first"""

    @staticmethod
    def of(candidates: Iterable[Candidate], sequential: Candidate) -> "Plan":
        """Return the plan that follows from the predicted costs of candidates and of the sequential solve."""
        ranked = tuple(sorted(candidates, key=lambda c: c.wall_time))
        return Plan(ranked[0] if ranked else sequential, sequential, ranked)

    @property
    def predicted_speedup(self) -> float:
        """The predicted speed-up of the best parallel candidate, also if it is not advised."""
        return self.best.speedup(self.sequential)

    @property
    def worthwhile(self) -> bool:
        """Whether a parallel solve is advised: its predicted speed-up is at least `WORTHWHILE` (1.1)."""
        # without candidates `best` is the sequential solve, which has a speed-up of 1 over itself
        return bool(self.candidates) and self.predicted_speedup >= WORTHWHILE

    @property
    def advised(self) -> Candidate:
        """The setting to solve with."""
        return self.best if self.worthwhile else self.sequential

    @property
    def slices(self) -> int:
        """The number of slices; 1 if the sequential solve is advised."""
        return self.advised.slices

    @property
    def levels(self) -> tuple[int, ...] | None:
        """Numbers of slices of nested levels, outermost first; None for one level."""
        return self.advised.levels

    @property
    def correction(self) -> AbstractCorrection | None:
        """The correction; None for the coarse difference, the default of `solve`."""
        return self.advised.correction

    @property
    def schedule(self) -> str:
        """The schedule, `"pipelined"` or `"synchronous"`."""
        return self.advised.schedule

    @property
    def window(self) -> int | None:
        """The largest number of slices under way at a time; None for no bound."""
        return self.advised.window

    @property
    def speculate_until(self) -> int | None:
        """The iteration from which fine propagations wait for the final state to be rejected; None to never wait."""
        return self.advised.speculate_until

    @property
    def max_batch(self) -> int | None:
        """The largest number of rows of a call; None for no bound."""
        return self.advised.max_batch

    @property
    def iterations(self) -> float:
        """The expected mean number of iterations at the last boundary."""
        return self.advised.iterations

    @property
    def predicted_span(self) -> float:
        """The predicted number of evaluations on the critical path."""
        return self.advised.span

    @property
    def predicted_work(self) -> float:
        """The predicted number of evaluations of all samples."""
        return self.advised.work

    @property
    def predicted_states(self) -> int:
        """The largest number of states in memory at a time, per sample: four per slice in flight, one per boundary."""
        if not self.worthwhile:
            return 2  # the state before and after a slice
        in_flight = self.slices if self.window is None else min(self.window, self.slices)
        return 4 * in_flight + self.slices + 1

    @property
    def predicted_wall_time(self) -> float:
        """The predicted time of the solve, in seconds or the unit of the batch times."""
        return self.advised.wall_time

    @property
    def predicted_sequential_time(self) -> float:
        """The predicted time of the sequential solve, in the same unit; NaN if nothing was timed."""
        return self.sequential.wall_time

    def explain(self) -> str:
        """Return the advice in a sentence, and the best candidates as a table."""
        if not self.candidates:
            return "Solve sequentially: there is no parallel setting to try."
        best, comparison = self.best, f"against {self.predicted_sequential_time:.3g} sequentially"
        setting = f"levels {best.levels}" if best.levels else f"{best.slices} slices, {best.schedule}"
        if self.worthwhile:
            advice = (
                f"Solve in parallel, with {setting}: predicted {best.wall_time:.3g} {comparison}, "
                f"a speed-up of {self.predicted_speedup:.2f}."
            )
        else:
            advice = (
                f"Solve sequentially: the best parallel setting, {setting}, is predicted to take {best.wall_time:.3g} "
                f"{comparison}. A speed-up of {self.predicted_speedup:.2f} is below the threshold of {WORTHWHILE}."
            )
        return f"{advice}\n\n{self.table()}"

    def table(self, rows: int = 8) -> str:
        """Return the first `rows` candidates, the fastest first, as a table of text."""
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
