"""Tests of windows: which slices run, and which states are alive."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EulerStepper, euler_propagator, identical

import parareal


def rhs(t, u):
    return np.sin(3 * t) - u


FINE, COARSE = euler_propagator(rhs, 10), euler_propagator(rhs, 1)


@settings(max_examples=50, deadline=None)
@given(
    window=st.integers(1, 12),
    slices=st.integers(1, 14),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    rtol=st.sampled_from([1e-2, 1e-6]),
)
def test_no_slice_runs_beyond_head_plus_window(window, slices, schedule, rtol):
    """Compare the order of the propagators' calls with the rule, and the final state with the sequential one."""
    slices_run = []

    def log_slice(f):
        def propagate(u, t0, t1):
            slices_run.append(round(t0 / 0.3))
            return f(u, t0, t1)

        return propagate

    times = np.arange(slices + 1) * 0.3
    solution = parareal.solve(
        log_slice(FINE),
        log_slice(COARSE),
        np.array([1.0, 2.0]),
        times,
        window=window,
        schedule=schedule,
        criterion=parareal.Increment(rtol, rtol),
    )
    assert solution.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)
    last = {n: max(i for i, m in enumerate(slices_run) if m == n) for n in range(slices)}
    for n in range(window, slices):  # slice n begins after slice n - window has ended
        assert slices_run.index(n) > last[n - window]
    reference = parareal.sequential(FINE, np.array([1.0, 2.0]), times).final_state
    np.testing.assert_allclose(solution.final_state, reference, rtol=0, atol=10 * rtol)


@pytest.mark.parametrize("schedule", ["pipelined", "synchronous"])
def test_a_window_of_one_is_the_sequential_solve(schedule):
    log = []

    def fine(u, t0, t1):
        log.append(t0)
        return FINE(u, t0, t1)

    times = np.linspace(0, 2, 9)
    solution = parareal.solve(fine, COARSE, np.array([1.0]), times, window=1, schedule=schedule)
    assert identical(solution.final_state, parareal.sequential(FINE, np.array([1.0]), times).final_state)
    assert log == list(times[:-1])
    assert solution.outcome is parareal.Outcome.EXACT


def test_a_window_as_wide_as_the_problem_changes_nothing():
    times = np.linspace(0, 2, 9)
    free, wide = (parareal.solve(FINE, COARSE, np.array([1.0]), times, window=w) for w in (None, 8))
    np.testing.assert_array_equal(free.increments, wide.increments)
    assert free.stats.work == wide.stats.work
    assert free.stats.span == wide.stats.span


def test_windows_move_per_sample():
    """A sample that needs no correction does not wait for one that does."""

    def rhs_by_sample(u, t):  # the second sample decays, the first is constant
        return -u * torch.tensor([0.0, 2.0], dtype=u.dtype)[(u[:, :1] > 1).long()]

    grid = torch.linspace(0, 4, 81, dtype=torch.float64)
    stepper = EulerStepper(rhs_by_sample, grid)
    states = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    together = parareal.solve(
        parareal.Steps(stepper),
        parareal.Steps(stepper, 1),
        states,
        range(0, 81, 10),
        batch_dims=1,
        window=3,
        criterion=parareal.Increment(1e-8, 0.0),
    )
    for i in range(2):
        alone = parareal.solve(
            parareal.Steps(stepper),
            parareal.Steps(stepper, 1),
            states[i],
            range(0, 81, 10),
            window=3,
            criterion=parareal.Increment(1e-8, 0.0),
        )
        np.testing.assert_array_equal(together.slice_iterations[:, i], alone.slice_iterations[:, 0])
        torch.testing.assert_close(together.final_state[i], alone.final_state, rtol=1e-13, atol=0)
    assert (together.slice_iterations[:, 0] < together.slice_iterations[:, 1]).any()


class CountableArray(np.ndarray):
    """An array that takes weak references, so that living ones can be counted."""


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("slices", [20, 80])
def test_memory_is_proportional_to_the_window(slices, levels):
    """Besides one state per final boundary, the number of living states is a multiple of the window."""
    alive: set[int] = set()
    peak = 0

    def count(u):
        nonlocal peak
        token = u.view(CountableArray)
        alive.add(id(token))
        weakref.finalize(token, alive.discard, id(token))
        return token

    times = np.linspace(0, slices / 10, slices + 1)
    calls = {"fine": 0, "coarse": 0}

    def propagate(kind, f):
        def call(u, t0, t1):
            nonlocal peak
            calls[kind] += 1
            result = count(f(np.asarray(u), t0, t1))
            # boundaries left of this slice hold one state each; all other states belong to slices under way
            peak = max(peak, len(alive) - int(t0 * 10 + 1e-6))
            return result

        return call

    fine, coarse = propagate("fine", FINE), propagate("coarse", COARSE)
    parareal.solve(
        fine if levels == 1 else parareal.Parareal(fine, coarse, levels),
        coarse,
        np.ones(50),
        times,
        window=4,
        criterion=parareal.Increment(1e-6, 1e-6),
    )
    gc.collect()
    assert calls["fine"] > slices
    assert peak <= 4 * (5 + 5 * levels)


