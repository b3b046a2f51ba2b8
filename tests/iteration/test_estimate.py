"""The estimate of the final state's error: what it is made of, and that it is about right where theory says so."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EulerStepper, euler_propagator

import parareal
from parareal._iteration.error_model import CONTRACTED, PAIR, RATE, SCALE, ErrorModel, contracted
from parareal._iteration.messages import Sums, Value


def slope(t, u):
    return np.sin(3 * t) - u - 0.2 * np.sin(u)


def errors(fine, coarse, state, times, **options):
    """Return estimates and true relative errors of the iterates."""
    answer = parareal.sequential(fine, state, times).final_state
    found = parareal.refine(fine, coarse, state, times, criterion=parareal.Iterations(5), **options)
    pairs = [(r.error_estimate[0], np.abs(r.final_state - answer).max() / np.abs(answer).max()) for r in found]
    return np.array(pairs).T


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), slices=st.integers(6, 14))
def test_the_estimate_is_about_the_error_of_a_contracting_problem(seed, slices):
    """From iteration 2 on, made of measured rates, it is neither far below nor far above: rates change a little."""
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    # of a single number the error may pass through zero at the end, whatever is estimated
    state = np.random.default_rng(seed).normal(size=8) + 2.0
    estimates, true = errors(fine, coarse, state, np.linspace(0, 3, slices + 1))
    assert np.isinf(estimates[0])  # without an embedded pair nothing is known of the sketch
    known = true[2:] > 1e-12
    assert (estimates[2:][known] > 0.5 * true[2:][known]).all()
    assert (estimates[2:][known] < 2 * true[2:][known]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), levels=st.sampled_from([(8, 4), (12, 3), (6, 2, 3)]))
def test_levels_do_not_make_it_optimistic(seed, levels):
    """From iteration 2 on all levels converge together; what inner solves may still have left is counted."""
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    state = np.random.default_rng(seed).normal(size=8) + 2.0
    to_the_end = parareal.Iterations(levels[0])
    answer = parareal.solve(fine, coarse, state, (0.0, 3.0), levels=levels, criterion=to_the_end).final_state
    found = parareal.refine(fine, coarse, state, (0.0, 3.0), levels=levels, criterion=parareal.Iterations(4))
    ratios = [r.error_estimate[0] * np.abs(answer).max() / np.abs(r.final_state - answer).max() for r in found][2:]
    assert min(ratios) > 0.4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), slices=st.integers(5, 14), rtol=st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_it_stops_within_the_tolerance(seed, slices, rtol):
    fine, coarse = (euler_propagator(slope, n) for n in (16, 1))
    state = np.random.default_rng(seed).normal(size=2) + 2.0
    times = np.linspace(0, 3, slices + 1)
    solution = parareal.solve(fine, coarse, state, times, criterion=parareal.Tolerance(rtol))
    answer = parareal.sequential(fine, state, times).final_state
    assert np.linalg.norm(solution.final_state - answer) <= 2 * rtol * np.linalg.norm(answer)
    assert solution.error_estimate[0] <= rtol


def heun(u, t0, t1):
    h = t1 - t0
    first = u + h * slope(t0, u)
    return u + h / 2 * (slope(t0, u) + slope(t1, first)), first


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_may_return_an_embedded_answer(batched):
    def coarse(u, t0, t1):
        if batched:
            t0, t1 = t0[:, None], t1[:, None]
        second, first = heun(u, t0, t1)
        return parareal.Costed(second, 2, embedded=first)

    times, state = np.linspace(0, 3, 13), np.array([2.0, 1.0])
    fine = euler_propagator(slope, 4000)
    given_ = parareal.vectorized(coarse) if batched else coarse
    estimates, true = errors(fine, given_, state, times)
    assert true[0] < estimates[0] < 300 * true[0]  # that of the lower order, so not a close one
    loose = parareal.solve(fine, given_, state, times, criterion=parareal.Tolerance(2 * estimates[0]))
    assert (loose.iterations, loose.outcome) == (0, parareal.Outcome.CONVERGED)


class Pair(EulerStepper):
    """Euler's method, and the state itself as the second answer."""

    def step(self, state, memory, start, stop):
        new, memory = yield from super().step(state, memory, start, stop)
        return new, memory, state


