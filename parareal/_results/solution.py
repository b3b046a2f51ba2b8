"""The answer and how it was reached."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from parareal._results.history import Propagation
from parareal._results.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclass(frozen=True)
class Stats:
    """Cost of a solve, in the words of docs/theory.md."""

    work: float
    """evaluations, rows of all samples counted; a black box counts propagations, or the cost it declares"""
    span: float
    """critical path in evaluations with unlimited devices"""
    calls: int
    """batched calls made, one after another"""
    peak_batch: int
    """rows of the largest call"""
    wall_time: float
    """seconds"""
    sequential_work: float
    """evaluations of the sequential solve of all samples; NaN where the fine propagator never ran"""
    sequential_span: float
    """evaluations of the sequential solve of one sample; NaN where the fine propagator never ran"""


@final
@dataclass(frozen=True)
class Refinement:
    """The iterate after one iteration; what `refine` yields and a callback is given."""

    iteration: int
    """0 is the coarse sketch"""
    final_state: Any
    states: Any
    """newest state at each boundary, stacked on a new leading axis; some may be an iteration ahead"""
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n), shape (boundaries, samples), NaN where not made"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); infinite for the sketch"""


@final
@dataclass(frozen=True)
class Solution:
    """What a solve reached, and how. States have the library, dtype and structure of the initial state."""

    final_state: Any
    states: Any
    """newest state at each boundary, stacked on a new leading axis: shape (boundaries, *state)"""
    boundaries: list[Any]
    outcome: Outcome
    message: str
    iterations: int
    """iterations made at the last boundary, by the slowest sample; the sketch is not counted"""
    slice_iterations: np.ndarray
    """the iteration that made the newest state at the end of each slice, shape (slices, samples); -1 for none"""
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n), shape (iterations + 1, boundaries, samples), NaN where not made"""
    defects: np.ndarray
    """norms of F(k, n-1) - U(k, n), as the increments; free, known one iteration later"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); 0 where it is exact"""
    stats: Stats
    propagations: list[Propagation] = field(repr=False)

    def plot(self) -> "Figure":
        """Plot increments and defects by boundary and iteration. Needs matplotlib (the extra `plot`)."""
        from parareal._results.plot import convergence

        return convergence(self)

    def timeline(self) -> "Figure":
        """Draw the schedule: each propagation of the first sample on the critical path's clock. Needs matplotlib."""
        from parareal._results.plot import timeline

        return timeline(self)

    def trace(self, path: str | Path) -> None:
        """Write the schedule as a trace file (the Chrome trace event format) that Perfetto opens."""
        from parareal._results.export import write

        write(self, Path(path))

    def save(self, path: str | Path) -> None:
        """Save states and statistics with `torch.save`; `torch.load(path, weights_only=True)` reads the dictionary."""
        from parareal._results.export import save

        save(self, Path(path))
