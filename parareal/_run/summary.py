"""The summary of a solve: from the machines' boundaries to a `Solution`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import numpy as np

from parareal._criteria import Tolerance
from parareal._execution.evaluations import Tally
from parareal._iteration.machine import Machine
from parareal._iteration.messages import Request, Result
from parareal._iteration.rules import Rules
from parareal._problem.levels import list_leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import Steps
from parareal._results.history import History
from parareal._results.solution import Outcome, Solution, Stats
from parareal._results.spot_check import SpotCheck
from parareal._run.spot_check import SpotChecker
from parareal._state import State, copy, nan_like

GROWTH_TO_REPORT = 30
"""a final error is reported if it is estimated to be above this multiple of the tolerance for each slice"""


@final
@dataclass(slots=True)
class Costs:
    """The evaluations that F takes without parallelism, per sample and slice on which it ran."""

    slice_costs: dict[tuple[int, int], float] = field(default_factory=dict)
    """evaluations by (sample, slice)"""

    def record(self, request: Request, result: Result) -> None:
        """Record a fine propagation of the outermost level."""
        # NaN is the cost of an approximate result: the cost at full accuracy is unknown
        if not math.isnan(result.sequential_cost):
            self.slice_costs[request.sample, request.slice] = result.sequential_cost

    def sum_sample(self, sample: int, problem: Problem) -> float:
        """Return the evaluations of a sample's sequential solve; NaN where they are unknown.

        On slices where a stepper never ran, they are estimated in proportion to the number of nodes.
        """
        costs = [self.slice_costs.get((sample, n), math.nan) for n in range(problem.slices)]
        measured_slices = [n for n, cost in enumerate(costs) if not math.isnan(cost)]
        # F need not run on every slice: a prediction may settle at once, and a solve may end early. A stepper's steps
        # all cost the same; of a plain function nothing is known, and the sum is NaN.
        if len(measured_slices) < len(costs) and measured_slices and isinstance(list_leaves(problem.fine)[0], Steps):
            lengths = [abs(int(b) - int(a)) for a, b in pairwise(problem.boundaries)]
            return sum(costs[n] for n in measured_slices) / sum(lengths[n] for n in measured_slices) * sum(lengths)
        return sum(costs)


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """The present state of all machines of a solve, in the form that callers see."""

    problem: Problem
    rules: Rules
    machines: Sequence[Machine]
    history: History

    def final_state(self) -> State:
        """Return the newest state at the last boundary, of all samples."""
        # copied, because the caller may change it while the solve goes on from the original
        return copy(self.problem.join([self._state(i, m.outlet) for i, m in enumerate(self.machines)]))

    def trajectories(self) -> list[list[State]]:
        """Return the newest state of each sample at each boundary, `[sample][boundary]`."""
        return [
            [initial, *(self._state(i, value) for value in machine.outputs)]
            for i, (initial, machine) in enumerate(zip(self.problem.samples, self.machines, strict=True))
        ]

    def _state(self, sample: int, value: object) -> State:
        """Return the state of a value; NaN in place of a value that does not exist yet, as right of a window."""
        return nan_like(self.problem.samples[sample]) if value is None else value.state  # pyright: ignore

    def error_estimate(self) -> np.ndarray:
        """Return the estimated relative error of the final state, shape (samples,); infinite where it is unknown."""
        outlets = [m.outlet for m in self.machines]
        return np.array([np.inf if u is None else 0.0 if u.exact else u.estimate for u in outlets])

    def newest_iteration(self) -> int:
        """Return the newest iteration of any boundary."""
        return max((u.iteration for m in self.machines for u in m.outputs if u is not None), default=0)

    def boundaries_left(self) -> int:
        """Return the number of boundaries, of all samples, that are not final yet."""
        return sum(0 if m.done else sum(u is None or not u.final for u in m.outputs) for m in self.machines)

    def samples_to_check(self) -> list[int]:
        """Return the samples for a spot check: they ended as intended, but are not known to be exact."""
        outcomes = [self._judge_outcome(m, None) for m in self.machines]
        return [i for i, o in enumerate(outcomes) if o in (Outcome.CONVERGED, Outcome.ITERATIONS_DONE)]

    def solution(
        self, tally: Tally, costs: Costs, wall_time: float, error: Exception | None, checker: SpotChecker | None
    ) -> Solution:
        """Return the solution; `error` is the exception that a propagator raised, or None."""
        outcomes = [self._judge_outcome(m, error) for m in self.machines]
        if checker is not None:
            outcomes = checker.revise(outcomes, error)
        spot_check = None if checker is None else checker.result(outcomes)
        # `Outcome` lists its members from the best to the worst, and the worst sample decides
        outcome = max(outcomes, key=list(Outcome).index)
        iterations = max(0 if m.outlet is None else m.outlet.iteration for m in self.machines)
        increments, defects = self.history.tables(iterations)
        slice_iterations = [[-1 if u is None else u.iteration for u in m.outputs] for m in self.machines]
        return Solution(
            final_state=self.final_state(),
            states=self.problem.stack(self.trajectories()),
            boundaries=self.problem.boundaries,
            outcome=outcome,
            message=self._build_message(outcome, outcomes, error, spot_check),
            iterations=iterations,
            slice_iterations=np.array(slice_iterations).T,
            increments=increments,
            defects=defects,
            # an estimate that was contradicted is not known
            error_estimate=np.where([o is Outcome.CONTRADICTED for o in outcomes], np.inf, self.error_estimate()),
            stats=self._build_stats(tally, costs, wall_time, 0.0 if checker is None else checker.depth),
            propagations=self.history.propagations,
            spot_check=spot_check,
        )

    def _judge_outcome(self, machine: Machine, error: Exception | None) -> Outcome:
        """Return the outcome of one sample."""
        # The order matters: a sample that has converged stays so if a propagator fails afterwards on another sample.
        outlet = machine.outlet
        if machine.failure is not None:
            return Outcome.NON_FINITE
        if outlet is not None and outlet.exact:
            return Outcome.EXACT
        if outlet is not None and outlet.settled:
            return Outcome.CONVERGED
        if error is not None:
            return Outcome.WORKER_LOST
        if not machine.done:
            return Outcome.CANCELLED
        # A limit that the criterion itself sets is the goal; one that `max_iterations` sets is a failure.
        intended = outlet is not None and self.rules.limit == self.rules.criterion.last_iteration
        return Outcome.ITERATIONS_DONE if intended else Outcome.ITERATION_LIMIT

    def _build_message(
        self, outcome: Outcome, outcomes: list[Outcome], error: Exception | None, spot_check: SpotCheck | None
    ) -> str:
        """Return the sentence of an outcome, its cause, and the number of samples that it applies to."""
        worst = self.error_estimate().max()
        # the message names the first cause only, and counts the samples
        causes = [str(m.failure) for m in self.machines if m.failure is not None][:1]
        if outcome is Outcome.WORKER_LOST and error is not None:
            causes = [f"{type(error).__name__}: {error}"]
        if outcome is Outcome.CONTRADICTED and spot_check is not None:
            causes = [spot_check.cause]
        if outcome is Outcome.ITERATION_LIMIT:
            causes = [self._explain_limit(worst)]
        if outcome is Outcome.CONVERGED:
            causes = self._warn_of_growth(worst)
        count = len({n for m in self.machines for n in m.substituted_slices})
        if count and outcome is not Outcome.NON_FINITE:  # which is F's fault, not the coarse propagator's
            advice = "take more slices" + (" or a more stable coarse propagator" if self.rules.has_coarse else "")
            of = f"{count} of {self.problem.slices} slices"
            causes = [*causes, f"in {of} an iterate was not finite and the fine result stood in: {advice}"]
        affected = [i for i, o in enumerate(outcomes) if o is outcome]
        where = f" This holds for {len(affected)} of {len(outcomes)} samples." if len(affected) < len(outcomes) else ""
        return " ".join([outcome.value, *(f"({c})" for c in causes)]) + where

    def _explain_limit(self, worst: float) -> str:
        """Return why the iterations ended before the criterion accepted the final state."""
        if any(m.iteration < self.rules.limit and m.outlet is not None and not m.outlet.final for m in self.machines):
            return (
                f"slices settled one by one, and the worst error estimate at the end is {worst:.2g}; lower rtol or "
                "interior, or leave the window out"
            )
        allowed = "1 iteration was" if self.rules.limit == 1 else f"{self.rules.limit} iterations were"
        return (
            f"{allowed} allowed; the worst error estimate is {worst:.2g}; raise max_iterations or loosen the criterion"
        )

    def _warn_of_growth(self, worst: float) -> list[str]:
        """Return the cause that warns of a final error far above what was accepted slice by slice; none by default."""
        rtol = getattr(self.rules.criterion, "rtol", None)
        if isinstance(self.rules.criterion, Tolerance) or not rtol or not GROWTH_TO_REPORT * rtol < worst < np.inf:
            return []
        return [
            f"the flow amplifies errors: that of the final state is estimated at {worst:.2g} of its size, and "
            f"rtol={rtol:g} bounds what each slice adds; use Tolerance(rtol) to bound the final error"
        ]

    def _build_stats(self, tally: Tally, costs: Costs, wall_time: float, least_span: float) -> Stats:
        # work adds up over samples; a span does not, because samples run at the same time
        sequential = [costs.sum_sample(i, self.problem) for i in range(len(self.machines))]
        span = max((m.outlet.depth for m in self.machines if m.outlet is not None), default=float("nan"))
        span = max(span, least_span)  # NaN stays
        return Stats(tally.work, span, tally.calls, tally.peak_batch, wall_time, sum(sequential), max(sequential))