def test_a_stepper_may_too_and_the_gaps_of_steps_add_up():
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)

    def rhs(u, t):
        return -u + torch.cos(t)

    fine = parareal.Steps(EulerStepper(rhs, grid))
    state = torch.ones(2, dtype=torch.float64)
    shown = []
    for steps in (1, 2):
        coarse = parareal.Steps(Pair(fine.stepper.evaluate, grid), steps)
        solution = parareal.solve(
            fine,
            coarse,
            state,
            range(0, 41, 5),
            criterion=parareal.Iterations(1),
            callback=lambda r: shown.append((r.iteration, float(r.error_estimate[0]))),
        )
        assert solution.iterations == 1
    sketches = [estimate for iteration, estimate in shown if iteration == 0]
    assert all(np.isfinite(sketches))
    # the second answer being the state itself, all gaps add up to the way gone, however many steps it is made in
    assert sketches[0] == pytest.approx(sketches[1], rel=0.1)


def test_few_slices_are_not_taken_at_the_word_of_a_pair():
    grid = torch.linspace(0, 1e-3, 41, dtype=torch.float64)
    stepper = EulerStepper(lambda u, t: -u, grid)
    state = torch.ones(1, dtype=torch.float64)
    for slices, iterations in ((2, 1), (8, 0)):
        coarse = parareal.Steps(Pair(stepper.evaluate, grid), 1)
        nodes = range(0, 41, 40 // slices)
        found = parareal.solve(parareal.Steps(stepper), coarse, state, nodes, criterion=parareal.Tolerance(0.1))
        assert found.iterations == iterations


def test_the_model_of_a_slice():
    """Theory, eq. 16 to 19, by hand."""
    model = ErrorModel()
    now, sketch = Value(1, None, increment=0.5, size=2.0, error=0.1), Value(0, None, size=2.0)
    error = model.update(now, sketch, change=0.25, defect=0.2, embedded=(0.4, 0.1))
    rate = max(SCALE * 0.2 / 2.0, PAIR * 0.2 / 0.4 * 0.1 / 0.5)
    assert (model.gain, model.rate) == (0.5, pytest.approx(rate))
    assert error == pytest.approx(0.5 * 0.1 + rate * 0.5)
    later = Value(2, None, increment=0.05, size=2.0, error=0.01)
    error = model.update(later, now, change=0.04, defect=0.02, embedded=(0.0, 0.0))
    assert model.rate == pytest.approx(RATE * 0.02 / 0.5)
    assert error == pytest.approx(0.8 * 0.01 + model.rate * 0.05)
    still = Value(3, None, increment=0.0, error=0.01)
    assert model.update(still, later, 0.0, 0.0, (0.0, 0.0)) == pytest.approx(0.8 * 0.01)


def test_what_cancels():
    """Theory, eq. 18a, by hand: never less than independent contributions leave, and no credit in two dimensions."""
    model = ErrorModel(gain=0.5)
    sums = model.add(Sums(8.0, 6.0), 3.0)
    assert sums == Sums(7.0, pytest.approx(np.hypot(3.0, 3.0)))
    assert sums.share(7.0, 1000) == 1
    assert sums.share(6.0, 10**9) == pytest.approx(6 / 7)
    assert sums.share(0.1, 10**9) == pytest.approx(np.hypot(3, 3) / 7)
    assert sums.share(0.1, 4) == pytest.approx((np.hypot(3, 3) / 7) ** 0.5)
    assert sums.share(0.1, 2) == sums.share(0.1, 1) == 1
    assert Sums().share(0.0, 64) == 1


def test_what_increments_foretell():
    """Theory, eq. 18b: a geometric series of increments, and nothing where they grow or there is only one."""
    assert contracted(0.1, 1.0) == pytest.approx(CONTRACTED * 0.1 * 0.1 / (1 - 0.1))
    assert contracted(0.1, 0.1) == contracted(0.2, 0.1) == contracted(0.1, float("inf")) == float("inf")
    assert contracted(0.0, 0.1) == contracted(0.0, 0.0) == 0


@pytest.mark.parametrize("interior", [0.0, -1.0, 2.0])
def test_a_bad_fraction_is_refused(interior):
    with pytest.raises(ValueError, match="a fraction of rtol"):
        parareal.Tolerance(1e-2, interior=interior)
