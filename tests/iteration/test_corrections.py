"""Tests of the correction C in U(k, n+1) = F(k-1, n) + C(U(k, n)) - C(U(k-1, n)): one recurrence, many methods."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, identical

import parareal
from parareal.driver import Point, add, subtract

TIMES = np.linspace(0.0, 2.0, 9)
INITIAL = np.array([0.7, -0.3])


def fine(u, t0, t1):
    for _ in range(8):
        u = u + (t1 - t0) / 8 * (np.sin(3 * u) - u)
    return u


def coarse(u, t0, t1):
    return u + (t1 - t0) * (np.sin(3 * u) - u)


def fail_if_called(u, t0, t1):
    raise AssertionError("this correction uses no coarse propagator")


@dataclass(frozen=True)
class Damped(parareal.AbstractCorrection):
    """A user's own correction: half of the coarse difference."""

    def difference(self, slice, now, then):
        return subtract(now.coarse, then.coarse) * 0.5


@dataclass(frozen=True)
class MeanErrorCorrection(parareal.AbstractCorrection):
    """A correction that learns: the coarse difference plus the mean of F - G over all points so far, which cancels."""

    uses_states: ClassVar[bool] = True
    pairs: list = field(default_factory=list)

    def begin(self, layout, slices):
        assert (layout.numbers, slices) == (2, 8)
        return MeanErrorCorrection()

    def difference(self, slice, now, then):
        assert now.fine is None
        assert now.state.shape == then.state.shape == then.fine.shape
        self.pairs.append((then.state, subtract(then.fine, then.coarse)))
        error = np.mean([f for _, f in self.pairs], axis=0)
        return subtract(add(now.coarse, error), add(then.coarse, error))


TOLERANCE = parareal.Tolerance(1e-2)
CORRECTIONS = [parareal.CoarseDifference(), parareal.Identity(), parareal.Zero(), Damped(), MeanErrorCorrection()]


@settings(max_examples=40, deadline=None)
@given(
    correction=st.sampled_from(CORRECTIONS),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    iterations=st.integers(1, 8),
)
def test_every_correction_ends_with_the_sequential_solution_bit_by_bit(correction, schedule, iterations):
    options = {"correction": correction, "schedule": schedule, "executor": parareal.SerialExecutor()}
    solution = parareal.solve(fine, coarse, INITIAL, TIMES, criterion=parareal.Iterations(iterations), **options)
    reference = parareal.sequential(fine, INITIAL, TIMES)
    for n in range(iterations + 1):  # exact up to boundary k after iteration k
        assert identical(solution.states[n], reference.states[n])
    assert (solution.outcome is parareal.Outcome.EXACT) == (iterations == 8)


def coarse_difference(n, v, u):
    return coarse(v, TIMES[n], TIMES[n + 1]) - coarse(u, TIMES[n], TIMES[n + 1])


@pytest.mark.parametrize(
    ("correction", "difference"),
    [
        (parareal.CoarseDifference(), coarse_difference),
        (parareal.Identity(), lambda n, v, u: v - u),
        (parareal.Zero(), lambda n, v, u: 0.0),
        (Damped(), lambda n, v, u: 0.5 * coarse_difference(n, v, u)),
    ],
)
def test_iterates_agree_with_the_recurrence_as_a_double_loop(correction, difference):
    """Compare each correction with eq. (1b), written as a double loop over iterations and slices."""
    old = [INITIAL]
    for n in range(8):
        old.append(coarse(old[n], TIMES[n], TIMES[n + 1]))
    for _ in range(3):
        new = [INITIAL]
        for n in range(8):
            new.append(fine(old[n], TIMES[n], TIMES[n + 1]) + difference(n, new[n], old[n]))
        old = new
    solution = parareal.solve(fine, coarse, INITIAL, TIMES, correction=correction, criterion=parareal.Iterations(3))
    np.testing.assert_allclose(solution.states, np.array(old), rtol=1e-13)


@pytest.mark.parametrize("correction", [parareal.Identity(), parareal.Zero()])
def test_without_a_coarse_propagator_the_prediction_is_the_initial_state(correction):
    first = next(iter(parareal.refine(fine, None, INITIAL, TIMES, correction=correction)))
    assert all(identical(state, INITIAL) for state in first.states)
    assert np.isinf(first.error_estimate).all()
    solution = parareal.solve(fine, None, INITIAL, TIMES, correction=correction)
    np.testing.assert_allclose(solution.final_state, parareal.sequential(fine, INITIAL, TIMES).final_state, rtol=1e-5)


@pytest.mark.parametrize("correction", [parareal.Identity(), parareal.Zero()])
def test_with_these_corrections_the_coarse_propagator_only_predicts(correction):
    calls = []

    def count_calls(u, t0, t1):
        calls.append(t0)
        return coarse(u, t0, t1)

    parareal.solve(fine, count_calls, INITIAL, TIMES, correction=correction, criterion=parareal.Iterations(8))
    assert len(calls) == 8
    guess = np.tile(INITIAL, (9, 1))
    parareal.solve(fine, fail_if_called, INITIAL, TIMES, correction=correction, guess=guess)


def test_picard_is_the_identity():
    """The correction `Identity` and a coarse propagator that returns its input have the same iterates."""
    by_correction = list(parareal.refine(fine, None, INITIAL, TIMES, correction=parareal.Identity()))
    by_function = list(parareal.refine(fine, lambda u, t0, t1: u, INITIAL, TIMES))
    assert len(by_correction) == len(by_function)
    for a, b in zip(by_correction, by_function, strict=True):
        assert identical(a.states, b.states)
        np.testing.assert_array_equal(a.increments, b.increments)


