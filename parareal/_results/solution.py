"""The answer and how it was reached, how a solve ended, and the error that carries a solution with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from parareal._results import export, plot
from parareal._results.history import Propagation
from parareal._state import Stack, State, Time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Outcome(Enum):
    """How a solve ended; the value says it in a sentence. From the best to the worst."""

    EXACT = "The result is the sequential solution itself."
    CONVERGED = "The criterion accepted the final state."
    ITERATIONS_DONE = "The requested number of iterations was made."
    ITERATION_LIMIT = "max_iterations was reached before the criterion accepted the final state."
    CANCELLED = "The solve was cancelled; the states are the best so far."
    NON_FINITE = "A state stopped being finite; boundaries that were done keep their states."
    WORKER_LOST = "A propagator raised an error; boundaries that were done keep their states."

    @property
    def failed(self) -> bool:
        """Whether `solve` raises `PararealError` for it, unless told not to."""
        return self in _FAILED


_FAILED = {Outcome.ITERATION_LIMIT, Outcome.NON_FINITE, Outcome.CANCELLED, Outcome.WORKER_LOST}


@final
@dataclass(frozen=True)
class Stats:
    """Cost of a solve, in the terms of docs/explained/theory.md."""

    work: float
    """evaluations, rows of all samples counted; a plain function counts propagations, or the cost it declares"""
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
    """The iterate after one iteration; `refine` yields it and a callback is given it."""

    iteration: int
    """0 is the coarse prediction"""
    final_state: State
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n), shape (boundaries, samples), NaN where not made"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); infinite where it is not known"""
    stack_states: Callable[[], Stack] = field(repr=False)
    """makes `states`"""

    @cached_property
    def states(self) -> Stack:
        """Newest state at each boundary, stacked on a new leading axis when read; some may be an iteration ahead."""
        return self.stack_states()


@final
@dataclass(frozen=True)
class Solution:
    """What a solve reached, and how. States have the library, dtype and structure of the initial state."""

    final_state: State
    states: Stack
    """newest state at each boundary, stacked on a new leading axis: shape (boundaries, *state)"""
    boundaries: list[Time]
    outcome: Outcome
    message: str
    iterations: int
    """iterations made at the last boundary, by the slowest sample; the prediction is not counted"""
    slice_iterations: np.ndarray
    """the iteration that made the newest state at the end of each slice, shape (slices, samples); -1 for none"""
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n), shape (iterations + 1, boundaries, samples), NaN where not made"""
    defects: np.ndarray
    """norms of F(k, n-1) - U(k, n), as the increments; free, known one iteration later"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); 0 where it is exact"""
    stats: Stats
    propagations: Sequence[Propagation] = field(repr=False)

    def plot(self) -> "Figure":
        """Plot increments and defects by boundary and iteration. Needs matplotlib (the extra `plot`)."""
        return plot.convergence(self.increments, self.defects)

    def timeline(self) -> "Figure":
        """Draw the schedule: each propagation of the first sample on the critical path's clock. Needs matplotlib."""
        return plot.timeline(self.propagations, self.boundaries, self.stats.span, self.stats.sequential_span)

    def trace(self, path: str | Path) -> None:
        """Write the schedule as a trace file (the Chrome trace event format), for Perfetto."""
        export.write_trace(self.propagations, Path(path))

    def save(self, path: str | Path) -> None:
        """Save states and statistics with `torch.save`; `torch.load(path, weights_only=True)` reads the dictionary."""
        names = [f.name for f in fields(self) if f.name != "propagations"]
        export.save({name: getattr(self, name) for name in names}, Path(path))


class PararealError(RuntimeError):
    """A solve did not reach its goal; `solution` holds what it reached."""

    def __init__(self, message: str, solution: "Solution"):
        super().__init__(message)
        self.solution = solution
