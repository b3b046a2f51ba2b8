"""Tests of plain functions in threads and processes: the results of this thread, and messages of failures."""

import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pool_functions as functions
import pytest
import torch
from problems import EulerStepper, identical

import parareal
from parareal._execution.pool import PoolQueue
from parareal.driver import Kind, Layout, Request, Scope, Tally, Value

TIMES = np.linspace(0, 2, 9)
STATE = np.array([1.0, 2.0])


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def loky():
    executor = pytest.importorskip("loky").get_reusable_executor(max_workers=2)
    yield executor
    executor.shutdown(kill_workers=True)


@pytest.mark.parametrize("levels", [None, (4, 3)])
@pytest.mark.parametrize("kind", ["processes", "loky"])
def test_iterates_and_counts_agree_with_those_of_this_thread(kind, levels, request):
    times = TIMES if levels is None else [0.0, 2.0]
    options = {"levels": levels, "criterion": parareal.Iterations(2)}
    here = parareal.solve(functions.decay, functions.jump, STATE, times, executor=parareal.SerialExecutor(), **options)
    pool = request.getfixturevalue(kind)
    there = parareal.solve(functions.decay, functions.jump, STATE, times, executor=pool, **options)
    assert identical(here.states, there.states)
    assert isinstance(there.final_state, np.ndarray)
    assert (here.stats.work, here.stats.span) == (there.stats.work, there.stats.span)
    np.testing.assert_array_equal(here.increments, there.increments)


def test_loky_accepts_lambdas(loky):
    solution = parareal.solve(lambda u, a, b: u * 0.9, lambda u, a, b: u * 0.8, STATE, range(5), executor=loky)
    np.testing.assert_allclose(solution.final_state, STATE * 0.9**4, rtol=1e-6)


