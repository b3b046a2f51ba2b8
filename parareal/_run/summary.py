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
from parareal._problem.levels import leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import Steps
from parareal._results.history import History
from parareal._results.solution import Outcome, Solution, Stats
from parareal._state import State, copy, missing


@final
@dataclass(slots=True)
class Costs:
    """The evaluations that F takes without parallelism, for each sample and slice on which it ran."""

    found: dict[tuple[int, int], float] = field(default_factory=dict)

    def record(self, request: Request, result: Result) -> None:
        """Record a fine propagation of the outermost level."""
        if not math.isnan(result.sequential_cost):
            self.found[request.sample, request.slice] = result.sequential_cost

    def of_sample(self, sample: int, problem: Problem) -> float:
        """Return the evaluations of a sample's sequential solve; where a stepper never ran, in proportion to nodes."""
        costs = [self.found.get((sample, n), math.nan) for n in range(problem.slices)]
        known = [n for n, cost in enumerate(costs) if not math.isnan(cost)]
        if len(known) < len(costs) and known and isinstance(leaves(problem.fine)[0], Steps):
            lengths = [abs(int(b) - int(a)) for a, b in pairwise(problem.boundaries)]
            return sum(costs[n] for n in known) / sum(lengths[n] for n in known) * sum(lengths)
        return sum(costs)


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """What the machines of a solve have reached."""

    problem: Problem
    rules: Rules
    machines: Sequence[Machine]
    history: History

    def final_state(self) -> State:
        """Return the newest state at the last boundary, of all samples."""
        return copy(self.problem.join([self._state(i, m.outlet) for i, m in enumerate(self.machines)]))

    def trajectories(self) -> list[list[State]]:
        """Return the newest state of each sample at each boundary, `[sample][boundary]`."""
        return [
            [initial, *(self._state(i, value) for value in machine.outputs)]
            for i, (initial, machine) in enumerate(zip(self.problem.samples, self.machines, strict=True))
        ]

    def _state(self, sample: int, value: object) -> State:
        return missing(self.problem.samples[sample]) if value is None else value.state  # pyright: ignore

    def error_estimate(self) -> np.ndarray:
        """Return the estimated relative error of the final state, shape (samples,); infinite where not known."""
        outlets = [m.outlet for m in self.machines]
        return np.array([np.inf if u is None else 0.0 if u.exact else u.estimate for u in outlets])

    def newest_iteration(self) -> int:
        """Return the newest iteration that any boundary has reached."""
        return max((u.iteration for m in self.machines for u in m.outputs if u is not None), default=0)

    def boundaries_left(self) -> int:
        """Return how many boundaries, of all samples, are not final yet."""
        return sum(0 if m.done else sum(u is None or not u.final for u in m.outputs) for m in self.machines)

    def solution(self, tally: Tally, costs: Costs, wall_time: float, error: Exception | None) -> Solution:
        """Return what was reached; `error` is what a propagator raised."""
        outcomes = [self._outcome(m, error) for m in self.machines]
        outcome = max(outcomes, key=list(Outcome).index)
        iterations = max(0 if m.outlet is None else m.outlet.iteration for m in self.machines)
        increments, defects = self.history.tables(iterations)
        made = [[-1 if u is None else u.iteration for u in m.outputs] for m in self.machines]
        return Solution(
            final_state=self.final_state(),
            states=self.problem.stack(self.trajectories()),
            boundaries=self.problem.boundaries,
            outcome=outcome,
            message=self._message(outcome, outcomes, error),
            iterations=iterations,
            slice_iterations=np.array(made).T,
            increments=increments,
            defects=defects,
            error_estimate=self.error_estimate(),
            stats=self._stats(tally, costs, wall_time),
            propagations=self.history.propagations,
        )

    def _outcome(self, machine: Machine, error: Exception | None) -> Outcome:
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
        asked = outlet is not None and self.rules.limit == self.rules.criterion.last_iteration
        return Outcome.ITERATIONS_DONE if asked else Outcome.ITERATION_LIMIT

    def _message(self, outcome: Outcome, outcomes: list[Outcome], error: Exception | None) -> str:
        worst, rtol = self.error_estimate().max(), np.inf
        if isinstance(self.rules.criterion, Tolerance):
            rtol = self.rules.criterion.rtol
        causes = [str(m.failure) for m in self.machines if m.failure is not None]
        if outcome is Outcome.WORKER_LOST and error is not None:
            causes = [f"{type(error).__name__}: {error}"]
        if outcome is Outcome.ITERATION_LIMIT:
            causes = [f"{self.rules.limit} iterations were allowed; the worst error estimate is {worst:.2g}"]
        if outcome is Outcome.CONVERGED and worst > rtol:
            causes = [f"slices settled one by one; the worst error estimate at the end is {worst:.2g}"]
        hit = [i for i, o in enumerate(outcomes) if o is outcome]
        where = f" This holds for {len(hit)} of {len(outcomes)} samples." if len(hit) < len(outcomes) else ""
        return " ".join([outcome.value, *(f"({c})" for c in causes[:1])]) + where

    def _stats(self, tally: Tally, costs: Costs, wall_time: float) -> Stats:
        each = [costs.of_sample(i, self.problem) for i in range(len(self.machines))]
        span = max((m.outlet.depth for m in self.machines if m.outlet is not None), default=float("nan"))
        return Stats(tally.work, span, tally.calls, tally.peak_batch, wall_time, sum(each), max(each))
