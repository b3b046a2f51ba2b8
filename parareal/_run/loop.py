"""The solve loop behind `solve` and `refine`: one state machine per sample, one runner."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, final

from parareal._execution.choose import build_runner
from parareal._execution.evaluations import Evaluation, EvaluationRoutine, drive
from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Kind, PropagatorFailure, Value
from parareal._problem.problem import Problem, stack_trajectories
from parareal._problem.states import check_guess
from parareal._results.history import History
from parareal._results.solution import Refinement, Solution
from parareal._run.options import Options
from parareal._run.spot_check import SpotChecker
from parareal._run.summary import Costs, Summary
from parareal._state import Stack, State


@final
class Run:
    """One solve: its machines, its runner, and the loop that carries requests and results between them.

    Exhaust `iterations` to run it, or drive `events` yourself; then call `solution`.

    Args:
        problem: propagators, initial states and boundaries, checked.
        options: how to solve it.
    """

    def __init__(self, problem: Problem, options: Options):
        self.problem, self.rules = problem, options.build_rules(problem)
        # One machine per sample: each converges and stops by itself, and no sample waits for another.
        self.machines = self._build_machines(options.guess)
        self.runner = build_runner(problem, options.executor, self.rules)
        self.history = History(problem.slices + 1, len(problem.samples))
        self.costs = Costs()
        self.wall_time = 0.0
        """seconds since the start, as of the last tick"""
        self.error: Exception | None = None
        """the exception of a propagator, or None"""
        self.cancelled = False
        """set it to True to stop after the present iteration"""
        self.checker = SpotChecker(problem, self.rules, options.spot_check) if options.spot_check else None
        """the spot check after the last iteration, or None"""
        self.tick_callback: Callable[[], None] | None = None
        """called after every tick, for progress bars"""
        self._yielded_iteration = -1  # the newest iteration that `events` has yielded
        self._active_samples = set(range(len(self.machines)))  # samples that are not done
        self._samples_to_query = set(self._active_samples)  # samples that may have new requests

    def _build_machines(self, guess: Stack | Sequence[State] | None) -> list[Machine]:
        problem, count = self.problem, len(self.problem.samples)
        guesses = [None] * count
        if guess is not None:
            states = check_guess(guess, problem.slices + 1, count, problem.layout, problem.batch_dims)
            # The guess at the left boundary is ignored: the initial state is known. Nothing is known of the error of
            # the others.
            guesses = [[Value(0, u, estimate=float("inf")) for u in column[1:]] for column in states]
        return [Machine(self.rules, i, range(problem.slices), guesses[i]) for i in range(count)]

    @property
    def done(self) -> bool:
        """Whether all samples are done."""
        return not self._active_samples

    def iterations(self) -> Generator[int, None, None]:
        """Run to the end, yielding the iteration whenever all samples have completed one more."""
        # `closing` runs the `finally` of `events` even if the caller abandons this generator early.
        with closing(self.events()) as events:
            yield from drive(events)

    def events(self) -> Generator[Evaluation | int, Any, None]:
        """Run to the end, driven from outside. Yields evaluations to make, and the number of each completed iteration.

        Send None at the start and after a number. After an `Evaluation` send its value, with `count` rows; if making it
        fails, throw the exception into the generator, which then ends. Plain functions are called here, not yielded. To
        stop early, set `cancelled` and go on, or close the generator. The driver keeps gradients off:
        `with torch.no_grad(), closing(run.events()) as events`.

        A failing propagator raises nothing here. The driver checks `solution().outcome.failed`, and raises
        `PararealError` from `error` itself.
        """
        # Gradients are the driver's task, because a `no_grad` around this generator's body would stay in force in the
        # driver's own code whenever the generator is suspended.
        try:
            yield from self._run_iterations()
        finally:
            self.runner.close()

    def _run_iterations(self) -> Generator[Evaluation | int, Any, None]:
        start_time, measure = time.perf_counter(), self.rules.measure
        for sample, (machine, state) in enumerate(zip(self.machines, self.problem.samples, strict=True)):
            machine.enter(measure.fill_sizes(Value(0, state, exact=True)))
            # a guess with an iteration limit of 0 is done without any propagation
            self._collect(machine, sample)
        while not self.cancelled and not self.done:
            try:
                iteration = yield from self._run_one_iteration(start_time)
            except PropagatorFailure as failure:
                # Only failures of propagators, and faults inside a queue, end with a solution, which keeps everything
                # computed so far. Errors of criteria, and of the rest of the engine, are raised as they are.
                self.error = failure.error
                break
            # it is not newer if the last active sample became done without a further iteration
            if iteration > self._yielded_iteration:
                self._yielded_iteration = iteration
                yield iteration
        if self.checker is not None and self.error is None and not self.cancelled:
            yield from self._run_spot_check(self.checker, start_time)
        self.wall_time = time.perf_counter() - start_time

    def _run_one_iteration(self, start_time: float) -> EvaluationRoutine[int]:
        """Tick until all active samples have completed one more iteration, or none is active; return the newest."""
        # a guess, or a prediction without work, is there before the first tick
        iteration = self._find_completed_iteration()
        while not self.done and iteration <= self._yielded_iteration:
            advanced = yield from self._tick(start_time)
            if self.tick_callback is not None:
                self.tick_callback()
            # looked up only if a sample has advanced: it takes a look at every sample
            if advanced:
                iteration = self._find_completed_iteration()
        return iteration

    def _tick(self, start_time: float) -> EvaluationRoutine[bool]:
        """Queue the requests that are ready, let the runner work once, and pass its results to the machines.

        Returns:
            Whether a sample has completed one more iteration, or is done.
        """
        # Only samples that have received something can have new requests. Sorted, so that the order of requests, and
        # of rows in a batch, is the same in every run.
        for sample in sorted(self._samples_to_query):
            machine = self.machines[sample]
            if ready := machine.take():
                self.runner.add(ready)
            if machine.done:  # a slice that the window has just admitted computed a state that is not finite
                self._collect(machine, sample)
        self._samples_to_query.clear()
        if self.done:
            return True
        results, advanced = (yield from self._run_queues(start_time)), False
        for request, result, _ in results:
            if request.outer is not None:  # the runner has passed it to its inner solve
                continue
            if request.kind is Kind.FINE:
                self.costs.record(request, result)
            # A result may arrive after its sample is done: its cost counts, its state is of no use.
            if request.sample in self._active_samples:
                machine = self.machines[request.sample]
                previous = machine.iteration
                machine.receive(request, result)
                self._samples_to_query.add(request.sample)
                self._collect(machine, request.sample)
                advanced |= machine.iteration > previous or machine.done
        return advanced

    def _run_queues(self, start_time: float) -> EvaluationRoutine[list[Delivery]]:
        """Let the runner work once, record the propagations that end, and return them."""
        # Evaluations pass through this line: they are yielded to the driver of the run, and their values come back.
        results = yield from self.runner.ticking()
        if not results and self.runner.idle:
            raise RuntimeError("parareal: nothing left to run, but the solve is not done; please report this")
        self.history.record_propagations(results, start_time)
        self.wall_time = time.perf_counter() - start_time
        return results

    def _run_spot_check(self, checker: SpotChecker, start_time: float) -> EvaluationRoutine[None]:
        """Run F on accepted states of some slices; all machines have stopped."""
        requests = checker.begin(self.machines, self.summary.samples_to_check())
        try:
            while not checker.done and not self.cancelled:
                self.runner.add_innermost(requests)
                results = yield from self._run_queues(start_time)
                requests = [request for delivery in results for request in checker.receive(delivery)]
        except PropagatorFailure as failure:
            self.error = failure.error

    def _collect(self, machine: Machine, sample: int) -> None:
        """Record a machine's updates, and release everything that it does not need any more."""
        for record in machine.updates:
            self.history.record_update(record)
        machine.updates.clear()
        for slice in machine.newly_done:
            self.runner.discard_trajectories(sample, slice)
        machine.newly_done.clear()
        if machine.done:
            self._active_samples.discard(sample)
            # cancels what it still has in the queues, in whatever order they find it
            machine.scope.close()
            self.runner.drop(sample)

    def _find_completed_iteration(self) -> int:
        """Return the newest iteration that every active sample has completed; of all samples, if none is active."""
        if self._active_samples:
            return min(self.machines[sample].iteration for sample in self._active_samples)
        return max(m.iteration for m in self.machines)

    @property
    def summary(self) -> Summary:
        """The present state of the machines."""
        return Summary(self.problem, self.rules, self.machines, self.history)

    def refinement(self, iteration: int) -> Refinement:
        """Return the newest iterate."""
        summary = self.summary
        return Refinement(
            iteration,
            summary.final_state(),
            self.history.increments(iteration),
            summary.error_estimate(),
            # stacked only when the caller reads `states`: most callers read the final state alone
            partial(stack_trajectories, summary.trajectories(), self.problem.batch_dims),
        )

    def solution(self) -> Solution:
        """Return the solution, also after an early end."""
        return self.summary.solution(self.runner.tally, self.costs, self.wall_time, self.error, self.checker)