def test_every_worker_runs_one_fine_propagation_at_a_time():
    running, most, submitted = 0, 0, 0
    lock = threading.Lock()

    def fine(u, t0, t1):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return functions.decay(u, t0, t1)

    class SubmissionCounter(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            nonlocal submitted
            submitted += 1
            assert self._work_queue.qsize() < 3  # no request is submitted without a free worker
            return super().submit(*args, **kwargs)

    with SubmissionCounter(3) as pool:
        solution = parareal.solve(fine, functions.jump, STATE, TIMES, executor=pool, criterion=parareal.Iterations(2))
        sequential = parareal.sequential(functions.slow_decay, STATE, TIMES)
    assert most == 3
    assert submitted == 8 + 7  # F(0, n) and F(1, n) for n >= 1, not all 64 pairs of k and n
    assert solution.stats.wall_time < 15 / 2 * 0.02 + 0.1 < sequential.stats.wall_time * 2


def test_a_batch_and_torch_states_in_threads():
    states = torch.tensor([[1.0, 2.0], [0.5, 0.1], [3.0, 3.0]], dtype=torch.float64)

    def step(n):
        def propagate(u, t0, t1):
            h = (t1 - t0) / n
            for i in range(n):
                u = u + h * (torch.sin(torch.tensor(3 * (t0 + i * h))) - u)
            return u

        return propagate

    options = {"batch_dims": 1, "criterion": parareal.Increment(1e-8, 1e-8)}
    with ThreadPoolExecutor(4) as pool:
        threads = parareal.solve(step(20), step(1), states, TIMES, executor=pool, **options)
    serial = parareal.solve(step(20), step(1), states, TIMES, **options)
    assert identical(threads.final_state, serial.final_state)
    np.testing.assert_array_equal(threads.slice_iterations, serial.slice_iterations)


def test_a_steppable_coarse_propagator_with_a_pool():
    grid = np.linspace(0, 2, 41)
    coarse = parareal.Steps(EulerStepper(lambda u, t: np.sin(3 * t) - u, grid), 1)

    def fine(u, a, b):
        for i in range(int(a), int(b)):
            u = u + (grid[i + 1] - grid[i]) * (np.sin(3 * grid[i]) - u)
        return u

    with ThreadPoolExecutor(2) as pool:
        solution = parareal.solve(fine, coarse, STATE, range(0, 41, 5), executor=pool)
    np.testing.assert_allclose(solution.final_state, fine(STATE, 0, 40), rtol=1e-5)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_failure_keeps_the_states_of_final_boundaries(kind, request):
    pool = ThreadPoolExecutor(2) if kind == "threads" else request.getfixturevalue("processes")
    with pytest.raises(parareal.PararealError, match="beyond one") as caught:
        parareal.solve(functions.fail_after_one, functions.jump, STATE, TIMES, executor=pool)
    solution = caught.value.solution
    assert solution.outcome is parareal.Outcome.WORKER_LOST
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert np.isfinite(solution.states[:5]).all()
    if kind == "threads":
        pool.shutdown()


def test_the_outcome_of_a_process_that_dies():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        solution = parareal.solve(functions.exit_after_one, functions.jump, STATE, TIMES, executor=pool, throw=False)
    assert solution.outcome is parareal.Outcome.WORKER_LOST
    assert "BrokenProcessPool" in solution.message
    assert np.isfinite(solution.states[:2]).all()


def test_a_function_that_does_not_pickle_raises_before_any_work(processes):
    calls = []

    def coarse(u, t0, t1):
        calls.append(t0)
        return u

    with pytest.raises(TypeError, match=r"fine propagator.*another process.*top of a module"):
        parareal.solve(lambda u, a, b: u, coarse, STATE, TIMES, executor=processes)
    assert not calls


def test_a_result_that_does_not_pickle_raises(processes):
    with pytest.raises(parareal.PararealError, match=r"fine propagator, its state or its result cannot be sent"):
        parareal.solve(functions.return_lock, functions.jump, STATE, TIMES, executor=processes)


@pytest.mark.parametrize("form", ["steps", "vectorized"])
def test_batched_fine_propagators_are_refused(form):
    grid = np.linspace(0, 2, 41)
    steps = parareal.Steps(EulerStepper(lambda u, t: -u, grid))
    fine = steps if form == "steps" else parareal.vectorized(lambda u, a, b: u)
    with ThreadPoolExecutor(1) as pool, pytest.raises(TypeError, match="leave executor out"):
        parareal.solve(fine, steps, STATE, range(0, 41, 5), executor=pool)


def test_other_executors_are_refused():
    with pytest.raises(TypeError, match=r"concurrent\.futures"):
        parareal.solve(functions.decay, functions.jump, STATE, TIMES, executor="threads")


@pytest.mark.parametrize("pooled", [False, True])
def test_returned_costs_count_in_work_and_span(pooled):
    def coarse(u, t0, t1):
        return parareal.Costed(functions.jump(u, t0, t1), 2)

    options = {"criterion": parareal.Iterations(1)}
    if pooled:
        options["executor"] = ThreadPoolExecutor(2)
    solution = parareal.solve(functions.decay_with_cost, coarse, STATE, TIMES, **options)
    assert solution.stats.sequential_work == 4 * 20 + 4 * 30
    assert solution.stats.work == 4 * 20 + 4 * 30 + (8 + 7) * 2
    assert solution.stats.span == 7 * 2 + 30


def test_costs_of_vectorized_functions():
    @parareal.vectorized
    def fine(u, t0, t1):
        return parareal.Costed(u * 0.5, np.where(t0 < 2, 10.0, 20.0))

    @parareal.vectorized
    def coarse(u, t0, t1):
        return parareal.Costed(u * 0.4, 1)

    solution = parareal.solve(fine, coarse, STATE, [0, 1, 2, 3, 4], criterion=parareal.Iterations(1))
    assert solution.stats.sequential_work == 60
    assert solution.stats.work == 60 + 4 + 3


def test_a_fine_propagator_may_be_cheaper_in_early_iterations():
    calls = []

    def fine(u, t0, t1, iteration=None):
        calls.append((t0, iteration))
        return functions.decay(u, t0, t1, steps=40 if iteration is None or iteration > 1 else 10)

    reference = parareal.sequential(fine, STATE, TIMES).final_state
    assert {k for _, k in calls} == {None}
    calls.clear()
    solution = parareal.solve(fine, functions.jump, STATE, TIMES, criterion=parareal.Increment(1e-10, 1e-10))
    assert {0, 1, None} <= {k for _, k in calls}
    # the first input never changes: F runs on it at low accuracy first, and once at full accuracy
    assert calls.count((0.0, None)) == 1
    np.testing.assert_allclose(solution.final_state, reference, rtol=1e-9)
    end = parareal.solve(fine, functions.jump, STATE, TIMES, criterion=parareal.Iterations(16))
    assert end.outcome is parareal.Outcome.EXACT
    assert identical(end.final_state, reference)


def decay_by_iteration(u, t0, t1, iteration=None):
    return functions.decay(u, t0, t1, steps=20 if iteration is None else min(20, iteration + 1))


@pytest.mark.parametrize("levels", [None, (4,), (4, 2)])
@pytest.mark.parametrize("rtol", [1e-2, 1e-8])
def test_a_variable_accuracy_propagator_ends_at_full_accuracy(levels, rtol):
    """Within levels it receives the outermost iteration, and None once its approximate results have converged."""
    times = np.linspace(0, 2, 9) if levels is None else [0.0, 2.0]
    fine = decay_by_iteration if levels is None else parareal.Parareal(decay_by_iteration, functions.jump, 4)
    if levels == (4, 2):  # the same slices, nested
        fine = parareal.Parareal(parareal.Parareal(decay_by_iteration, functions.jump, 2), functions.jump, 4)
    reference = parareal.sequential(fine, STATE, times).final_state
    options = {"levels": levels, "criterion": parareal.Increment(rtol, rtol)}
    solution = parareal.solve(decay_by_iteration, functions.jump, STATE, times, **options)
    assert solution.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)
    np.testing.assert_allclose(solution.final_state, reference, rtol=0, atol=3 * rtol)
    to_the_end = parareal.Iterations(8)
    end = parareal.solve(decay_by_iteration, functions.jump, STATE, times, levels=levels, criterion=to_the_end)
    assert identical(end.final_state, reference)