def test_a_guess_of_the_solution_with_a_window_has_no_increments():
    times = np.linspace(0, 2, 13)
    reference = parareal.sequential(FINE, np.array([1.0]), times)
    solution = parareal.solve(FINE, COARSE, np.array([1.0]), times, window=3, guess=reference.states)
    assert identical(solution.final_state, reference.final_state)
    assert np.nanmax(solution.increments) == 0


def test_callbacks_come_while_the_window_moves():
    refinements = []
    times = np.linspace(0, 4, 21)
    parareal.solve(FINE, COARSE, np.array([1.0]), times, window=4, callback=refinements.append)
    assert len(refinements) > 3
    assert np.isnan(refinements[0].final_state).all()
    counts = [np.isfinite(r.states[:, 0]).sum() for r in refinements]
    assert counts == sorted(counts)
    assert counts[-1] == 21


def test_states_of_final_boundaries_are_kept_at_the_iteration_limit():
    times = np.linspace(0, 4, 21)
    options = {"window": 4, "criterion": parareal.Increment(1e-10, 1e-10), "max_iterations": 5}
    solution = parareal.solve(FINE, COARSE, np.array([1.0]), times, throw=False, **options)
    assert solution.outcome is parareal.Outcome.ITERATION_LIMIT
    reference = parareal.sequential(FINE, np.array([1.0]), times).states
    assert identical(solution.states[:4], reference[:4])
    assert np.isnan(solution.final_state).all()
    with pytest.raises(parareal.PararealError):
        parareal.solve(FINE, COARSE, np.array([1.0]), times, **options)


@pytest.mark.parametrize("window", [0, -1, 2.5, "all"])
def test_windows_that_are_no_positive_whole_number_are_refused(window):
    with pytest.raises((ValueError, TypeError), match="window"):
        parareal.solve(FINE, COARSE, np.array([1.0]), [0.0, 1.0, 2.0], window=window)


def test_a_count_of_iterations_does_not_move_a_window():
    with pytest.raises(ValueError, match=r"Iterations\(4\)"):
        parareal.solve(FINE, COARSE, 1.0, range(5), window=2, criterion=parareal.Iterations(2))


def test_last_change_does_not_move_a_window():
    with pytest.raises(ValueError, match="LastChange"):
        parareal.solve(FINE, COARSE, 1.0, range(5), window=2, criterion=parareal.LastChange(1e-3))


@pytest.mark.parametrize("schedule", ["pipelined", "synchronous"])
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_guess_and_a_window_reach_the_iteration_limit(schedule, limit):
    def halve(u, a, b):
        return u * 0.5

    solution = parareal.solve(
        lambda u, a, b: u * 0.5 + np.sin(a),
        halve,
        1.0,
        [0.0, 1.0, 2.0, 3.0],
        window=1,
        max_iterations=limit,
        guess=[1.0, 0.0, 0.0, 0.0],
        schedule=schedule,
        throw=False,
    )
    assert solution.outcome is parareal.Outcome.ITERATION_LIMIT


def test_a_final_state_that_was_never_computed_is_a_failure():
    nest = parareal.Parareal(FINE, COARSE, 3, criterion=parareal.Iterations(1))
    with pytest.raises(parareal.PararealError) as failed:
        parareal.solve(nest, COARSE, np.array([1.0]), np.linspace(0, 2, 9), window=2, criterion=parareal.Iterations(8))
    assert failed.value.solution.outcome is parareal.Outcome.ITERATION_LIMIT


def test_callers_cannot_change_the_states_of_a_solve():
    def overwrite(refinement):
        refinement.final_state[...] = 0
        refinement.states[...] = 0

    times = np.linspace(0, 2, 9)
    solution = parareal.solve(FINE, COARSE, np.array([1.0]), times, callback=overwrite)
    assert identical(solution.final_state, parareal.solve(FINE, COARSE, np.array([1.0]), times).final_state)


@settings(max_examples=40, deadline=None)
@given(
    window=st.integers(1, 6),
    until=st.integers(0, 4),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    levels=st.booleans(),
)
def test_a_window_moves_on_without_speculation(window, until, schedule, levels):
    options = {"criterion": parareal.Increment(1e-6), "window": window, "schedule": schedule}
    division = {"levels": (8, 2)} if levels else {"slices": 8}
    arguments = FINE, COARSE, np.array([1.0, 0.3]), (0.0, 2.0)
    speculating = parareal.solve(*arguments, **division, **options)
    waiting = parareal.solve(*arguments, **division, **options, speculate_until=until)
    np.testing.assert_allclose(waiting.final_state, speculating.final_state, rtol=1e-4)
    assert waiting.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)
