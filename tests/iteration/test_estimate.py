"""Tests of the error estimate of the final state: its formulas, and its ratio to the true error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EulerStepper, euler_propagator

import parareal
from parareal._iteration.error_model import (
    EXTRAPOLATION_FACTOR,
    PAIR_FACTOR,
    RATE_FACTOR,
    SCALE_FACTOR,
    ErrorModel,
    extrapolate_error,
)
from parareal._iteration.messages import Sums, Value


def slope(t, u):
    return np.sin(3 * t) - u - 0.2 * np.sin(u)


def compute_errors(fine, coarse, state, times, **options):
    """Return estimates and true relative errors of the iterates."""
    exact = parareal.sequential(fine, state, times).final_state
    iterates = parareal.refine(fine, coarse, state, times, criterion=parareal.Iterations(5), **options)
    pairs = [(r.error_estimate[0], np.abs(r.final_state - exact).max() / np.abs(exact).max()) for r in iterates]
    return np.array(pairs).T


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), slices=st.integers(6, 14))
def test_the_estimate_is_close_to_the_error_of_a_contracting_problem(seed, slices):
    """From iteration 2 on the estimate uses measured rates, which change little: it is within a factor of 2."""
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    # eight numbers, because the error of a single one may pass through zero at the end while its estimate does not
    state = np.random.default_rng(seed).normal(size=8) + 2.0
    estimates, true = compute_errors(fine, coarse, state, np.linspace(0, 3, slices + 1))
    assert np.isinf(estimates[0])  # without an embedded pair nothing is known of the coarse prediction
    above_rounding = true[2:] > 1e-12
    assert (estimates[2:][above_rounding] > 0.5 * true[2:][above_rounding]).all()
    assert (estimates[2:][above_rounding] < 2 * true[2:][above_rounding]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), levels=st.sampled_from([(8, 4), (12, 3), (6, 2, 3)]))
def test_the_estimate_is_not_optimistic_with_levels(seed, levels):
    """From iteration 2 on all levels converge together, and the estimate includes the error of inner solves."""
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    state = np.random.default_rng(seed).normal(size=8) + 2.0
    to_the_end = parareal.Iterations(levels[0])
    exact = parareal.solve(fine, coarse, state, (0.0, 3.0), levels=levels, criterion=to_the_end).final_state
    iterates = parareal.refine(fine, coarse, state, (0.0, 3.0), levels=levels, criterion=parareal.Iterations(4))
    ratios = [r.error_estimate[0] * np.abs(exact).max() / np.abs(r.final_state - exact).max() for r in iterates][2:]
    assert min(ratios) > 0.4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), slices=st.integers(5, 14), rtol=st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_tolerance_stops_within_the_tolerance(seed, slices, rtol):
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    state = np.random.default_rng(seed).normal(size=2) + 2.0
    times = np.linspace(0, 3, slices + 1)
    solution = parareal.solve(fine, coarse, state, times, criterion=parareal.Tolerance(rtol))
    exact = parareal.sequential(fine, state, times).final_state
    assert np.linalg.norm(solution.final_state - exact) <= 2 * rtol * np.linalg.norm(exact)
    assert solution.error_estimate[0] <= rtol


def heun(u, t0, t1):
    h = t1 - t0
    first = u + h * slope(t0, u)
    return u + h / 2 * (slope(t0, u) + slope(t1, first)), first


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_may_return_an_embedded_result(batched):
    def coarse(u, t0, t1):
        if batched:
            t0, t1 = t0[:, None], t1[:, None]
        second, first = heun(u, t0, t1)
        return parareal.Costed(second, 2, embedded=first)

    times, state = np.linspace(0, 3, 13), np.array([2.0, 1.0])
    fine = euler_propagator(slope, 4000)
    propagator = parareal.vectorized(coarse) if batched else coarse
    estimates, true = compute_errors(fine, propagator, state, times)
    # The estimate is that of the method of lower order, so it is far above the error of the other one.
    assert true[0] < estimates[0] < 300 * true[0]
    loose = parareal.solve(fine, propagator, state, times, criterion=parareal.Tolerance(2 * estimates[0]))
    assert (loose.iterations, loose.outcome) == (0, parareal.Outcome.CONVERGED)


class EulerWithEmbeddedState(EulerStepper):
    """Euler's method, with the unchanged state as the embedded second result."""

    def step(self, state, memory, start, stop):
        new, memory = yield from super().step(state, memory, start, stop)
        return new, memory, state


