"""Tests of queues: waiting rows cost nothing, cancelled ones are dropped, and users can write executors."""

import gc
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import lines_run
from problems import METHODS, identical

import parareal
from parareal.driver import FunctionQueue, Kind, Layout, Queue, Request, Scope, StepperQueue, Tally, Value


def build_stepper(steps=48, method="euler"):
    return METHODS[method](lambda u, t: np.sin(3 * u) - u, np.linspace(0, 2, steps + 1))


def build_initial(samples):
    return np.linspace(-1, 1, 2 * samples).reshape(samples, 2)


def solve_steps(samples, **options):
    fine, coarse = parareal.Steps(build_stepper()), parareal.Steps(build_stepper(), 1)
    options = {"slices": 6} | options
    return parareal.solve(fine, coarse, build_initial(samples), (0, 48), batch_dims=1, **options)


def solve_functions(samples, slices=6, **options):
    def fine(u, t0, t1):
        return u * 0.5

    arguments = fine, lambda u, t0, t1: u * 0.4, build_initial(samples), (0.0, 1.0)
    options = {"criterion": parareal.Iterations(2)} | options
    return parareal.solve(*arguments, batch_dims=1, slices=slices, **options)


SMALL_BATCHES = parareal.BatchedExecutor(max_batch=4)
SOLVES = {
    "plain functions": solve_functions,
    "one row at a time": lambda n: solve_steps(n, criterion=parareal.Iterations(2), executor=parareal.SerialExecutor()),
    "max_batch": lambda n: solve_steps(n, criterion=parareal.Iterations(2), executor=SMALL_BATCHES),
    "levels": lambda n: solve_steps(
        n, levels=(3, 4), slices=None, criterion=parareal.Increment(1e-3), executor=SMALL_BATCHES
    ),
}


@pytest.mark.parametrize("kind", SOLVES)
def test_the_cost_of_an_evaluation_does_not_depend_on_the_number_of_samples(kind):
    solve = SOLVES[kind]

    def lines_per_evaluation(samples):
        work = []
        lines = lines_run(lambda: work.append(solve(samples).stats.work))
        return lines / work[0]

    assert lines_per_evaluation(48) < 1.3 * lines_per_evaluation(6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"callback": lambda refinement: [refinement.final_state]},
        {"window": 8, "criterion": parareal.Increment(1e-4)},
        {"schedule": "synchronous"},
        {"speculate_until": 1},
    ],
)
def test_the_cost_of_a_propagation_does_not_depend_on_the_number_of_slices(options):
    def lines_per_propagation(slices):
        work = []
        lines = lines_run(lambda: work.append(solve_functions(1, slices, **options).stats.work))
        return lines / work[0]

    assert lines_per_propagation(320) < 1.3 * lines_per_propagation(40)


@settings(max_examples=25, deadline=None)
@given(
    most=st.integers(1, 9),
    samples=st.integers(1, 4),
    method=st.sampled_from(["euler", "heun", "ab2"]),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
)
def test_max_batch_bounds_every_call_and_changes_no_iterate(most, samples, method, schedule):
    rows = []

    def rhs(u, t):
        rows.append(len(u))
        return np.sin(3 * u) - u

    method = METHODS[method](rhs, np.linspace(0, 2, 25))
    arguments = parareal.Steps(method), parareal.Steps(method, 1), build_initial(samples), range(0, 25, 6)
    options = {"batch_dims": 1, "criterion": parareal.Iterations(2), "schedule": schedule}
    expected = parareal.solve(*arguments, **options)
    rows.clear()
    solution = parareal.solve(*arguments, executor=parareal.BatchedExecutor(max_batch=most), **options)
    np.testing.assert_allclose(solution.states, expected.states, rtol=1e-12)
    assert max(rows) == solution.stats.peak_batch <= most
    assert sum(rows) == solution.stats.work


def build_request(state, scope, kind=Kind.FINE, sample=0, slice=0):
    return Request(sample, slice, 0, kind, Value(0, state), 4 * slice, 4 * slice + 4, scope=scope)


@pytest.mark.parametrize("most", [None, 1])
def test_cancelled_rows_are_dropped(most):
    """Cancelled rows are dropped at the end of their step, and their states are freed."""
    fine = parareal.Steps(build_stepper(method="rk4"))
    queue = StepperQueue(Layout.of(np.ones(2)), most, Tally())
    cancelled, active = Scope(), Scope()
    cancelled_state = np.ones(2)
    reference = weakref.ref(cancelled_state)
    queue.add(fine, [build_request(cancelled_state, cancelled), build_request(np.zeros(2), active, sample=1)])
    del cancelled_state
    routine = queue.ticking()
    evaluation = next(routine)
    cancelled.close()
    results = []
    while True:
        try:
            evaluation = routine.send(evaluation.make())
        except StopIteration as end:
            results = end.value
            break
    del evaluation, routine
    assert [delivery.request.sample for delivery in results] == [1]
    assert queue.idle
    gc.collect()
    assert reference() is None


def test_cancelled_functions_are_not_called():
    calls = []

    def fine(u, t0, t1):
        calls.append(u)
        return u

    queue = FunctionQueue(Kind.FINE, fine, Layout.of(1.0), None, Tally())
    cancelled, active = Scope(), Scope()
    queue.add(fine, [build_request(1.0, cancelled), build_request(2.0, active)])
    cancelled.close()
    while queue.tick():
        pass
    assert calls == [2.0]
    assert queue.idle


@dataclass
class LastInFirstOutQueue(Queue):
    """A user's own queue, which runs the last request first and logs every request."""

    function: object
    log: list
    tally: Tally
    waiting: list = field(default_factory=list)
    closed: bool = False

    def add(self, propagator, requests):
        assert propagator is self.function
        self.waiting += requests

    @property
    def idle(self):
        return not self.waiting

    def tick(self):
        while self.waiting:
            request = self.waiting.pop()
            if not request.cancelled:
                self.log.append((request.kind, request.slice, request.iteration))
                state = self.function(request.value.state, request.start, request.stop)
                self.tally.call(1)
                return [parareal.driver.Delivery(request, parareal.driver.Result(state, None, 1), 0.0)]
        return []

    def close(self):
        self.log.append("closed")


@dataclass
class LoggingExecutor(parareal.AbstractExecutor):
    """A user's own executor, written from the API page."""

    log: list = field(default_factory=list)

    def functions(self, kind, function, layout, tally):
        return LastInFirstOutQueue(function, self.log, tally)

    def steppers(self, layout, tally):
        return StepperQueue(layout, None, tally)


def test_an_executor_of_the_users_own_makes_the_same_iterates():
    def fine(u, t0, t1):
        return u * np.exp(t0 - t1)

    def coarse(u, t0, t1):
        return u * (1 + t0 - t1)

    arguments, executor = (fine, coarse, np.ones(2), np.linspace(0, 1, 7)), LoggingExecutor()
    expected = parareal.solve(*arguments, criterion=parareal.Iterations(3))
    solution = parareal.solve(*arguments, criterion=parareal.Iterations(3), executor=executor)
    assert identical(solution.states, expected.states)
    assert executor.log.count("closed") == 2
    assert len([entry for entry in executor.log if entry != "closed"]) == solution.stats.work


def test_an_exception_of_a_callback_closes_the_run_at_once():
    executor = LoggingExecutor()

    def callback(refinement):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        parareal.solve(
            lambda u, a, b: u * 0.5, lambda u, a, b: u * 0.4, 1.0, range(5), executor=executor, callback=callback
        )
    assert executor.log[-1] == "closed"
