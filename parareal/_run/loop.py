"""One solve: machines, one a sample, driven by a runner; what `solve` and `refine` share."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np

from parareal._checks import StructureError, check_guess, one_of, whole_number
from parareal._criteria import AbstractCriterion, Increment, Tolerance
from parareal._execution.evaluations import Asking, Call, driven
from parareal._execution.executors import AbstractExecutor
from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Kind, Value
from parareal._iteration.slice import Rules
from parareal._problem.levels import last_iteration, leaves, rounds
from parareal._problem.problem import Problem
from parareal._problem.propagators import Steps, corrector
from parareal._results.history import History
from parareal._results.outcome import Outcome
from parareal._results.solution import Refinement, Solution, Stats
from parareal._state import NORMS, State, copy, missing

SCHEDULES = ("pipelined", "synchronous")


@final
@dataclass(frozen=True)
class Options:
    """How to solve a problem."""

    guess: Any = None
    criterion: AbstractCriterion | None = None
    max_iterations: int | None = None
    schedule: str = "pipelined"
    executor: AbstractExecutor | Executor | None = None
    window: int | None = None
    eager: int | None = None


@final
class Run:
    """The driver's loop and its bookkeeping. Exhaust `iterations` to run; then ask for the `solution`."""

    def __init__(self, problem: Problem, options: Options):
        one_of("schedule", options.schedule, SCHEDULES)
        limit = options.max_iterations
        limit = None if limit is None else whole_number("max_iterations", limit, 0)
        criterion = Increment() if options.criterion is None else options.criterion
        if not isinstance(criterion, AbstractCriterion):
            raise TypeError(
                "criterion must be Increment, Defect, Tolerance, Iterations or LastChange of this package, "
                f"not {type(criterion).__name__}"
            )
        self.problem, self.criterion = problem, criterion.resolved(problem.layout)
        self.window = self._window(options.window)
        last = last_iteration(rounds(problem.propagators[Kind.FINE]), problem.slices, self.window)
        self.limit = min(x for x in (last, limit, self.criterion.last_iteration) if x is not None)
        self.history = History(problem.slices + 1, len(problem.samples))
        eager = options.eager if options.eager is None else whole_number("eager", options.eager, 0)
        rules = self._rules(options.schedule == "synchronous", float("inf") if eager is None else eager)
        self.runner = problem.runner(options.executor, rules)
        self.machines = self._machines(rules, options.guess)
        self.serial: dict[tuple[int, int], float] = {}  # what F costs each sample on each slice, step by step
        self.wall_time = 0.0
        self.error: Exception | None = None
        self.cancelled = False
        self.watch: Callable[[], None] | None = None
        """called after every tick, for progress bars"""

    def _window(self, window: int | None) -> int | None:
        window = None if window is None else whole_number("window", window, 1)
        if window is None or window >= self.problem.slices:
            return None
        last = self.criterion.last_iteration
        if not self.criterion.local or (last is not None and last < self.problem.slices):
            raise ValueError(
                f"a window of {window} over {self.problem.slices} slices moves on when slices are final, which "
                f"{self.criterion} does not make them: use Increment, Defect or Tolerance, or run to the end with "
                f"Iterations({self.problem.slices})"
            )
        return window

    def _rules(self, synchronous: bool, eager: float) -> Rules:
        problem, fine = self.problem, self.problem.propagators[Kind.FINE]
        return Rules(
            criterion=self.criterion,
            limit=self.limit,
            boundaries=problem.boundaries,
            correct=corrector(leaves(fine)[0]),
            record=self.history.corrected,
            dimensions=problem.layout.numbers,
            synchronous=synchronous,
            window=self.window,
            eager=eager,
            inexact=rounds(fine) > 1,
            full=(self.criterion.last_iteration or 0) >= problem.slices,
        )

    def _machines(self, rules: Rules, guess: Any) -> list[Machine]:
        problem, count = self.problem, len(self.problem.samples)
        guesses = [None] * count
        if guess is not None:
            states = check_guess(guess, problem.slices + 1, count, problem.layout, problem.batch_dims)
            guesses = [[Value(0, u, estimate=float("inf")) for u in column[1:]] for column in states]
        return [Machine(rules, i, range(problem.slices), guesses[i]) for i in range(count)]

    def iterations(self) -> Iterator[int]:
        """Run to the end, yielding the iteration whenever all samples have made one more."""
        with closing(self.events()) as events:
            yield from driven(events)

    def events(self) -> Generator[Call | int, Any, None]:
        """Run to the end, driven from outside: a `Call` wants its value sent back; a number is as in `iterations`.

        Who drives it keeps gradients off, and closes it when leaving early.
        """
        try:
            yield from self._iterations()
        finally:
            self.runner.close()

    def _iterations(self) -> Generator[Call | int, Any, None]:
        began = time.perf_counter()
        for machine, state in zip(self.machines, self.problem.samples, strict=True):
            machine.enter(Value(0, state, exact=True, size=NORMS[self.criterion.norm](state)))
        shown = -1
        while not self.cancelled and not all(m.done for m in self.machines):
            try:
                reached = yield from self._until(shown, began)
            except StructureError:
                raise
            except Exception as error:
                self.error = error
                break
            if reached > shown:
                shown = reached
                yield reached
        self.wall_time = time.perf_counter() - began

    def _until(self, shown: int, began: float) -> Asking[int]:
        """Tick until there is an iteration to show, or nothing left to do; return the newest."""
        reached = shown
        while not all(m.done for m in self.machines):
            results = yield from self._tick()
            if self.watch is not None:
                self.watch()
            if results:
                self.history.propagated(results, began)
                self.wall_time = time.perf_counter() - began
                reached = self._reached()
                if reached > shown:
                    break
        return reached

    def _tick(self) -> Asking[list[Delivery]]:
        for machine in self.machines:
            if ready := machine.take():
                self.runner.add(ready)
        results = yield from self.runner.ticking()
        if not results and self.runner.idle and not all(m.done for m in self.machines):
            raise RuntimeError("parareal: nothing left to run, but the solve is not done; please report this")
        for request, result, _ in results:
            if request.outer is not None:  # its own level has taken it
                continue
            if request.kind is Kind.FINE and not math.isnan(result.sequential_cost):
                self.serial[request.sample, request.slice] = result.sequential_cost
            machine = self.machines[request.sample]
            if not machine.done:
                machine.receive(request, result)
                if machine.closed:
                    self.runner.forget([(request.sample, n) for n in machine.closed])
                    machine.closed.clear()
                if machine.done:
                    self.runner.cancel(request.sample)
        return results

    def _reached(self) -> int:
        """Return the newest iteration that every sample has reached or does not need."""
        made = [m.reached for m in self.machines]
        open_ = [k for k, m in zip(made, self.machines, strict=True) if not m.done]
        return min(open_, default=max(made))

    def newest_iteration(self) -> int:
        """Return the newest iteration that any boundary has reached."""
        return max((u.iteration for m in self.machines for u in m.outputs if u is not None), default=0)

    def boundaries_left(self) -> int:
        """Return how many boundaries, of all samples, are not final yet."""
        return sum(0 if m.done else sum(u is None or not u.final for u in m.outputs) for m in self.machines)

    def refinement(self, iteration: int) -> Refinement:
        """Return the newest iterate."""
        increments = self.history.increments(iteration)
        return Refinement(iteration, self._final_state(), self._states(), increments, self._estimate())

    def _final_state(self) -> State:
        return copy(self.problem.join([self._state(i, -1) for i in range(len(self.machines))]))

    def _states(self) -> State:
        columns = [
            [initial, *(self._state(i, n) for n in range(self.problem.slices))]
            for i, initial in enumerate(self.problem.samples)
        ]
        return self.problem.stack(columns)

    def _state(self, sample: int, boundary: int) -> State:
        value = self.machines[sample].outputs[boundary]
        return missing(self.problem.samples[sample]) if value is None else value.state

    def _estimate(self) -> np.ndarray:
        outlets = [m.outlet for m in self.machines]
        return np.array([np.inf if u is None else 0.0 if u.exact else u.estimate for u in outlets])

    def solution(self) -> Solution:
        """Return what was reached."""
        outcomes = [self._outcome(m) for m in self.machines]
        outcome = max(outcomes, key=list(Outcome).index)
        outlets = [m.outlet for m in self.machines]
        iterations = max(0 if u is None else u.iteration for u in outlets)
        increments, defects = self.history.tables(iterations)
        made = [[-1 if u is None else u.iteration for u in m.outputs] for m in self.machines]
        return Solution(
            final_state=self._final_state(),
            states=self._states(),
            boundaries=self.problem.boundaries,
            outcome=outcome,
            message=self._message(outcome, outcomes),
            iterations=iterations,
            slice_iterations=np.array(made).T,
            increments=increments,
            defects=defects,
            error_estimate=self._estimate(),
            stats=self._stats(),
            propagations=self.history.propagations,
        )

    def _outcome(self, machine: Machine) -> Outcome:
        outlet = machine.outlet
        if machine.failure is not None:
            return Outcome.NON_FINITE
        if outlet is not None and outlet.exact:
            return Outcome.EXACT
        if outlet is not None and outlet.settled:
            return Outcome.CONVERGED
        if self.error is not None:
            return Outcome.WORKER_LOST
        if not machine.done:
            return Outcome.CANCELLED
        asked = outlet is not None and self.limit == self.criterion.last_iteration
        return Outcome.ITERATIONS_DONE if asked else Outcome.ITERATION_LIMIT

    def _message(self, outcome: Outcome, outcomes: list[Outcome]) -> str:
        causes = [str(m.failure) for m in self.machines if m.failure is not None]
        if outcome is Outcome.WORKER_LOST and self.error is not None:
            causes = [f"{type(self.error).__name__}: {self.error}"]
        if outcome is Outcome.ITERATION_LIMIT:
            causes = [f"{self.limit} iterations were allowed; the worst error estimate is {self._estimate().max():.2g}"]
        rtol = self.criterion.rtol if isinstance(self.criterion, Tolerance) else np.inf
        if outcome is Outcome.CONVERGED and self._estimate().max() > rtol:
            causes = [f"slices settled one by one; the worst error estimate at the end is {self._estimate().max():.2g}"]
        hit = [i for i, o in enumerate(outcomes) if o is outcome]
        where = f" This holds for {len(hit)} of {len(outcomes)} samples." if len(hit) < len(outcomes) else ""
        return " ".join([outcome.value, *(f"({c})" for c in causes[:1])]) + where

    def _stats(self) -> Stats:
        tally = self.runner.tally
        count = len(self.machines)
        each = [self._sequential_cost(i) for i in range(count)]
        outlets = [m.outlet for m in self.machines]
        span = max((u.depth for u in outlets if u is not None), default=float("nan"))
        return Stats(tally.work, span, tally.calls, tally.peak_batch, self.wall_time, sum(each), max(each))

    def _sequential_cost(self, sample: int) -> float:
        """Return the evaluations of a sample's sequential solve; where a stepper never ran, in proportion to nodes."""
        found = [self.serial.get((sample, n), math.nan) for n in range(self.problem.slices)]
        known = [n for n, cost in enumerate(found) if not math.isnan(cost)]
        if len(known) < len(found) and known and isinstance(leaves(self.problem.propagators[Kind.FINE])[0], Steps):
            lengths = [abs(int(b) - int(a)) for a, b in pairwise(self.problem.boundaries)]
            return sum(found[n] for n in known) / sum(lengths[n] for n in known) * sum(lengths)
        return sum(found)
