"""The solve loop behind `solve` and `refine`: one state machine per sample, one runner."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, final

from parareal._execution.choose import runner_for
from parareal._execution.evaluations import Asking, Evaluation, drive
from parareal._iteration.machine import Machine
from parareal._iteration.messages import Kind, PropagatorFailure, Value
from parareal._problem.problem import Problem, stack_trajectories
from parareal._problem.states import check_guess
from parareal._results.history import History
from parareal._results.solution import Refinement, Solution
from parareal._run.options import Options
from parareal._run.summary import Costs, Summary
from parareal._state import NORMS, Stack, State


@final
class Run:
    """One solve: carries requests from the machines to the runner, and results back.

    Exhaust `iterations` to run, or drive `events` yourself; then ask for the `solution`.
    """

    def __init__(self, problem: Problem, options: Options):
        self.problem, self.rules = problem, options.rules(problem)
        self.machines = self._machines(options.guess)
        self.runner = runner_for(problem, options.executor, self.rules)
        self.history = History(problem.slices + 1, len(problem.samples))
        self.costs = Costs()
        self.wall_time = 0.0
        self.error: Exception | None = None
        """the exception of a propagator, or None"""
        self.cancelled = False
        """set by the caller to stop after the present iteration"""
        self.watch: Callable[[], None] | None = None
        """called after every tick, for progress bars"""
        self._shown = -1
        self._left = set(range(len(self.machines)))  # samples that are not done
        self._touched = set(self._left)  # samples that may have new requests

    def _machines(self, guess: Stack | Sequence[State] | None) -> list[Machine]:
        problem, count = self.problem, len(self.problem.samples)
        guesses = [None] * count
        if guess is not None:
            states = check_guess(guess, problem.slices + 1, count, problem.layout, problem.batch_dims)
            guesses = [[Value(0, u, estimate=float("inf")) for u in column[1:]] for column in states]
        return [Machine(self.rules, i, range(problem.slices), guesses[i]) for i in range(count)]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self._left

    def iterations(self) -> Generator[int, None, None]:
        """Run to the end, yielding the iteration whenever all samples have made one more."""
        with closing(self.events()) as events:
            yield from drive(events)

    def events(self) -> Generator[Evaluation | int, Any, None]:
        """Run to the end, driven from outside. Yields evaluations to make, and the number of each iteration made.

        Send None at the start and after a number. An `Evaluation` needs a value with `count` rows; if making it fails,
        throw the exception into the generator, which then ends. Plain functions are called here, not yielded. To stop
        early, set `cancelled` and go on, or close the generator. The driver keeps gradients off:
        `with torch.no_grad(), closing(run.events()) as events`.

        Failures do not raise: look at `solution().outcome.failed`, and raise `PararealError` from `error`.
        """
        try:
            yield from self._iterations()
        finally:
            self.runner.close()

    def _iterations(self) -> Generator[Evaluation | int, Any, None]:
        began, norm = time.perf_counter(), NORMS[self.rules.criterion.norm]
        for sample, (machine, state) in enumerate(zip(self.machines, self.problem.samples, strict=True)):
            machine.enter(Value(0, state, exact=True, size=norm(state)))
            self._collect(machine, sample)
        while not self.cancelled and not self.done:
            try:
                reached = yield from self._until_iteration(began)
            except PropagatorFailure as failure:  # errors of criteria, and our own, are passed on as they are
                self.error = failure.error
                break
            if reached > self._shown:
                self._shown = reached
                yield reached
        self.wall_time = time.perf_counter() - began

    def _until_iteration(self, began: float) -> Asking[int]:
        """Tick until all samples have made one more iteration, or nothing is left to do; return the newest."""
        reached = self._reached()  # a guess, or a prediction that takes no work, is there before the first tick
        while not self.done and reached <= self._shown:
            advanced = yield from self._tick(began)
            if self.watch is not None:
                self.watch()
            if advanced:
                reached = self._reached()
        return reached

    def _tick(self, began: float) -> Asking[bool]:
        """Hand over what is ready, let the runner work once, and take its results to the machines.

        Returns whether a sample has made one more iteration, or is done.
        """
        for sample in sorted(self._touched):
            machine = self.machines[sample]
            if ready := machine.take():
                self.runner.add(ready)
            if machine.done:  # a slice that the window admitted met a state that is not finite
                self._collect(machine, sample)
        self._touched.clear()
        if self.done:
            return True
        results = yield from self.runner.ticking()
        if not results and self.runner.idle and not self.done:
            raise RuntimeError("parareal: nothing left to run, but the solve is not done; please report this")
        self.history.record_propagations(results, began)
        self.wall_time, advanced = time.perf_counter() - began, False
        for request, result, _ in results:
            if request.outer is not None:  # the runner has given it to its inner solve
                continue
            if request.kind is Kind.FINE:
                self.costs.record(request, result)
            if request.sample in self._left:
                machine = self.machines[request.sample]
                before = machine.reached
                machine.receive(request, result)
                self._touched.add(request.sample)
                self._collect(machine, request.sample)
                advanced |= machine.reached > before or machine.done
        return advanced

    def _collect(self, machine: Machine, sample: int) -> None:
        """Record a machine's updates, and release what it does not need any more."""
        for record in machine.updates:
            self.history.record_update(record)
        machine.updates.clear()
        for slice in machine.newly_done:
            self.runner.forget(sample, slice)
        machine.newly_done.clear()
        if machine.done:
            self._left.discard(sample)
            machine.scope.close()
            self.runner.drop(sample)

    def _reached(self) -> int:
        """Return the newest iteration that every sample has reached or does not need."""
        if self._left:
            return min(self.machines[sample].reached for sample in self._left)
        return max(m.reached for m in self.machines)

    @property
    def summary(self) -> Summary:
        """What the machines have reached."""
        return Summary(self.problem, self.rules, self.machines, self.history)

    def refinement(self, iteration: int) -> Refinement:
        """Return the newest iterate."""
        summary = self.summary
        return Refinement(
            iteration,
            summary.final_state(),
            self.history.increments(iteration),
            summary.error_estimate(),
            partial(stack_trajectories, summary.trajectories(), self.problem.batch_dims),
        )

    def solution(self) -> Solution:
        """Return the solution, also after an early end."""
        return self.summary.solution(self.runner.tally, self.costs, self.wall_time, self.error)
