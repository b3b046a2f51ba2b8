"""Tests of iterates that are not finite: another state stands in for them, and only F can make a solve fail."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import METHODS, euler_propagator, identical

import parareal

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

CORRECTIONS = [parareal.CoarseDifference(), parareal.Identity(), parareal.Zero()]
OPTIONS = [
    {},
    {"schedule": "synchronous"},
    {"executor": parareal.SerialExecutor()},
    {"speculate_until": 0},
    {"schedule": "synchronous", "speculate_until": 1},
]
SUCCESS = (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)


def spoil(propagator, share, value, seed, spared=()):
    """Return a propagator with `value` in place of its result for a share of all states, except for spared states."""

    def propagate(u, t0, t1):
        number = zlib.crc32(u.tobytes() + np.float64(t0).tobytes(), seed)
        spoiled = number % 100 < share and u.tobytes() not in spared
        return np.full_like(u, value) if spoiled else propagator(u, t0, t1)

    return propagate


@st.composite
def fragile_problems(draw):
    """Draw propagators that are not finite from some states, F from none of the sequential solution."""
    slices, value = draw(st.integers(1, 7)), draw(st.sampled_from([np.inf, -np.inf, np.nan]))
    fine, coarse = (euler_propagator(lambda t, u: np.sin(3 * u) + t, n) for n in (6, 1))
    times, state, seed = np.linspace(0, 2, slices + 1), np.array([0.3, -1.2]), draw(st.integers(0, 99))
    reference = parareal.sequential(fine, state, times)
    shares = [draw(st.sampled_from([0, 30, 60, 100])) for _ in range(2)]
    spared = {u.tobytes() for u in reference.states}
    return spoil(fine, shares[0], value, seed, spared), spoil(coarse, shares[1], value, seed), state, times, reference


@settings(max_examples=120, deadline=None)
@given(
    problem=fragile_problems(),
    correction=st.sampled_from(CORRECTIONS),
    options=st.sampled_from([*OPTIONS, {"window": 2}, {"window": 3, "speculate_until": 0}]),
    guess=st.sampled_from([None, "near", "far"]),
)
def test_a_run_to_the_end_is_the_sequential_solution(problem, correction, options, guess):
    fine, coarse, state, times, reference = problem
    factor = {None: None, "near": 1 + 1e-9, "far": -3.0}[guess]
    states = None if factor is None else reference.states * factor
    end = parareal.Iterations(len(times) - 1)
    solution = parareal.solve(fine, coarse, state, times, correction=correction, guess=states, criterion=end, **options)
    assert solution.outcome is parareal.Outcome.EXACT
    assert identical(solution.states, reference.states)
    assert (solution.error_estimate == 0).all()


@settings(max_examples=60, deadline=None)
@given(
    problem=fragile_problems(),
    correction=st.sampled_from(CORRECTIONS),
    options=st.sampled_from(OPTIONS),
    count=st.integers(0, 7),
)
def test_iterates_do_not_depend_on_the_order_of_work(problem, correction, options, count):
    """Every iterate is finite, and the estimate of one that depends on a substitute is infinite."""
    fine, coarse, state, times, _ = problem
    common = {"correction": correction, "criterion": parareal.Iterations(count)}
    a, b = (parareal.solve(fine, coarse, state, times, **common, **o) for o in ({}, options))
    assert identical(a.states, b.states)
    assert np.isfinite(a.states).all()
    np.testing.assert_array_equal(a.increments, b.increments)
    np.testing.assert_array_equal(a.defects, b.defects)
    np.testing.assert_array_equal(a.error_estimate, b.error_estimate)
    assert a.message == b.message
    assert a.outcome in (parareal.Outcome.EXACT, parareal.Outcome.ITERATIONS_DONE)
    assert not np.isnan(a.error_estimate).any()


@settings(max_examples=120, deadline=None)
@given(
    problem=fragile_problems(),
    criterion=st.sampled_from([parareal.Increment(1e-10), parareal.Defect(1e-10), parareal.LastChange(1e-10)]),
    options=st.sampled_from(OPTIONS),
)
def test_a_substitute_is_not_accepted(problem, criterion, options):
    """States that stand still because another one is not finite would fool every criterion on increments."""
    fine, coarse, state, times, reference = problem
    solution = parareal.solve(fine, coarse, state, times, criterion=criterion, **options)
    assert solution.outcome in SUCCESS
    np.testing.assert_allclose(solution.final_state, reference.final_state, rtol=1e-6, atol=1e-8)


def stable_step(u, t0, t1):
    """Return an implicit Euler step of u' = cos(t) - u."""
    return (u + (t1 - t0) * np.cos(t0)) / (1 + t1 - t0)


