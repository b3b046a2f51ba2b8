"""Tests of work and span: by logging every propagation, and by the laws of docs/explained/theory.md."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, STAGES, EulerStepper, edges, identical

import parareal

A, B = np.uint64(6364136223846793005), np.uint64(1442695040888963407)


class IntegerPropagator:
    """A propagator on integers modulo 2^64, where sums and differences are exact. It logs its calls.

    It is far from linear, so that no iterate is exact earlier than theory says.
    """

    def __init__(self, a):
        self.a, self.calls = np.uint64(a), []

    def __call__(self, u, t0, t1):
        self.calls.append((t0, int(u[0])))
        with np.errstate(over="ignore"):
            return self.a * u * u + B * np.uint64(t0 + 1) + (u >> np.uint64(7))

    def count_per_slice(self, slices):
        return [sum(t == n for t, _ in self.calls) for n in range(slices)]


@settings(max_examples=60, deadline=None)
@given(
    slices=st.integers(1, 9),
    count=st.integers(0, 12),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    executor=st.sampled_from([parareal.SerialExecutor(), parareal.BatchedExecutor(2)]),
)
def test_exactly_the_needed_propagations_run_once(slices, count, schedule, executor):
    fine, coarse = IntegerPropagator(A), IntegerPropagator(3)
    initial = np.array([12345], dtype=np.uint64)
    criterion = parareal.Iterations(count)
    solution = parareal.solve(
        fine, coarse, initial, range(slices + 1), criterion=criterion, schedule=schedule, executor=executor
    )
    last = min(count, slices)
    # F(k, n) for k <= n and k < last; G(k, n) for k <= n and k <= last
    assert fine.count_per_slice(slices) == [min(n + 1, last) for n in range(slices)]
    assert coarse.count_per_slice(slices) == [min(n, last) + 1 for n in range(slices)]
    assert len(set(fine.calls)) == len(fine.calls)
    assert len(set(coarse.calls)) == len(coarse.calls)
    assert solution.iterations == last
    assert solution.stats.work == len(fine.calls) + len(coarse.calls)
    exact = IntegerPropagator(A)
    states = parareal.sequential(exact, initial, range(slices + 1)).states
    for n in range(slices + 1):  # boundary n is exact from iteration n on, and not before
        assert identical(states[n], solution.states[n]) == (n <= last)


def test_slices_stop_when_their_input_has_settled():
    """On a slice whose input has settled by tolerance only the correction of that iteration runs."""
    log = {"fine": [], "coarse": []}

    def build_logged(kind, steps):
        def propagate(u, t0, t1):
            log[kind].append(t0)
            for _ in range(steps):
                u = u * (1 - 0.02 / steps)
            return u

        return propagate

    solution = parareal.solve(
        build_logged("fine", 20), build_logged("coarse", 1), 1.0, range(9), criterion=parareal.Increment(1e-5, 0.0)
    )
    iterations = solution.slice_iterations[:, 0]
    assert solution.outcome is parareal.Outcome.CONVERGED
    assert solution.iterations < 8
    for n in range(1, 8):
        last = iterations[n - 1]
        exact_only = solution.increments[last, n, 0] > 1e-5  # F must run on an exact input that has not settled
        assert log["fine"].count(n) == last + exact_only
        assert log["coarse"].count(n) == last + 1
    assert iterations[-1] < 8


def build_rhs(dtype=torch.float64):
    def evaluate(u, t):
        evaluate.rows.append(len(u))
        return -u * torch.sin(3 * t) - 0.1 * u * u

    evaluate.rows = []
    return evaluate


def build_steps_problem(method, steps):
    evaluate, grid = build_rhs(), torch.linspace(0, 3, steps + 1, dtype=torch.float64)
    return evaluate, METHODS[method](evaluate, grid)


DIVISIONS = [(25, 5), (100, 10), (196, 14), (961, 31), (103, 10), (50, 7), (100, 12), (34, 16)]


@pytest.mark.parametrize(("steps", "slices"), DIVISIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_span_and_work_follow_the_laws(steps, slices, count):
    """With a shared first evaluation the span is M + the sum of the p largest S_n - 1 (eq. 9 and 10)."""
    evaluate, stepper = build_steps_problem("euler", steps)
    nodes = edges(steps, slices)
    lengths = np.diff(nodes)
    state = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solution = parareal.solve(
        parareal.Steps(stepper), parareal.Steps(stepper, 1), state, nodes, criterion=parareal.Iterations(count)
    )
    stats = solution.stats
    assert stats.span == slices + sum(sorted(lengths - 1)[-count:])
    work = slices + sum((lengths[n] - 1) * min(n + 1, count) + min(n, count) for n in range(slices))
    assert stats.work == work == sum(evaluate.rows)
    # one device that takes batches of any size is equivalent to many
    assert stats.calls == len(evaluate.rows) == stats.span
    assert stats.peak_batch == max(evaluate.rows)
    assert (stats.sequential_work, stats.sequential_span) == (steps, steps)
    if steps % slices == 0:
        size = steps // slices
        assert stats.span == count * size + slices - count
        law = slices + sum((slices - j + 1) * (size - 1) + (slices - j) for j in range(1, count + 1))
        assert stats.work == law


@pytest.mark.parametrize(("steps", "slices"), [(25, 5), (100, 10), (103, 10)])
def test_a_run_to_the_end_has_the_sequential_span(steps, slices):
    _, stepper = build_steps_problem("euler", steps)
    state = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solution = parareal.solve(
        parareal.Steps(stepper),
        parareal.Steps(stepper, 1),
        state,
        edges(steps, slices),
        criterion=parareal.Iterations(slices),
    )
    assert solution.outcome is parareal.Outcome.EXACT
    assert solution.stats.span == steps


@pytest.mark.parametrize(("fine", "coarse"), [("rk4", "rk4"), ("rk4", "euler"), ("heun", "heun"), ("ab2", "euler")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_span_and_work_of_methods_with_several_stages(fine, coarse, count):
    """The span is p S + (M - p) c (eq. 11). F and G of one iterate share one evaluation, which reduces the work."""
    steps, slices = 48, 6
    evaluate = build_rhs()
    grid = torch.linspace(0, 3, steps + 1, dtype=torch.float64)
    methods = [METHODS[m](evaluate, grid) for m in (fine, coarse)]
    solution = parareal.solve(
        parareal.Steps(methods[0]),
        parareal.Steps(methods[1], 1),
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        edges(steps, slices),
        criterion=parareal.Iterations(count),
    )
    cost, jump = steps // slices * STAGES[fine], STAGES[coarse]
    assert solution.stats.span == count * cost + (slices - count) * jump
    pairs = sum(min(n + 1, count) for n in range(slices))
    jumps = sum(min(n, count) + 1 for n in range(slices))
    assert solution.stats.work == pairs * (cost - 1) + jumps * jump
    assert sum(evaluate.rows) == solution.stats.work


def test_different_networks_share_nothing():
    steps, slices = 24, 4
    grid = torch.linspace(0, 3, steps + 1, dtype=torch.float64)
    fine, coarse = EulerStepper(build_rhs(), grid), EulerStepper(build_rhs(), grid)
    solution = parareal.solve(
        parareal.Steps(fine),
        parareal.Steps(coarse, 1),
        torch.ones(2, dtype=torch.float64),
        edges(steps, slices),
        criterion=parareal.Iterations(1),
    )
    assert solution.stats.work == sum(fine.evaluate.rows) + sum(coarse.evaluate.rows)
    assert sum(fine.evaluate.rows) == steps
    assert sum(coarse.evaluate.rows) == 2 * slices - 1


def test_span_of_the_synchronous_schedule():
    """M + p (S - 1) + sum of (M - j) (eq. 12): coarse sweeps and fine solves alternate, and share first evaluations."""
    steps, slices = 100, 10
    for count in (1, 2, 3):
        _, stepper = build_steps_problem("euler", steps)
        solution = parareal.solve(
            parareal.Steps(stepper),
            parareal.Steps(stepper, 1),
            torch.ones(2, dtype=torch.float64),
            edges(steps, slices),
            criterion=parareal.Iterations(count),
            schedule="synchronous",
        )
        assert solution.stats.span == slices + sum(9 + slices - j for j in range(1, count + 1))


@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_max_batch_bounds_every_call_and_changes_no_count(most):
    steps, slices, count = 60, 6, 3
    evaluate, stepper = build_steps_problem("heun", steps)
    arguments = (parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.ones(2, dtype=torch.float64))
    free = parareal.solve(*arguments, edges(steps, slices), criterion=parareal.Iterations(count))
    evaluate.rows.clear()
    bound = parareal.solve(
        *arguments,
        edges(steps, slices),
        criterion=parareal.Iterations(count),
        executor=parareal.BatchedExecutor(max_batch=most),
    )
    assert max(evaluate.rows) <= most
    assert bound.stats.peak_batch <= most
    assert (bound.stats.work, bound.stats.span) == (free.stats.work, free.stats.span)
    assert bound.stats.calls >= bound.stats.work / most
    assert identical(bound.final_state, free.final_state)


def test_vectorized_functions_run_in_few_calls():
    calls = []

    def build_propagator(steps):
        def propagate(u, t0, t1):
            calls.append((steps, len(u)))
            h = ((t1 - t0) / steps)[:, None]
            for _ in range(steps):
                u = u - h * u * u
            return u

        return parareal.vectorized(propagate)

    fine, coarse, times = build_propagator(50), build_propagator(1), np.linspace(0, 1, 9)
    solution = parareal.solve(fine, coarse, np.ones(3), times, criterion=parareal.Iterations(2))
    assert [n for steps, n in calls if steps == 50] == [8, 7]  # all slices of an iteration in one call
    alone = parareal.solve(
        fine, coarse, np.ones(3), times, criterion=parareal.Iterations(2), executor=parareal.SerialExecutor()
    )
    assert identical(solution.final_state, alone.final_state)


def test_the_attribute_cost_counts_as_work():
    def fine(u, t0, t1):
        return u * np.exp(t0 - t1)

    fine.cost = 7
    solution = parareal.solve(fine, lambda u, a, b: u * 0.4, 1.0, range(4), criterion=parareal.Iterations(1))
    assert solution.stats.work == 3 * 7 + 3 + 2
    assert solution.stats.sequential_work == 21


class LiveStateCounter(EulerStepper):
    """A stepper that counts the states alive during an evaluation, by the size of their storage."""

    peak = 0

    def __init__(self, grid):
        super().__init__(self.count_states, grid)

    def count_states(self, state, t):
        import gc

        size = state[0].numel()
        sizes = {}
        for x in gc.get_objects():
            if type(x) is torch.Tensor and x.dtype == torch.float64 and x.numel() and x.numel() % size == 0:
                storage = x.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes() / 8 / size
        self.peak = max(self.peak, sum(sizes.values()))
        return -state * t


def test_live_states_grow_with_slices_not_with_steps():
    """Fewer than four states per slice under way and one newest state per boundary, for any number of steps."""
    peaks = []
    for steps in (64, 256):
        stepper = LiveStateCounter(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
        state = torch.ones(1021, dtype=torch.float64)
        arguments = (parareal.Steps(stepper), parareal.Steps(stepper, 1), state, edges(steps, 8))
        solution = parareal.solve(*arguments, criterion=parareal.Iterations(2))
        del solution
        peaks.append(stepper.peak)
    assert max(peaks) < 4 * 8 + 9
    assert peaks[1] <= peaks[0] + 1


def test_a_finished_solve_is_freed_at_once():
    """No reference cycle keeps its states alive until the garbage collector runs."""
    import gc
    import weakref

    stepper = LiveStateCounter(torch.linspace(0, 1, 33, dtype=torch.float64))
    gc.collect()
    gc.disable()
    try:
        solution = parareal.solve(
            parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.ones(1021, dtype=torch.float64), edges(32, 4)
        )
        solution_reference = weakref.ref(solution)
        del solution
        assert solution_reference() is None
        stepper.peak = 0
        stepper.count_states(torch.ones(1, 1021, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
        assert stepper.peak <= 1
    finally:
        gc.enable()
