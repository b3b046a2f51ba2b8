"""Conformance: all schedules, windows, executors and levels give the same answer to the same problems."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, PROBLEMS, edges, euler_propagator, identical

import parareal

SCHEDULES = ["pipelined", "synchronous"]
WINDOWS = [None, 1, 2, 3, 20]
LEVELS = [None, (5,), (3, 2), (2, 2, 2)]
EXECUTORS = {
    "serial": lambda: nullcontext(parareal.SerialExecutor()),
    "batched": lambda: nullcontext(parareal.BatchedExecutor()),
    "two rows": lambda: nullcontext(parareal.BatchedExecutor(2)),
    "threads": lambda: ThreadPoolExecutor(2),
}


def outer_slices(levels):
    """Return the number of slices of the outermost level."""
    return 5 if levels is None else levels[0]


def boundaries_for(levels):
    """Return the boundaries; with nested levels, the two ends."""
    return np.linspace(0.0, 1.5, 6) if levels is None else [0.0, 1.5]


def propagators(problem):
    """Return a fine and a coarse function."""
    return euler_propagator(problem.rhs, 6), euler_propagator(problem.rhs, 1)


def sequential_state(problem, levels):
    """Return the final state of the sequential solve, over the innermost slices of nested levels."""
    fine, coarse = propagators(problem)
    for n in reversed(() if levels is None else levels):
        fine = parareal.Parareal(fine, coarse, n)
    times = boundaries_for(levels) if levels is None else [0.0, 1.5]
    return parareal.sequential(fine, problem.initial, times).final_state


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["numpy", "tuple", "float32"])
def test_a_run_to_the_end_is_the_sequential_solution(name, schedule, window, levels, executor):
    problem = PROBLEMS[name]
    with EXECUTORS[executor]() as instance:
        solution = parareal.solve(
            *propagators(problem),
            problem.initial,
            boundaries_for(levels),
            criterion=parareal.Iterations(outer_slices(levels)),
            schedule=schedule,
            window=window,
            levels=levels,
            executor=instance,
        )
    assert solution.outcome is parareal.Outcome.EXACT
    assert identical(solution.final_state, sequential_state(problem, levels))


@settings(max_examples=80, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    window=st.sampled_from(WINDOWS),
    levels=st.sampled_from(LEVELS),
    inner=st.sampled_from([1, 2, None]),
    rtol=st.sampled_from([1e-2, 1e-5, 1e-10]),
    criterion=st.sampled_from([parareal.Increment, parareal.Defect, parareal.Tolerance]),
    seed=st.integers(0, 99),
)
def test_every_configuration_meets_the_tolerance(schedule, window, levels, inner, rtol, criterion, seed):
    """The problem contracts, so the final error is at most a few tolerances."""
    fine, coarse = (euler_propagator(lambda t, u: np.sin(3 * t) - u - 0.2 * np.sin(u), n) for n in (8, 1))
    state = np.random.default_rng(seed).normal(size=3) + 2.0
    # an absolute tolerance, so that a component near zero does not decide
    options = {} if criterion is parareal.Tolerance else {"atol": rtol}
    propagator, times = fine, np.linspace(0.0, 3.0, outer_slices(levels) + 1)
    for n in reversed(() if levels is None else levels[1:]):
        propagator = parareal.Parareal(propagator, coarse, n, inner_iterations=inner)
    reference = parareal.sequential(propagator, state, times).final_state
    solution = parareal.solve(
        propagator, coarse, state, times, criterion=criterion(rtol, **options), schedule=schedule, window=window
    )
    assert solution.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)
    assert np.abs(solution.final_state - reference).max() <= 5 * rtol


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_executors_make_the_same_iterates_and_counts(levels, count):
    """A fixed number of iterations leaves nothing to speculate on, so all executors do the same work."""
    problem = PROBLEMS["numpy"]
    solutions = {}
    for name, create in EXECUTORS.items():
        with create() as executor:
            solution = parareal.solve(
                *propagators(problem),
                problem.initial,
                boundaries_for(levels),
                criterion=parareal.Iterations(count),
                levels=levels,
                executor=executor,
            )
        solutions[name] = solution
    first = solutions["serial"]
    for other in solutions.values():
        assert identical(first.final_state, other.final_state)
        np.testing.assert_array_equal(first.increments, other.increments)
        assert (first.stats.work, first.stats.span) == (other.stats.work, other.stats.span)
        np.testing.assert_array_equal(first.slice_iterations, other.slice_iterations)


@settings(max_examples=25, deadline=None)
@given(
    method=st.sampled_from(["euler", "heun", "rk4", "ab2"]),
    schedule=st.sampled_from(SCHEDULES),
    window=st.sampled_from(WINDOWS),
    levels=st.sampled_from([None, (4, 3), (3, 2, 2)]),
    most=st.sampled_from([1, 3, None]),
    samples=st.integers(1, 3),
    steps=st.integers(24, 40),
)
def test_steppers_give_the_sequential_solution_in_every_configuration(
    method, schedule, window, levels, most, samples, steps
):
    grid = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
    stepper = METHODS[method](lambda u, t: torch.cos(2 * t) - u * u, grid)
    states = torch.linspace(0.1, 1.2, 2 * samples, dtype=torch.float64).reshape(samples, 2)
    nodes = edges(steps, 4) if levels is None else [0, steps]
    options = {"batch_dims": 1, "executor": parareal.BatchedExecutor(most)}
    reference = parareal.sequential(parareal.Steps(stepper), states, [0, steps], **options).final_state
    solution = parareal.solve(
        parareal.Steps(stepper),
        parareal.Steps(stepper, 1),
        states,
        nodes,
        criterion=parareal.Iterations(steps),
        schedule=schedule,
        window=window,
        levels=levels,
        **options,
    )
    assert solution.outcome is parareal.Outcome.EXACT
    if most == 1:
        assert identical(solution.final_state, reference)
    torch.testing.assert_close(solution.final_state, reference, rtol=1e-12, atol=1e-13)
    assert solution.stats.sequential_span == solution.stats.sequential_work / samples


def test_check_needs_no_coarse_propagator():
    assert parareal.check(lambda u, t0, t1: u * 0.5, None, 1.0, range(4)).ok
    calls = []

    def count_calls(u, t0, t1):
        calls.append(0)
        return u + len(calls)

    report = parareal.check(count_calls, None, 1.0, range(4))
    assert not report.ok
    assert "fine returns two different results for one input" in str(report)