def cubic_decay(u, t0, t1):
    """Return the exact solution of u' = -u^3."""
    return u / np.sqrt(1 + 2 * u * u * (t1 - t0))


def blow_up(u, t0, t1):
    """Return the exact solution of u' = u^2, which is infinite from a state that blows up before t1."""
    return np.where(u * (t1 - t0) < 1, u / (1 - u * (t1 - t0)), np.inf)


@st.composite
def unstable_problems(draw):
    """Draw problems on which coarse explicit Euler steps overflow: F, G, initial state, length, slices."""
    slices = draw(st.integers(2, 12))
    name = draw(st.sampled_from(["stiff", "cubic", "quadratic"]))
    if name == "stiff":
        rate = 10 ** draw(st.floats(1, 3))
        coarse = euler_propagator(lambda t, u: -rate * (u - np.cos(t)) * (1 + u * u), 4)
        return stable_step, coarse, 1.0, 40 * slices, slices
    if name == "cubic":
        start, length = 10 ** draw(st.floats(0, 2)), draw(st.floats(50, 300))
        return cubic_decay, euler_propagator(lambda t, u: -(u**3), 6), start, length, slices
    return blow_up, euler_propagator(lambda t, u: 1.5 * u * u, 30), 1.0, draw(st.floats(0.5, 0.99)), slices


@settings(max_examples=80, deadline=None)
@given(
    problem=unstable_problems(),
    tolerance=st.sampled_from([0.0, 1e-5, 1e-8]),
    options=st.sampled_from([*OPTIONS, {"window": 3}]),
)
def test_unstable_coarse_propagators_cost_iterations_only(problem, tolerance, options):
    fine, coarse, start, end, slices = problem
    # near blow-up, states far off make increments that are no measure of the error, so no estimate is tested there
    use_increment = tolerance == 0 or end < 1
    criterion = parareal.Increment(1e-9) if use_increment else parareal.Tolerance(tolerance)
    arguments = np.array([start]), np.linspace(0, end, slices + 1)
    reference = parareal.sequential(fine, *arguments)
    solution = parareal.solve(fine, coarse, *arguments, criterion=criterion, **options)
    assert solution.outcome in SUCCESS
    np.testing.assert_allclose(
        solution.final_state, reference.final_state, rtol=1e-7 if use_increment else 10 * tolerance
    )
    to_the_end = parareal.solve(fine, coarse, *arguments, criterion=parareal.Iterations(slices), **options)
    assert identical(to_the_end.states, reference.states)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("options", [{}, {"window": 3}, {"levels": (4, 2)}])
def test_steppers_with_memory_end_exactly(method, kind, options):
    """The coarse memory overflows with the coarse state; then G begins afresh."""
    grid = torch.linspace(0, 40, 161, dtype=torch.float64) if kind == "torch" else np.linspace(0, 40, 161)
    state = torch.tensor([3.0, 1.0], dtype=torch.float64) if kind == "torch" else np.array([3.0, 1.0])
    stepper = METHODS[method](lambda u, t: -(u**3) / 5 - 0.5 * u, grid)
    fine, coarse = parareal.Steps(stepper), parareal.Steps(METHODS["ab2"](lambda u, t: -(u**3) * 5, grid), 8)
    if "levels" in options:
        fine, options = parareal.Parareal(fine, coarse, 2), {}
    times = range(0, 161, 20)
    reference = parareal.sequential(parareal.Steps(stepper), state, times, executor=parareal.SerialExecutor())
    solution = parareal.solve(
        fine, coarse, state, times, criterion=parareal.Iterations(8), executor=parareal.SerialExecutor(), **options
    )
    assert identical(solution.states, reference.states)
    assert "an iterate was not finite" in solution.message


