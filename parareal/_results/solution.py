"""The solution of a solve, its statistics and outcome, and the error of a failed solve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from parareal._results import export, plot
from parareal._results.history import Propagation
from parareal._results.spot_check import SpotCheck
from parareal._state import Stack, State, Time

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Outcome(Enum):
    """The way a solve ended, from the best to the worst. The value of a member is a sentence for the user."""

    # The order matters: the outcome of a batch is the worst outcome of its samples.
    EXACT = "The result is the sequential solution itself."
    CONVERGED = "The criterion accepted the final state."
    ITERATIONS_DONE = "The requested number of iterations was made."
    ITERATION_LIMIT = "The iteration limit was reached before the criterion accepted the final state."
    CONTRADICTED = "The spot check contradicts the criterion, which had accepted the final state."
    CANCELLED = "The solve was cancelled; the states are the best so far."
    NON_FINITE = "A state is not finite; boundaries that were final keep their states."
    WORKER_LOST = "A propagator raised an error; boundaries that were final keep their states."

    @property
    def failed(self) -> bool:
        """Whether `solve` raises `PararealError` for this outcome, unless `throw` is False."""
        return self in _FAILED


# outside the class, where it would be a member of the enumeration
_FAILED = set(Outcome) - {Outcome.EXACT, Outcome.CONVERGED, Outcome.ITERATIONS_DONE}


@final
@dataclass(frozen=True)
class Stats:
    """The cost of a solve, and that of the sequential solve (docs/explained/theory.md).

    The unit of work and span is one evaluation: one call of the right-hand side or network for one row. A plain
    function counts one per propagation, or the cost that it declares (`Costed`).
    """

    work: float
    """evaluations of all samples and both propagators"""
    span: float
    """evaluations on the critical path, which is the time of the solve on unlimited devices"""
    calls: int
    """batched calls, made one after another"""
    peak_batch: int
    """rows of the largest batched call"""
    wall_time: float
    """seconds of the solve"""
    sequential_work: float
    """evaluations of the sequential solve of all samples; NaN if F did not run on enough slices to tell"""
    sequential_span: float
    """evaluations of the sequential solve of the costliest sample; NaN as above"""


@final
@dataclass(frozen=True)
class Refinement:
    """The newest iterate after one iteration: an item of `refine`, and the argument of a callback of `solve`."""

    iteration: int
    """iterations that all samples have made; 0 for the coarse prediction"""
    final_state: State
    """the newest state at the last boundary, of the shape of the initial state"""
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n) of this iteration k, shape (boundaries, samples); NaN where not computed; see
    `Solution.increments`"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); infinite where unknown"""
    stack_states: Callable[[], Stack] = field(repr=False)
    """function that stacks `states`"""

    # Stacking copies every boundary's state, and most callers read the final state only. The states themselves are
    # never changed in place, so a late reader gets the same ones. `cached_property` writes into the instance's
    # dictionary, which `frozen` does not prevent.
    @cached_property
    def states(self) -> Stack:
        """The newest state at each boundary, stacked on a new leading axis: shape (boundaries, *state).

        Stacked when read for the first time. States at early boundaries may be newer than this iteration.
        """
        return self.stack_states()


@final
@dataclass(frozen=True)
class Solution:
    """The result of a solve: states, outcome, and cost.

    States have the library, dtype and structure of the initial state. With `batch_dims=1` they have the sample axis of
    the initial state, too. Norms are those of the criterion.

    Examples:
        >>> import parareal
        >>> solution = parareal.sequential(lambda u, t0, t1: 0.5 * u, 1.0, [0, 1, 2])
        >>> solution.final_state, solution.states.tolist(), solution.outcome.name
        (0.25, [1.0, 0.5, 0.25], 'EXACT')
    """

    final_state: State
    """the newest state at the last boundary, of the shape of the initial state"""
    states: Stack
    """the newest state at each boundary, stacked on a new leading axis: shape (boundaries, *state)"""
    boundaries: list[Time]
    """the times, or nodes, of the boundaries; of nested levels, those of the outermost"""
    outcome: Outcome
    """the end of the solve; of several samples, the worst one"""
    message: str
    """the outcome in a sentence, with its cause and the number of samples where needed"""
    iterations: int
    """iterations at the last boundary, of the slowest sample; the prediction does not count"""
    slice_iterations: np.ndarray
    """iteration of the newest state at the end of each slice, shape (slices, samples); -1 where there is no state"""
    increments: np.ndarray
    """norms of U(k, n) - U(k-1, n), shape (iterations + 1, boundaries, samples); NaN where not computed. The norm is
    that of the criterion, in the units of the state; for `"scaled"` it is the largest relative change of a component"""
    defects: np.ndarray
    """norms of F(k, n-1) - U(k, n), shape as for `increments`; known one iteration later than the increment"""
    error_estimate: np.ndarray
    """estimated relative error of the final state, shape (samples,); 0 where exact, infinite where unknown, or where a
    spot check contradicts the criterion"""
    stats: Stats
    """cost of the solve"""
    propagations: Sequence[Propagation] = field(repr=False)
    """every propagation of F and G, in the order in which they ended"""
    spot_check: SpotCheck | None = None
    """defects of the slices that were checked; None without `spot_check`, or if the solve ended before it"""

    def plot(self) -> "Figure":
        """Plot increments and defects by boundary, one line per iteration.

        Raises:
            ImportError: if matplotlib is missing (the extra `plot`).
        """
        return plot.plot_convergence(self.increments, self.defects)

    def timeline(self) -> "Figure":
        """Plot the schedule of the first sample: one bar per propagation, over evaluations on the critical path.

        Raises:
            ImportError: if matplotlib is missing (the extra `plot`).
        """
        return plot.plot_timeline(self.propagations, self.boundaries, self.stats.span, self.stats.sequential_span)

    def trace(self, path: str | Path) -> None:
        """Write the schedule to a file in Chrome's trace event format, for https://ui.perfetto.dev."""
        export.write_trace(self.propagations, Path(path))

    def save(self, path: str | Path) -> None:
        """Write all fields but `propagations` to a file with `torch.save`.

        `torch.load(path, weights_only=True)` returns them as a dictionary of plain containers and tensors.
        """
        names = [f.name for f in fields(self) if f.name != "propagations"]
        export.save({name: getattr(self, name) for name in names}, Path(path))


class PararealError(RuntimeError):
    """A failed solve. The attribute `solution` holds everything that was computed before the failure."""

    def __init__(self, message: str, solution: "Solution"):
        super().__init__(message)
        self.solution = solution