def test_span_without_a_coarse_cost():
    """Span after p iterations: p S (docs/explained/theory.md, eq. 11 with c = 0)."""
    stepper = METHODS["euler"](lambda u, t: np.sin(3 * u) - u, np.linspace(0, 2, 41))
    for iterations in (1, 2, 3):
        solution = parareal.solve(
            parareal.Steps(stepper),
            None,
            INITIAL,
            (0, 40),
            slices=8,
            correction=parareal.Identity(),
            criterion=parareal.Iterations(iterations),
        )
        assert solution.stats.span == iterations * 5


def test_levels_follow_the_correction():
    stepper = METHODS["rk4"](lambda u, t: np.sin(3 * u) - u, np.linspace(0, 2, 41))
    arguments = parareal.Steps(stepper), None, INITIAL, (0, 40)
    solution = parareal.solve(*arguments, levels=(4, 3), correction=parareal.Identity())
    expected = parareal.sequential(parareal.Steps(stepper), INITIAL, range(0, 41, 10)).final_state
    np.testing.assert_allclose(solution.final_state, expected, rtol=1e-5)
    nested = parareal.Parareal(parareal.Steps(stepper), None, 3, correction=parareal.Zero())
    solution = parareal.solve(nested, parareal.Steps(stepper, 1), INITIAL, range(0, 41, 10))
    np.testing.assert_allclose(solution.final_state, expected, rtol=1e-5)


def test_corrections_declare_whether_they_use_states():
    """The engine keeps iterates only for corrections that use them."""
    assert parareal.Identity.uses_states
    assert not parareal.CoarseDifference.uses_states
    assert Point(None, None).fine is None


@pytest.mark.parametrize(
    ("kind", "message", "overrides"),
    [
        (TypeError, "correction must be CoarseDifference", {"correction": "picard"}),
        (TypeError, "correction must be CoarseDifference", {"correction": parareal.Identity}),
        (ValueError, "coarse is None, but CoarseDifference uses it", {"coarse": None}),
        (ValueError, "coarse is None, but Damped uses it", {"coarse": None, "correction": Damped()}),
        (ValueError, "not known to hold for .* Zero", {"correction": parareal.Zero(), "criterion": TOLERANCE}),
        (ValueError, "not known to hold for .* Damped", {"correction": Damped(), "criterion": TOLERANCE}),
    ],
)
def test_unsupported_combinations_raise_before_any_work(kind, message, overrides):
    arguments = {"fine": fail_if_called, "coarse": fail_if_called, "initial": INITIAL, "boundaries": TIMES}
    for call in (parareal.solve, parareal.refine):
        with pytest.raises(kind, match=message):
            call(**arguments | overrides)


@pytest.mark.parametrize("correction", [parareal.Zero(), Damped()])
def test_unknown_error_estimates_are_infinite(correction):
    """Small increments say nothing about the error if errors move on by one slice per iteration."""
    for iteration in parareal.refine(fine, coarse, INITIAL, TIMES, correction=correction):
        exact = iteration.iteration == 8
        assert np.isinf(iteration.error_estimate).all() or (exact and not iteration.error_estimate.any())


def test_every_sample_has_a_correction_of_its_own():
    slice_counts = []

    @dataclass(frozen=True)
    class NumberedCorrection(parareal.AbstractCorrection):
        number: int = 0

        def begin(self, layout, slices):
            slice_counts.append(slices)
            return NumberedCorrection(len(slice_counts))

        def difference(self, slice, now, then):
            assert self.number == 1 + int(now.coarse[0] > 10)
            return subtract(now.coarse, then.coarse)

    states = np.array([[1.0, 0.5], [100.0, 0.5]])
    criterion = parareal.Iterations(2)
    parareal.solve(
        lambda u, t0, t1: u * 1.01, lambda u, t0, t1: u, states, TIMES, batch_dims=1,
        correction=NumberedCorrection(), criterion=criterion,
    )  # fmt: skip
    assert slice_counts == [8, 8]


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros(2, dtype=np.float32), np.zeros((1, 2)), 0.0])
def test_a_difference_that_is_no_state_raises_an_error_that_names_the_correction(wrong):
    @dataclass(frozen=True)
    class Wrong(parareal.AbstractCorrection):
        def difference(self, slice, now, then):
            return wrong

    with pytest.raises(TypeError, match=r"Wrong\.difference must return a state like those it is given"):
        parareal.solve(fine, coarse, INITIAL, TIMES, correction=Wrong())


@pytest.mark.parametrize("correction", [parareal.Identity(), parareal.Zero()])
@pytest.mark.parametrize("options", [{"window": 3}, {"speculate_until": 1}, {"window": 2, "speculate_until": 0}])
@pytest.mark.parametrize("method", ["euler", "ab2"])
def test_corrections_work_with_windows_waiting_and_memory(correction, options, method):
    """Windows, waiting and multistep methods with memory; with a coarse stepper that only predicts, and without."""
    stepper = METHODS[method](lambda u, t: np.sin(3 * u) - u, np.linspace(0, 2, 41))
    states, nodes = np.array([[0.7, -0.3], [1.1, 0.2]]), range(0, 41, 5)
    expected = parareal.sequential(parareal.Steps(stepper), states, nodes, batch_dims=1).final_state
    for coarse_steps in (None, parareal.Steps(stepper, 1)):
        solution = parareal.solve(
            parareal.Steps(stepper), coarse_steps, states, nodes, batch_dims=1, correction=correction, **options
        )
        np.testing.assert_allclose(solution.final_state, expected, rtol=1e-4)