def test_a_stepper_may_return_an_embedded_result_and_the_differences_of_steps_add_up():
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)

    def rhs(u, t):
        return -u + torch.cos(t)

    fine = parareal.Steps(EulerStepper(rhs, grid))
    state = torch.ones(2, dtype=torch.float64)
    estimates = []
    for steps in (1, 2):
        coarse = parareal.Steps(EulerWithEmbeddedState(fine.stepper.evaluate, grid), steps)
        solution = parareal.solve(
            fine,
            coarse,
            state,
            range(0, 41, 5),
            criterion=parareal.Iterations(1),
            callback=lambda r: estimates.append((r.iteration, float(r.error_estimate[0]))),
        )
        assert solution.iterations == 1
    predictions = [estimate for iteration, estimate in estimates if iteration == 0]
    assert all(np.isfinite(predictions))
    # The second result is the state itself, so the embedded differences add up to the distance from the initial state,
    # for any number of steps.
    assert predictions[0] == pytest.approx(predictions[1], rel=0.1)


def test_with_few_slices_an_embedded_pair_does_not_accept_the_prediction():
    grid = torch.linspace(0, 1e-3, 41, dtype=torch.float64)
    stepper = EulerStepper(lambda u, t: -u, grid)
    state = torch.ones(1, dtype=torch.float64)
    for slices, iterations in ((2, 1), (8, 0)):
        coarse = parareal.Steps(EulerWithEmbeddedState(stepper.evaluate, grid), 1)
        nodes = range(0, 41, 40 // slices)
        solution = parareal.solve(parareal.Steps(stepper), coarse, state, nodes, criterion=parareal.Tolerance(0.1))
        assert solution.iterations == iterations


def test_the_error_model_of_a_slice():
    """Compare with docs/explained/estimates.md, eq. 16 to 19, evaluated here."""
    model = ErrorModel()
    first, prediction = Value(1, None, increment=0.5, size=2.0, error=0.1), Value(0, None, size=2.0)
    error = model.update(first, prediction, bracket=0.25, defect=0.2, embedded=(0.4, 0.1))
    rate = max(SCALE_FACTOR * 0.2 / 2.0, PAIR_FACTOR * 0.2 / 0.4 * 0.1 / 0.5)
    assert (model.gain, model.rate) == (0.5, pytest.approx(rate))
    assert error == pytest.approx(0.5 * 0.1 + rate * 0.5)
    second = Value(2, None, increment=0.05, size=2.0, error=0.01)
    error = model.update(second, first, bracket=0.04, defect=0.02, embedded=(0.0, 0.0))
    assert model.rate == pytest.approx(RATE_FACTOR * 0.02 / 0.5)
    assert error == pytest.approx(0.8 * 0.01 + model.rate * 0.05)
    unchanged = Value(3, None, increment=0.0, error=0.01)
    assert model.update(unchanged, second, 0.0, 0.0, (0.0, 0.0)) == pytest.approx(0.8 * 0.01)


def test_the_share_that_is_left_after_cancellation():
    """Eq. 18a: never less than independent contributions leave, and no credit in one and two dimensions."""
    model = ErrorModel(gain=0.5)
    sums = model.propagate_sums(Sums(8.0, 6.0), 3.0)
    assert sums == Sums(7.0, pytest.approx(np.hypot(3.0, 3.0)))
    assert sums.compute_share(7.0, 1000) == 1
    assert sums.compute_share(6.0, 10**9) == pytest.approx(6 / 7)
    assert sums.compute_share(0.1, 10**9) == pytest.approx(np.hypot(3, 3) / 7)
    assert sums.compute_share(0.1, 4) == pytest.approx((np.hypot(3, 3) / 7) ** 0.5)
    assert sums.compute_share(0.1, 2) == sums.compute_share(0.1, 1) == 1
    assert Sums().compute_share(0.0, 64) == 1


def test_the_error_extrapolated_from_increments():
    """Eq. 18b: the rest of a geometric series of increments; infinite if they grow or there is only one."""
    assert extrapolate_error(0.1, 1.0) == pytest.approx(EXTRAPOLATION_FACTOR * 0.1 * 0.1 / (1 - 0.1))
    assert (
        extrapolate_error(0.1, 0.1)
        == extrapolate_error(0.2, 0.1)
        == extrapolate_error(0.1, float("inf"))
        == float("inf")
    )
    assert extrapolate_error(0.0, 0.1) == extrapolate_error(0.0, 0.0) == 0


@pytest.mark.parametrize("interior", [0.0, -1.0, 2.0])
def test_a_bad_fraction_is_refused(interior):
    with pytest.raises(ValueError, match="a fraction of rtol"):
        parareal.Tolerance(1e-2, interior=interior)
