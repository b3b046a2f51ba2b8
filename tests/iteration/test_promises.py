"""Problems that look converged and are not: no result may claim more than the solve has seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import euler_propagator

import parareal
from parareal import Outcome, Tolerance


def heun_propagator(rhs, steps):
    """Return Heun's method; with one step per slice, Euler's is its embedded method."""

    def propagate(u, t0, t1):
        h = (t1 - t0) / steps
        for i in range(steps):
            t, slope = t0 + i * h, rhs(t0 + i * h, u)
            first = u + h * slope
            u = u + h / 2 * (slope + rhs(t + h, first))
        return u if steps > 1 else parareal.Costed(u, 2, embedded=first)

    return propagate


def relative_error(solution, reference):
    return np.linalg.norm(solution.final_state - reference) / np.linalg.norm(reference)


def assert_promise(solution, reference, rtol):
    """Assert that a solve under `Tolerance` is right to 3 times the tolerance, or does not say CONVERGED."""
    assert solution.outcome in (Outcome.CONVERGED, Outcome.EXACT, Outcome.ITERATION_LIMIT)
    if solution.outcome is not Outcome.ITERATION_LIMIT:
        assert relative_error(solution, reference) <= 3 * rtol


def fast_forcing(t, u):
    return np.cos(4 * np.pi * t) + 0 * u


@pytest.mark.parametrize("rtol", [0.1, 1e-2, 1e-6])
def test_a_coarse_method_that_aliases_the_forcing_is_not_accepted(rtol):
    """One step per period sees the same slope every time, and so does its embedded method."""
    fine, coarse = (heun_propagator(fast_forcing, n) for n in (64, 1))
    initial, times = np.array([1.0]), np.arange(11.0)
    prediction = parareal.solve(fine, coarse, initial, times, criterion=parareal.Iterations(0)).final_state
    assert prediction == pytest.approx([11.0])
    solution = parareal.solve(fine, coarse, initial, times, criterion=Tolerance(rtol))
    assert solution.final_state == pytest.approx([1.0], rel=1e-12)


OSCILLATOR = np.array([[0.0, 1.0], [-4.0, -0.3]])


def push(t, u):
    """Return the slope of a damped oscillator at rest that is pushed once, between the boundaries 5 and 5.5."""
    return OSCILLATOR @ u + np.array([0.0, 1.0 if 5.01 <= t < 5.3 else 0.0])


def trapezoid(u, t0, t1):
    h, unit = t1 - t0, np.eye(2)
    force = push(t0, 0 * u) + push(t1, 0 * u)
    return np.linalg.solve(unit - h / 2 * OSCILLATOR, (unit + h / 2 * OSCILLATOR) @ u + h / 2 * force)


@pytest.mark.parametrize("rtol", [0.1, 1e-2, 1e-6])
def test_a_push_that_only_the_fine_propagator_sees_is_not_missed_from_rest(rtol):
    fine, times, rest = euler_propagator(push, 30), np.linspace(0, 20, 41), np.zeros(2)
    reference = parareal.sequential(fine, rest, times).final_state
    predicted = next(parareal.refine(fine, trapezoid, rest, times))
    assert not predicted.final_state.any()
    assert np.isinf(predicted.error_estimate).all()
    solution = parareal.solve(fine, trapezoid, rest, times, criterion=Tolerance(rtol), throw=False)
    assert_promise(solution, reference, rtol)


def lorenz(t, u):
    x, y, z = u
    return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


@pytest.mark.parametrize(("start", "rtol", "limit"), [(1.0, 1e-2, None), (1.0, 1e-4, None), (5.0, 0.1, 15)])
def test_growth_over_a_chaotic_problem_is_not_overlooked(start, rtol, limit):
    """Two solutions of the Lorenz equations that differ by 1e-12 at first have nothing in common at the end."""
    fine, coarse = heun_propagator(lorenz, 40), heun_propagator(lorenz, 30)
    times, initial = np.linspace(0, 30, 31), np.array([start, 1.0, 1.0])
    reference = parareal.sequential(fine, initial, times).final_state
    with np.errstate(over="ignore", invalid="ignore"):  # iterates on their way may overflow
        solution = parareal.solve(
            fine, coarse, initial, times, criterion=Tolerance(rtol), max_iterations=limit, throw=False
        )
    assert_promise(solution, reference, rtol)


@pytest.mark.parametrize("end", [0.99, 0.999, 0.9999])
@pytest.mark.parametrize("slices", [10, 20])
@pytest.mark.parametrize("coarse_steps", [2, 5])
def test_growth_towards_blow_up_is_not_overlooked(end, slices, coarse_steps):
    """The solution 1 / (1 - t) of u' = u^2 multiplies a change by the square of its own growth."""
    fine, coarse = (heun_propagator(lambda t, u: u * u, n) for n in (60, coarse_steps))
    times, initial = np.linspace(0, end, slices + 1), np.array([1.0])
    reference = parareal.sequential(fine, initial, times).final_state
    for rtol in (0.1, 1e-2, 1e-4):
        solution = parareal.solve(fine, coarse, initial, times, criterion=Tolerance(rtol), throw=False)
        assert_promise(solution, reference, rtol)