def test_functions_in_threads_record_no_gradients():
    weights = torch.nn.Linear(2, 2).double()

    def fine(u, t0, t1):
        return u + 0.1 * weights(torch.from_numpy(u)).numpy()

    with ThreadPoolExecutor(2) as pool:
        there = parareal.solve(fine, lambda u, a, b: u, STATE, range(4), executor=pool)
    assert identical(there.final_state, parareal.solve(fine, lambda u, a, b: u, STATE, range(4)).final_state)


def test_fine_propagations_do_not_wait_for_the_whole_prediction():
    start_times = {}

    def fine(u, t0, t1):
        start_times[t0] = time.perf_counter()
        return u

    def coarse(u, t0, t1):
        time.sleep(0.03)
        return u

    with ThreadPoolExecutor(8) as pool:
        pool.submit(int).result()
        start = time.perf_counter()
        parareal.solve(fine, coarse, STATE, range(9), executor=pool, criterion=parareal.Iterations(1))
    assert start_times[0] - start < 0.03 < start_times[7] - start


def test_the_exception_of_a_cancelled_propagation_is_discarded():
    cancelled = threading.Event()

    def fine(u, t0, t1):
        if u[0] == 100.0 and t0 == 1:  # F(1, 1) of the first sample: its solve has ended
            cancelled.wait(5)
            raise ZeroDivisionError("of a cancelled propagation")
        return u * 0.9

    with ThreadPoolExecutor(2) as pool:
        pooled = PoolQueue(Kind.FINE, fine, Layout.of(np.array([1.0])), Tally(), pool)
        scope = Scope()
        request = Request(0, 1, 1, Kind.FINE, Value(1, np.array([100.0])), 1, 2, scope=scope)
        other = Request(1, 1, 1, Kind.FINE, Value(1, np.array([1.0])), 1, 2)
        pooled.add(fine, [request, other])
        scope.close()
        cancelled.set()
        requests = [r for _ in range(2) if not pooled.idle for r, _, _ in pooled.tick()]
    assert [r.sample for r in requests] == [1]
    assert pooled.tally.work == 2


def test_costs_of_samples_and_of_approximate_results():
    def fine(u, t0, t1):
        return parareal.Costed(u * 0.9, 10 if u[0] < 50 else 1000)

    states = np.array([[1.0], [1e9]])
    sequential = parareal.sequential(fine, states, range(4), batch_dims=1)
    solution = parareal.solve(fine, lambda u, a, b: u * 0.8, states, range(4), batch_dims=1)
    assert sequential.stats.work == solution.stats.sequential_work == 3 * 10 + 3 * 1000
    assert solution.stats.sequential_span == 3000

    def cheap_at_first(u, t0, t1, iteration=None):
        return parareal.Costed(u * 0.9, 10 if iteration is None else 2)

    early = parareal.solve(cheap_at_first, lambda u, a, b: u * 0.8, STATE, range(5), criterion=parareal.Iterations(1))
    assert np.isnan(early.stats.sequential_work)  # it never ran at full accuracy


def test_the_error_names_the_propagator_that_does_not_pickle():
    coarse = parareal.Parareal(lambda u, t0, t1: u, lambda u, t0, t1: u, 2)
    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(TypeError, match="the coarse propagator, its state or its result cannot be sent"),
    ):
        parareal.solve(functions.decay, coarse, 1.0, range(3), executor=pool)
