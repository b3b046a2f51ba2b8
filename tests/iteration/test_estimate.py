"""Tests of the error estimate of the final state: its formulas, and its ratio to the true error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EulerStepper, euler_propagator

import parareal
from parareal._iteration import error_estimate
from parareal._iteration.error_estimate import ErrorEstimator, Update
from parareal._iteration.error_formulas import (
    CONFLICT_FACTOR,
    EXTRAPOLATION_FACTOR,
    LARGE_CHANGE,
    LARGE_RATE,
    LARGE_SURPRISE,
    LEAST_RATE,
    MEMORY_FACTOR,
    PAIR_FACTOR,
    SCALE_FACTOR,
    UNKNOWN,
    combine_estimates,
    extrapolate_error,
    measure_surprise,
    raise_estimate,
)
from parareal._iteration.error_model import ErrorModel
from parareal._iteration.measure import Measurements
from parareal._iteration.messages import Largest, Result, Sums, Value


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
    """From iteration 2 on the estimate uses measured rates, which change little: it is within a factor of 2.

    The least rate is an addition for safety: this iteration contracts faster, so with it the estimate is larger.
    """
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    # eight numbers, because the error of a single one may pass through zero at the end while its estimate does not
    state = np.random.default_rng(seed).normal(size=8) + 2.0
    times = np.linspace(0, 3, slices + 1)
    safe, _ = compute_errors(fine, coarse, state, times)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_estimate, "LEAST_RATE", 0.0)
        estimates, true = compute_errors(fine, coarse, state, times)
    assert (safe >= estimates).all()
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

    times, state = np.linspace(0, 1.5, 13), np.array([2.0, 1.0])
    fine = euler_propagator(slope, 4000)
    propagator = parareal.vectorized(coarse) if batched else coarse
    estimates, true = compute_errors(fine, propagator, state, times)
    # The estimate is that of the method of lower order, so it is far above the error of the other one.
    assert true[0] < estimates[0] < 300 * true[0]
    for accept, iterations in ((True, 0), (False, 1)):
        criterion = parareal.Tolerance(2 * estimates[0], accept_prediction=accept)
        loose = parareal.solve(euler_propagator(slope, 40), propagator, state, times, criterion=criterion)
        assert (loose.iterations, loose.outcome) == (iterations, parareal.Outcome.CONVERGED)


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


@pytest.mark.parametrize(("slices", "accept", "iterations"), [(4, True, 2), (8, True, 0), (8, False, 1)])
def test_a_prediction_is_accepted_on_request_and_never_with_few_slices(slices, accept, iterations):
    """With few slices a pair is not trusted in the first correction either."""
    grid = torch.linspace(0, 1e-3, 41, dtype=torch.float64)
    stepper = EulerStepper(lambda u, t: -u, grid)
    coarse = parareal.Steps(EulerWithEmbeddedState(stepper.evaluate, grid), 1)
    nodes, criterion = range(0, 41, 40 // slices), parareal.Tolerance(0.1, accept_prediction=accept)
    solution = parareal.solve(
        parareal.Steps(stepper), coarse, torch.ones(1, dtype=torch.float64), nodes, criterion=criterion
    )
    assert (solution.iterations, solution.outcome) == (iterations, parareal.Outcome.CONVERGED)


def test_a_criterion_of_ones_own_decides_about_the_prediction():
    class Loose(parareal.AbstractCriterion):
        def accepts(self, evidence):
            iterations.append(evidence.iteration)
            return True

    class Looser(Loose):
        accept_prediction = True

    def coarse(u, t0, t1):
        second, first = heun(u, t0, t1)
        return parareal.Costed(second, 2, embedded=first)

    for criterion, first in ((Loose(), 1), (Looser(), 0)):
        iterations = []
        parareal.solve(euler_propagator(slope, 40), coarse, np.ones(2), np.linspace(0, 1, 9), criterion=criterion)
        assert min(iterations) == first


def test_the_error_model_of_a_slice():
    """Compare with docs/explained/estimates.md, eq. 16 to 19, evaluated here."""
    model, none = ErrorModel(), (0.0, 0.0)
    first, prediction = Value(1, None, increment=0.5, size=2.0, error=0.1), Value(0, None, size=2.0)
    error = model.update(first, prediction, bracket=0.25, defect=0.2, embedded=(0.4, 0.1))
    rate = max(SCALE_FACTOR * 0.2 / 2.0, PAIR_FACTOR * 0.2 / 0.4 * 0.1 / 0.5)
    assert (model.gain, model.rate) == (0.5, pytest.approx(rate))
    assert error == pytest.approx(0.5 * 0.1 + rate * 0.5)
    second = Value(2, None, increment=0.05, size=2.0, error=0.01)
    error = model.update(second, first, bracket=0.04, defect=0.02, embedded=none)
    assert (model.gain, model.rate) == (pytest.approx(0.04 / 0.05), pytest.approx(0.02 / 0.5))
    assert model.change == pytest.approx(0.8 / 0.5)
    assert error == pytest.approx(model.gain * 0.01 + model.rate * 0.05)
    # nothing is measured on an unchanged input, and the last gain stands
    unchanged = Value(3, None, increment=0.0, error=0.01)
    assert model.update(unchanged, second, 0.0, 0.0, none) == pytest.approx(0.8 * 0.01)


def test_gain_and_rate_never_fall_below_a_share_of_the_last_but_one_measurement():
    """The first rate of all is a guess and not a measurement, so it does not count later."""
    model, size = ErrorModel(), 0.5
    values = [Value(k, None, increment=size, size=2.0, error=0.1) for k in range(6)]
    gains, rates = [0.5, 0.9, 0.2, 0.3, 0.01], [0.3, 0.01, 0.4, 0.2, 0.001]
    for k, (current, previous) in enumerate(zip(values[1:], values, strict=False)):
        model.update(current, previous, gains[k] * size, rates[k] * size, None)
        earlier = k - 1 if k else 0
        assert model.gain == pytest.approx(max(gains[k], MEMORY_FACTOR * gains[earlier]))
        assert model.rate == pytest.approx(max(rates[k], MEMORY_FACTOR * rates[earlier]))
        ratio = gains[k] / gains[earlier]
        assert model.change == pytest.approx(max(ratio, 1 / ratio))


def test_what_was_not_measured_is_not_known():
    prediction, changed = Value(0, None, size=2.0), Value(1, None, increment=0.5, size=2.0, error=0.1)
    model = ErrorModel()
    assert (model.gain, model.rate) == (UNKNOWN, UNKNOWN)
    # F - C has been seen on one state only
    assert model.update(changed, prediction, bracket=0.25, defect=0.2, embedded=None) == UNKNOWN
    # an input that did not change and has no error passes nothing on, whatever the slice does
    exact = changed._replace(increment=0.0, error=0.0)
    assert ErrorModel().update(exact, prediction, bracket=0.0, defect=0.2, embedded=None) == 0
    assert ErrorModel().update(changed._replace(increment=0.0), prediction, 0.0, 0.2, None) == UNKNOWN
    # a pair whose results agree says nothing, unless slices further left have shown what it is worth
    assert ErrorModel().update(changed, prediction, 0.25, 0.2, (0.0, 0.0)) == UNKNOWN
    measured = changed._replace(largest=Largest(0.1, rate=0.7))
    model = ErrorModel()
    assert model.update(measured, prediction, 0.25, 0.2, (0.0, 0.0)) < UNKNOWN
    assert model.rate == max(MEMORY_FACTOR * 0.7, SCALE_FACTOR * 0.2 / 2.0)


def test_an_inner_solve_guesses_without_a_pair():
    """The level further out judges its estimate once more, so the guess (19) from the defect alone is enough there."""
    prediction, changed = Value(0, None, size=2.0), Value(1, None, increment=0.5, size=2.0, error=0.1)
    model = ErrorModel(requires_pair=False)
    error = model.update(changed, prediction, bracket=0.25, defect=0.2, embedded=None)
    assert model.rate == pytest.approx(SCALE_FACTOR * 0.2 / 2.0)
    assert error == pytest.approx(0.5 * 0.1 + model.rate * 0.5)
    # with a pair it makes no difference
    pairs = [ErrorModel(needed).update(changed, prediction, 0.25, 0.2, (0.4, 0.1)) for needed in (True, False)]
    assert pairs[0] == pairs[1] < UNKNOWN


def test_without_a_pair_the_first_update_is_unknown_and_the_second_is_known():
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    iterates = parareal.refine(
        fine, coarse, np.array([2.0, 1.0]), np.linspace(0, 3, 9), criterion=parareal.Iterations(2)
    )
    assert list(np.isfinite([r.error_estimate[0] for r in iterates])) == [False, False, True]


@pytest.mark.parametrize("silent", [(), (3,), (2, 5)])
def test_a_pair_that_is_silent_in_one_slice_relies_on_the_slices_left_of_it(silent):
    """Both results of a multistep method agree in some slices: the rate found further left stands in there."""
    times = np.linspace(0, 3, 9)

    def coarse(u, t0, t1):
        second, first = heun(u, t0, t1)
        agree = any(np.isclose(t0, times[n]) for n in silent)
        return parareal.Costed(second, 2, embedded=second if agree else first)

    estimates, true = compute_errors(euler_propagator(slope, 40), coarse, np.array([2.0, 1.0, 0.5]), times)
    assert true[1] < estimates[1] < UNKNOWN


def test_a_pair_that_is_silent_in_the_first_slices_leaves_the_first_update_unknown():
    times = np.linspace(0, 3, 9)

    def coarse(u, t0, t1):
        second, first = heun(u, t0, t1)
        return parareal.Costed(second, 2, embedded=second if t0 < times[2] - 1e-9 else first)

    estimates, _ = compute_errors(euler_propagator(slope, 40), coarse, np.array([2.0, 1.0, 0.5]), times)
    assert list(np.isfinite(estimates[:3])) == [True, False, True]


@given(a=st.floats(0, 1e6), b=st.floats(0, 1e6))
def test_of_two_estimates_the_smaller_counts_unless_they_contradict_each_other(a, b):
    estimate = combine_estimates(a, b)
    assert estimate == combine_estimates(b, a)
    assert min(a, b) <= estimate <= max(a, b)
    if min(a, b) >= CONFLICT_FACTOR * max(a, b):
        assert estimate == min(a, b)
    else:
        assert estimate == CONFLICT_FACTOR * max(a, b)
    assert combine_estimates(a, UNKNOWN) == UNKNOWN


TINY = Largest(0.0)


@given(estimate=st.floats(1e-12, 1.0), factor=st.floats(1.0, 1e6), left=st.floats(1.0, 1e3))
def test_an_increment_above_the_last_estimate_raises_the_next_one(estimate, factor, left):
    """The increment shows what the estimate of the iterate before was worth."""
    claimed = 1e-6
    assert measure_surprise(factor * claimed, claimed, 1.0) == pytest.approx(factor)
    assert measure_surprise(claimed / factor, claimed, 1.0) == 1.0
    # the iterate before claimed nothing: it was exact, or its error was unknown
    assert measure_surprise(1.0, 0.0, 1.0) == measure_surprise(1.0, UNKNOWN, 1.0) == 1.0
    # a surprise further left fades
    assert measure_surprise(0.0, claimed, left) == max(1.0, left / LARGE_SURPRISE)
    assert raise_estimate(estimate, TINY._replace(surprise=factor)) == pytest.approx(factor * estimate)


@given(rate=st.floats(0.0, 10.0), change=st.floats(1.0, 20.0))
def test_slow_contraction_and_a_changing_gain_raise_the_estimate(rate, change):
    raised = raise_estimate(1e-3, Largest(0.0, rate, change))
    factors = max(1.0, rate / LARGE_RATE), max(1.0, change / LARGE_CHANGE)
    assert raised == pytest.approx(1e-3 * (factors[0] * factors[1]) ** 2)
    if rate <= LARGE_RATE and change <= LARGE_CHANGE:
        assert raised == 1e-3


@given(increment=st.floats(0.0, 1.0), estimate=st.floats(0.0, 1.0))
def test_no_estimate_is_far_below_the_largest_increment(increment, estimate):
    floor = LEAST_RATE * increment
    assert raise_estimate(estimate, Largest(increment)) == max(estimate, floor)
    # a surprise raises what the model says, and the floor stands as it is
    assert raise_estimate(0.0, Largest(increment, surprise=1e3)) == floor


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_an_approximate_fine_result_casts_no_doubt_on_contraction(rate):
    """Its defect contains its own convergence; without the exception nested levels ran to their ends."""
    value = Value(1, np.ones(1), size=1.0, sizes=(1.0,), increment=1e-3, error=1e-4, largest=Largest(1e-3))
    previous = value._replace(iteration=0, estimate=UNKNOWN, largest=Largest(1.0))
    result = Result(np.ones(1), None, 1.0)
    update = Update(value, value, result, result, result, None, None, False, False)
    measured = Measurements(1e-3, rate * 1e-3, 1.0, 1e-16)
    rates = [
        ErrorEstimator(8, True, inexact=inexact).estimate_update(False, 1.0, measured, previous, update).largest.rate
        for inexact in (False, True)
    ]
    assert rates == [pytest.approx(rate), 0.0]


def test_rounding_errors_cast_no_doubt():
    """Ratios of changes that are rounding alone are arbitrary, and so is the ratio of an increment to its estimate."""
    value = Value(1, np.ones(1), size=1.0, sizes=(1.0,), increment=1e-16, error=1e-18, largest=Largest(1e-16))
    previous = value._replace(estimate=1e-18, largest=Largest(1e-15))
    result = Result(np.ones(1), None, 1.0)
    update = Update(value, value, result, result, result, None, None, False, False)
    by_rounding = [
        ErrorEstimator(8, True).estimate_update(False, 1.0, Measurements(5e-16, 5e-16, 1.0, rounding), previous, update)
        for rounding in (0.0, 1e-16)
    ]
    assert by_rounding[0].largest.rate == pytest.approx(5.0)
    assert by_rounding[1].largest.rate == 0
    assert by_rounding[1].estimate < 1e-2 * by_rounding[0].estimate


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
    with pytest.raises(ValueError, match=r"interior must be .* the fraction of rtol"):
        parareal.Tolerance(1e-2, interior=interior)