@settings(max_examples=60, deadline=None)
@given(
    matrix=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    force=st.sampled_from([0.0, 1.0]),
    initial=st.sampled_from([[0.0, 0.0], [1.0, 0.0], [1.0, -2.0]]),
    fine_steps=st.sampled_from([1, 2, 8]),
    pair=st.booleans(),
    iterations=st.integers(0, 6),
    criterion=st.sampled_from(["iterations", "tolerance", "increment"]),
)
def test_an_estimate_of_zero_means_exact(matrix, force, initial, fine_steps, pair, iterations, criterion):
    """The problems contain all ways to a zero: a state, a change, an embedded difference or F - G that is zero."""

    def rhs(t, u):
        return np.reshape(matrix, (2, 2)) @ u + np.array([0.0, force * (1.01 <= t < 1.4)])

    make = heun_propagator if pair else euler_propagator
    fine, coarse = make(rhs, fine_steps), make(rhs, 1)
    criteria = {
        "iterations": parareal.Iterations(iterations),
        "tolerance": Tolerance(1e-3),
        "increment": parareal.Increment(1e-3),
    }
    times, initial = np.linspace(0, 3, 7), np.array(initial)
    reference = parareal.sequential(fine, initial, times).final_state
    solution = parareal.solve(
        fine, coarse, initial, times, criterion=criteria[criterion], max_iterations=iterations, throw=False
    )
    assert (solution.error_estimate == 0).all() == (solution.outcome is Outcome.EXACT)
    if solution.outcome is Outcome.EXACT:
        np.testing.assert_array_equal(solution.final_state, reference)


def test_an_embedded_difference_of_zero_is_no_estimate():
    fine, coarse = (heun_propagator(fast_forcing, n) for n in (64, 1))
    for iterate in parareal.refine(fine, coarse, np.array([1.0]), np.arange(11.0), criterion=parareal.Iterations(3)):
        assert (iterate.error_estimate > 0).all()


def relaxation(t, u):
    return np.sin(3 * t) - u


@pytest.mark.parametrize("rtol", [1e-2, 1e-4])
def test_approximate_results_of_unknown_error_are_not_accepted(rtol):
    """F makes a fifth of its steps until full accuracy is required, which is far from the answer."""

    def fine(u, t0, t1, iteration=None):
        return euler_propagator(relaxation, 50 if iteration is None else 10)(u, t0, t1)

    initial, times = np.ones(3), np.linspace(0, 10, 11)
    reference = parareal.sequential(fine, initial, times).final_state
    solution = parareal.solve(fine, euler_propagator(relaxation, 5), initial, times, criterion=Tolerance(rtol))
    assert_promise(solution, reference, rtol)
    assert solution.outcome is Outcome.CONVERGED  # the run to the end is not needed


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(("slices", "window"), [(40, 3), (10, 2), (10, 6)])
def test_a_window_converges_on_a_harmless_problem(slices, window, pair):
    """The last slice is admitted on a settled input, and has little evidence of its own."""
    initial, times = np.ones(3), np.linspace(0, 10, slices + 1)
    fine, coarse = (heun_propagator(relaxation, n) for n in (16, 1 if pair else 2))
    reference = parareal.sequential(fine, initial, times).final_state
    solution = parareal.solve(fine, coarse, initial, times, criterion=Tolerance(1e-4), window=window)
    assert_promise(solution, reference, 1e-4)


def test_a_window_over_a_growing_problem_does_not_say_converged():
    """Boundaries settle at a hundredth of the tolerance, and the flow amplifies what is left by 22 000."""

    def growth(t, u):
        return u + np.sin(5 * t)

    initial, times = np.array([1e-3]), np.linspace(0, 10, 41)
    fine, coarse = (heun_propagator(growth, n) for n in (16, 1))
    reference = parareal.sequential(fine, initial, times).final_state
    solution = parareal.solve(fine, coarse, initial, times, criterion=Tolerance(1e-3), window=4, throw=False)
    assert_promise(solution, reference, 1e-3)


def test_increment_says_that_the_flow_amplifies_what_it_accepted():
    fine, coarse = (heun_propagator(lorenz, n) for n in (16, 2))
    initial, times = np.array([1.0, 1.0, 20.0]), np.linspace(0, 15, 151)
    reference = parareal.sequential(fine, initial, times).final_state
    solution = parareal.solve(fine, coarse, initial, times, criterion=parareal.Increment(1e-4))
    assert solution.outcome is Outcome.CONVERGED
    assert relative_error(solution, reference) > 3e-3
    assert "the flow amplifies errors" in solution.message
    tame = parareal.solve(*(heun_propagator(relaxation, n) for n in (16, 2)), np.ones(1), np.linspace(0, 5, 9))
    assert "amplifies" not in tame.message