@settings(max_examples=30, deadline=None)
@given(slices=st.integers(2, 8), at=st.integers(0, 7), options=st.sampled_from([*OPTIONS, {"window": 2}]))
@example(slices=4, at=3, options={"window": 2})
def test_the_fine_propagator_is_blamed_where_it_overflows(slices, at, options):
    at = min(at, slices - 1)

    def fine(u, t0, t1):
        return u * (np.inf if t0 == at else 0.9)

    solution = parareal.solve(fine, lambda u, t0, t1: u * 0.5, np.ones(2), range(slices + 1), throw=False, **options)
    assert solution.outcome is parareal.Outcome.NON_FINITE
    assert f"the state at the end of slice {at} is not finite" in solution.message
    assert "the fine propagator returns NaN or infinity from the sequential state" in solution.message
    assert "coarse" not in solution.message


def test_the_other_samples_of_a_batch_are_not_disturbed():
    def coarse(u, t0, t1):
        return np.where(u > 5, np.inf, u * 0.5)

    initial = np.array([[1.0], [9.0], [2.0]])
    solution = parareal.solve(lambda u, t0, t1: u * 0.9, coarse, initial, range(7), batch_dims=1)
    for i in range(3):
        alone = parareal.solve(lambda u, t0, t1: u * 0.9, coarse, initial[i], range(7))
        assert identical(solution.final_state[i], alone.final_state)
        np.testing.assert_array_equal(solution.slice_iterations[:, i], alone.slice_iterations[:, 0])


def test_the_message_counts_the_slices_and_names_the_remedy():
    def coarse(u, t0, t1):
        return u * (float("nan") if t0 in (1, 4) else 0.5)

    solution = parareal.solve(lambda u, t0, t1: u * 0.9, coarse, 1.0, range(7))
    assert solution.outcome in SUCCESS
    assert "in 2 of 6 slices an iterate was not finite and the fine result stood in" in solution.message
    assert "a more stable coarse propagator" in solution.message


@pytest.mark.parametrize("criterion", [parareal.Iterations(2), None])
def test_an_end_on_a_substitute_has_no_estimate(criterion):
    """In slice 4, F is finite from the sequential state alone, which arrives later."""

    def fine(u, t0, t1):
        return u * 0.5 if t0 != 4 or u == 0.5**4 else float("inf")

    solution = parareal.solve(
        fine, lambda u, a, b: u * 0.7, 1.0, range(7), criterion=criterion, max_iterations=2, throw=False
    )
    expected = parareal.Outcome.ITERATIONS_DONE if criterion else parareal.Outcome.ITERATION_LIMIT
    assert solution.outcome is expected
    assert solution.error_estimate[0] == np.inf
    assert np.isfinite(solution.states).all()


def test_a_fine_propagator_that_is_not_finite_from_an_accepted_state_ends_the_solve():
    """No further iteration would change that state."""

    def fine(u, t0, t1):
        return u * 0.5 if t0 < 3 or u == 0.125 else float("inf")

    solution = parareal.solve(
        fine, lambda u, a, b: u * 0.5001, 1.0, range(6), criterion=parareal.Increment(1e-2), throw=False
    )
    assert solution.outcome in (parareal.Outcome.NON_FINITE, parareal.Outcome.EXACT)
    assert (solution.outcome is parareal.Outcome.EXACT) or "a smaller tolerance" in solution.message


def test_a_prediction_waits_for_the_fine_propagator_where_the_coarse_one_is_not_finite():
    solution = parareal.solve(
        lambda u, t0, t1: u * 0.5, lambda u, t0, t1: u * float("inf"), 1.0, range(5), criterion=parareal.Iterations(0)
    )
    assert solution.outcome is parareal.Outcome.EXACT
    assert solution.final_state == 0.5**4
    assert solution.stats.span == 2 * 4  # G and F of every slice, one after another


def test_an_approximate_result_that_is_not_finite_is_replaced():
    """With `iteration=`, F may overflow in cheap early iterations; at full accuracy it is finite."""

    def fine(u, t0, t1, *, iteration):
        return u * (0.5 if iteration is None or iteration > 1 else float("inf"))

    for criterion in (parareal.Iterations(5), parareal.Increment(1e-9), parareal.Tolerance(1e-6)):
        for options in OPTIONS:
            solution = parareal.solve(fine, lambda u, t0, t1: u * 0.4, 1.0, range(6), criterion=criterion, **options)
            assert solution.outcome in SUCCESS
            assert solution.final_state == pytest.approx(0.5**5, rel=1e-6)
