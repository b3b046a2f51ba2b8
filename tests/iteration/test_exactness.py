"""Tests of finite termination: run to the end, Parareal has the sequential solution, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, PROBLEMS, EulerStepper, edges, euler_propagator, identical

import parareal

SCHEDULES = ["pipelined", "synchronous"]
EXECUTORS = [parareal.SerialExecutor(), parareal.BatchedExecutor(), parareal.BatchedExecutor(max_batch=3)]


@st.composite
def boundaries(draw):
    gaps = draw(st.lists(st.floats(0.02, 0.15), min_size=1, max_size=7))
    sign = draw(st.sampled_from([1, -1]))
    return (draw(st.floats(-1, 1)) + sign * np.cumsum([0.0, *gaps])).tolist()


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(PROBLEMS)),
    times=boundaries(),
    fine_steps=st.integers(1, 6),
    coarse_steps=st.integers(1, 2),
    schedule=st.sampled_from(SCHEDULES),
    executor=st.sampled_from(EXECUTORS),
)
def test_plain_functions_end_exactly(name, times, fine_steps, coarse_steps, schedule, executor):
    problem = PROBLEMS[name]
    fine, coarse = euler_propagator(problem.rhs, fine_steps), euler_propagator(problem.rhs, coarse_steps)
    reference = parareal.sequential(fine, problem.initial, times)
    options = {"schedule": schedule, "executor": executor}
    end = parareal.Iterations(len(times) - 1)
    solution = parareal.solve(fine, coarse, problem.initial, times, criterion=end, **options)
    assert identical(solution.final_state, reference.final_state)
    assert identical(solution.states, reference.states)
    assert solution.outcome is parareal.Outcome.EXACT
    assert (solution.error_estimate == 0).all()


def build_steppers(method, coarse, dtype, steps, times):
    """Return fine and coarse steppers with a shared right-hand side, so that they share first evaluations."""

    def rhs(u, t):
        return 1 - t * t / 2 - u * u

    grid = (
        torch.linspace(0, 2, steps + 1, dtype=dtype) if isinstance(dtype, torch.dtype) else np.linspace(0, 2, steps + 1)
    )
    return parareal.Steps(METHODS[method](rhs, grid)), parareal.Steps(METHODS[coarse](rhs, grid), steps=1)


@settings(max_examples=80, deadline=None)
@given(
    method=st.sampled_from(sorted(METHODS)),
    coarse=st.sampled_from(sorted(METHODS)),
    dtype=st.sampled_from([torch.float32, torch.float64, "numpy"]),
    slices=st.integers(1, 8),
    extra=st.integers(0, 20),
    schedule=st.sampled_from(SCHEDULES),
    executor=st.sampled_from(EXECUTORS),
)
def test_steppers_end_exactly(method, coarse, dtype, slices, extra, schedule, executor):
    steps = slices + extra
    fine, coarse = build_steppers(method, coarse, dtype, steps, None)
    state = np.array([0.5, -0.2]) if dtype == "numpy" else torch.tensor([0.5, -0.2], dtype=dtype)
    times = edges(steps, slices)
    reference = parareal.sequential(fine, state, times, executor=parareal.SerialExecutor())
    end = parareal.Iterations(slices)
    solution = parareal.solve(fine, coarse, state, times, criterion=end, schedule=schedule, executor=executor)
    assert identical(solution.final_state, reference.final_state)
    assert identical(solution.states, reference.states)


@pytest.mark.parametrize("method", METHODS)
def test_sequential_is_the_plain_loop(method):
    """The division into slices must not change the result: multistep methods keep their memory across boundaries."""
    steps, rhs = 12, lambda u, t: 1 - t * t / 2 - u * u
    grid = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
    stepper = METHODS[method](rhs, grid)
    state = torch.tensor([[0.5, -0.2]], dtype=torch.float64)
    u, memory = state, stepper.begin(state)
    for i in range(steps):
        routine = stepper.step(u, memory, torch.tensor([i]), torch.tensor([i + 1]))
        request = next(routine)
        try:
            while True:
                request = routine.send(rhs(*request))
        except StopIteration as end:
            u, memory = end.value
    for slices in (1, 3, 5, 12):
        solution = parareal.sequential(parareal.Steps(stepper), state[0], edges(steps, slices))
        assert identical(solution.final_state, u[0])


def test_boundaries_may_fall():
    grid = torch.linspace(0, 2, 13, dtype=torch.float64)
    stepper = EulerStepper(lambda u, t: -u, grid)
    fine, coarse = parareal.Steps(stepper), parareal.Steps(stepper, steps=2)
    state, times = torch.ones(1, dtype=torch.float64), [12, 9, 5, 1]
    solution = parareal.solve(fine, coarse, state, times, criterion=parareal.Iterations(3))
    assert identical(solution.final_state, parareal.sequential(fine, state, times).final_state)
    assert solution.final_state > 1


def test_one_slice_is_the_sequential_solve():
    fine, coarse = euler_propagator(lambda t, u: -u, 10), euler_propagator(lambda t, u: -u, 1)
    for schedule in SCHEDULES:
        solution = parareal.solve(fine, coarse, 1.0, [0.0, 1.0], schedule=schedule)
        assert solution.final_state == fine(1.0, 0.0, 1.0)
        assert solution.outcome is parareal.Outcome.EXACT


@settings(max_examples=40, deadline=None)
@given(slices=st.integers(1, 9), schedule=st.sampled_from(SCHEDULES), count=st.integers(0, 9), seed=st.integers(0, 99))
def test_iterates_do_not_depend_on_schedule_or_executor(slices, schedule, count, seed):
    fine, coarse = (euler_propagator(lambda t, u: np.sin(3 * u) + t, n) for n in (9, 2))
    state = np.random.default_rng(seed).normal(size=3)
    times = np.linspace(0, 2, slices + 1)
    results = [
        parareal.solve(fine, coarse, state, times, criterion=parareal.Iterations(count), schedule=s, executor=e)
        for s, e in [("pipelined", None), (schedule, parareal.SerialExecutor())]
    ]
    assert identical(results[0].final_state, results[1].final_state)
    np.testing.assert_array_equal(results[0].increments, results[1].increments)
    np.testing.assert_array_equal(results[0].defects, results[1].defects)


def test_an_infinite_coarse_propagator_does_not_prevent_exactness():
    """The bracket is skipped where its inputs agree, so that inf - inf does not arise."""

    def coarse(u, t0, t1):
        return np.full_like(u, np.inf)

    fine = euler_propagator(lambda t, u: -u, 4)
    times = np.linspace(0, 1, 5)
    reference = parareal.sequential(fine, np.array([1.0]), times)
    solution = parareal.solve(fine, coarse, np.array([1.0]), times, guess=reference.states)
    assert identical(solution.final_state, reference.final_state)
    assert solution.outcome is parareal.Outcome.EXACT


def test_solves_record_no_gradients():
    weight = torch.ones(2, requires_grad=True)
    fine, coarse = (euler_propagator(lambda t, u: -u * weight, n) for n in (8, 1))
    solution = parareal.solve(fine, coarse, torch.ones(2), [0.0, 0.5, 1.0])
    assert not solution.final_state.requires_grad
