"""Stopping criteria: their guarantees, their effect on the samples of a batch, and guesses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, PROBLEMS, euler_propagator, identical

import parareal


def rms(x):
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.abs(np.asarray(x)) ** 2)))


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(-1.5, 1.0),
    twist=st.floats(-2, 2),
    slices=st.integers(1, 12),
    fine_steps=st.integers(2, 12),
    rtol=st.sampled_from([1e-2, 1e-4, 1e-8]),
    falling=st.booleans(),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    consecutive=st.integers(1, 2),
)
def test_increment_bounds_every_defect(rate, twist, slices, fine_steps, rtol, falling, schedule, consecutive):
    """For a linear problem the defect of a settled slice is at most |F - G| times the last increment of its input."""
    multiplier = complex(rate, twist)
    times = np.linspace(0, 1, slices + 1) ** 1.5
    times = times[::-1] if falling else times
    fine, coarse = (euler_propagator(lambda t, u: multiplier * u, n) for n in (fine_steps, 1))
    criterion = parareal.Increment(rtol, 0.0, consecutive=consecutive)
    solution = parareal.solve(fine, coarse, 1.0 + 0j, times, criterion=criterion, schedule=schedule)
    assert solution.outcome in (parareal.Outcome.CONVERGED, parareal.Outcome.EXACT)
    u = solution.states
    for n in range(slices):
        difference = abs(fine(1.0 + 0j, times[n], times[n + 1]) - coarse(1.0 + 0j, times[n], times[n + 1]))
        defect = abs(fine(u[n], times[n], times[n + 1]) - u[n + 1])
        assert defect <= difference * rtol * abs(u[n]) * (1 + 1e-9) + 1e-14 * (1 + abs(u[n + 1]))


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(-1.0, 0.0), twist=st.floats(-2, 2), slices=st.integers(2, 16), ratio=st.integers(2, 16))
def test_errors_obey_the_superlinear_bound(rate, twist, slices, ratio):
    """Gander and Vandewalle 2007, bounded intervals: |R_F - R_G|^k / k! prod (N - j) max |e_0|, for |R_G| <= 1."""
    multiplier = complex(rate, twist)
    fine, coarse = (
        euler_propagator(lambda t, u: multiplier * u, ratio),
        euler_propagator(lambda t, u: multiplier * u, 1),
    )
    times = np.linspace(0, 1, slices + 1)
    r_f, r_g = fine(1 + 0j, 0.0, times[1]), coarse(1 + 0j, 0.0, times[1])
    if abs(r_g) > 1:
        return
    reference = parareal.sequential(fine, 1 + 0j, times).states
    worst = [
        np.abs(r.states - reference).max()
        for k in range(slices)
        for r in [
            list(
                parareal.refine(fine, coarse, 1 + 0j, times, criterion=parareal.Iterations(k), schedule="synchronous")
            )[-1]
        ]
    ]
    for k, error in enumerate(worst):
        bound = abs(r_f - r_g) ** k / math.factorial(k) * math.prod(slices - j for j in range(1, k + 1)) * worst[0]
        assert error <= bound * (1 + 1e-9) + 1e-13


def test_last_change_is_fooled_and_increment_is_not():
    """A correction that is still on its way through the slices does not show at the last boundary."""

    def fine(u, t0, t1):  # a pulse: only the value 1 is amplified, which coarse does not model
        return u + 1.0 if t0 == 0 else (u * 1.0 if t0 < 3 else np.where(u > 0.5, 10.0, 0.0) * 1.0)

    def coarse(u, t0, t1):
        return 0.0 * u

    initial, times = np.array(0.0), [0, 1, 2, 3, 4]
    reference = parareal.sequential(fine, initial, times).final_state
    fooled = parareal.solve(fine, coarse, initial, times, criterion=parareal.LastChange(5e-4))
    assert fooled.outcome is parareal.Outcome.CONVERGED
    assert abs(fooled.final_state - reference) > 1
    assert fooled.increments[fooled.iterations, -1, 0] <= 5e-4
    careful = parareal.solve(fine, coarse, initial, times, criterion=parareal.Increment(1e-4))
    assert careful.final_state == reference
    assert "fooled" in parareal.LastChange.__doc__


def test_last_change_stops_at_the_first_small_increment_of_the_final_state():
    fine, coarse = (euler_propagator(lambda t, u: -u, n) for n in (20, 1))
    last = parareal.solve(fine, coarse, 1.0, np.linspace(0, 1, 9), criterion=parareal.LastChange(1e-3))
    assert last.increments[last.iterations, -1, 0] <= 1e-3
    assert last.increments[last.iterations - 1, -1, 0] > 1e-3


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("name", ["float", "complex", "numpy", "torch", "tuple", "dict"])
def test_the_error_is_within_the_tolerance(name, rtol):
    problem = PROBLEMS[name]
    fine, coarse = (euler_propagator(problem.rhs, n) for n in (32, 1))
    times = np.linspace(0, 2, 13)
    solution = parareal.solve(fine, coarse, problem.initial, times, criterion=parareal.Tolerance(rtol))
    reference = parareal.sequential(fine, problem.initial, times)
    flat = [np.concatenate([np.ravel(np.asarray(x)) for x in flatten(s.final_state)]) for s in (solution, reference)]
    assert rms(flat[0] - flat[1]) <= rtol * rms(flat[1])
    assert (solution.error_estimate <= rtol).all()


def flatten(tree):
    """Return the arrays of a pytree."""
    import optree

    return optree.tree_leaves(tree)


def test_a_custom_estimator_decides_at_every_boundary():
    evidences = []

    def estimator(evidence):
        evidences.append(evidence)
        return 0.0

    fine, coarse = (euler_propagator(lambda t, u: -u, n) for n in (8, 1))
    criterion = parareal.Tolerance(1e-3, estimator=estimator)
    solution = parareal.solve(fine, coarse, 1.0, np.linspace(0, 1, 5), criterion=criterion)
    assert solution.iterations == 1
    assert {e.boundary for e in evidences} == {1, 2, 3, 4}


def test_the_defect_criterion_judges_the_iterate_before():
    fine, coarse = (euler_propagator(lambda t, u: u * (1 - u), n) for n in (16, 1))
    times = np.linspace(0, 2, 9)
    by_defect = parareal.solve(fine, coarse, 0.1, times, criterion=parareal.Defect(1e-5, 0.0))
    assert by_defect.outcome is parareal.Outcome.CONVERGED
    n = 8
    assert by_defect.defects[by_defect.iterations - 1, n, 0] <= 1e-5 * abs(by_defect.states[n])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    slices=st.integers(2, 9),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    library=st.sampled_from(["numpy", "torch"]),
    plain=st.booleans(),
    most=st.sampled_from([None, 1, 4]),
)
def test_each_sample_of_a_batch_is_solved_as_if_alone(seed, slices, schedule, library, plain, most):
    """Iterates agree bit by bit, because the right-hand side uses only sums and products."""
    rng = np.random.default_rng(seed)
    batch = rng.uniform(-1, 1, size=(5, 2)) * np.array([1e-3, 0.1, 0.3, 0.6, 1.0])[:, None]
    initial = batch if library == "numpy" else torch.from_numpy(batch)

    def propagator(steps):
        def propagate(u, t0, t1):
            h = ((t1 - t0) / steps)[:, None]
            for _ in range(steps):
                u = u + h * (u - u * u * u)
            return u

        if plain:
            return euler_propagator(lambda t, u: u - u * u * u, steps)
        return parareal.vectorized(propagate)

    fine, coarse, times = propagator(20), propagator(1), np.linspace(0, 2, slices + 1)
    options = {"schedule": schedule, "executor": parareal.BatchedExecutor(most), "criterion": parareal.Increment(1e-5)}
    together = parareal.solve(fine, coarse, initial, times, batch_dims=1, **options)
    for i in range(5):
        alone = parareal.solve(fine, coarse, initial[i], times, **options)
        assert identical(together.final_state[i], alone.final_state)
        assert identical(together.states[:, i], alone.states)
        np.testing.assert_array_equal(together.slice_iterations[:, i], alone.slice_iterations[:, 0])
        rows = alone.increments.shape[0]
        np.testing.assert_array_equal(together.increments[:rows, :, i], alone.increments[:, :, 0])
        assert np.isnan(together.increments[rows:, 1:, i]).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    steps=st.integers(10, 40),
    slices=st.integers(2, 9),
    fine=st.sampled_from(["euler", "heun", "ab2"]),
    coarse=st.sampled_from(["euler", "ab2"]),
    most=st.sampled_from([None, 1, 5]),
)
def test_each_sample_of_a_stepped_batch_is_solved_as_if_alone(seed, steps, slices, fine, coarse, most):
    """Rows of samples that retire at different times, on uneven slices, never receive each other's values."""
    rng = np.random.default_rng(seed)
    initial = torch.from_numpy(rng.uniform(-1, 1, size=(6, 2)) * np.array([1e-3, 0.1, 0.3, 0.6, 0.8, 1.0])[:, None])
    nodes = [0, *np.sort(rng.choice(np.arange(1, steps), slices - 1, replace=False)).tolist(), steps]
    grid = torch.linspace(0, 2, steps + 1, dtype=torch.float64)

    def rhs(u, t):
        return u - u * u * u + t * u * u

    propagators = parareal.Steps(METHODS[fine](rhs, grid)), parareal.Steps(METHODS[coarse](rhs, grid), 1)
    options = {"executor": parareal.BatchedExecutor(most), "criterion": parareal.Tolerance(1e-3)}
    together = parareal.solve(*propagators, initial, nodes, batch_dims=1, **options)
    for i in range(6):
        alone = parareal.solve(*propagators, initial[i], nodes, **options)
        # earlier boundaries are not compared: when a sample stops, their iterates depend on the order of the work
        assert identical(together.final_state[i], alone.final_state)
        assert together.slice_iterations[-1, i] == alone.slice_iterations[-1, 0]


@pytest.mark.parametrize("criterion", [parareal.Increment(1e-7), parareal.Tolerance(1e-6), parareal.LastChange(1e-9)])
def test_a_multistep_method_does_not_settle_before_f_has_run_with_its_memory(criterion):
    """With one step per slice G equals F without memory, so iteration 1 changes no state although F must run again."""
    grid = torch.linspace(0, 2, 21, dtype=torch.float64)

    def rhs(u, t):
        return -u * u + torch.cos(t)

    fine, coarse = parareal.Steps(METHODS["ab2"](rhs, grid)), parareal.Steps(METHODS["euler"](rhs, grid))
    state = torch.ones(1, dtype=torch.float64)
    reference = parareal.sequential(fine, state, range(21)).final_state
    solution = parareal.solve(fine, coarse, state, range(21), criterion=criterion)
    if criterion.local:
        assert abs(float(solution.final_state - reference)) < 1e-5
    assert solution.iterations > 1


@pytest.mark.parametrize("norm", ["rms", "l1", "max", "scaled"])
def test_norms_detect_nan_and_do_not_overflow_or_underflow(norm):
    def spoil(u, t0, t1):
        return {"a": u["a"], "b": u["b"] * float("nan")}

    state = {"a": np.zeros(2), "b": np.ones(2)}
    with pytest.raises(parareal.PararealError, match="not finite"):
        parareal.solve(spoil, lambda u, a, b: u, state, [0, 1, 2], criterion=parareal.Increment(norm=norm))
    for scale in (1e-30, 1e30):
        start = torch.tensor([scale, 2 * scale])
        fine, coarse = (euler_propagator(lambda t, u: -u, n) for n in (16, 1))
        criterion = parareal.Increment(1e-4, 0.0, norm=norm)
        solution = parareal.solve(fine, coarse, start, np.linspace(0, 1, 9), criterion=criterion)
        reference = parareal.sequential(fine, start, np.linspace(0, 1, 9)).final_state
        assert solution.iterations > 1
        torch.testing.assert_close(solution.final_state, reference, rtol=1e-3, atol=0.0)


def test_samples_retire_independently():
    rows = []

    def fine(u, t0, t1):
        rows.append(len(u))
        for _ in range(50):
            u = u + 0.02 * (t1 - t0)[:, None] * (u - u * u * u)
        return u

    def coarse(u, t0, t1):
        return u + (t1 - t0)[:, None] * (u - u * u * u)

    initial = np.array([[1.0], [0.3]])  # the first sample is a fixed point of both
    solution = parareal.solve(
        parareal.vectorized(fine), parareal.vectorized(coarse), initial, np.linspace(0, 2, 9), batch_dims=1
    )
    assert solution.slice_iterations[-1, 0] == 1
    assert solution.slice_iterations[-1, 1] > 2
    assert sum(rows) < 2 * 8 + sum(range(1, 9))


@pytest.mark.parametrize("name", ["float", "numpy", "torch", "complex"])
@pytest.mark.parametrize("schedule", ["pipelined", "synchronous"])
def test_a_guess_that_is_the_solution_gives_no_increments(name, schedule):
    problem = PROBLEMS[name]
    calls = []

    def count_calls(steps):
        propagator = euler_propagator(problem.rhs, steps)

        def propagate(u, t0, t1):
            calls.append(steps)
            return propagator(u, t0, t1)

        return propagate

    times = np.linspace(0, 2, 7)
    reference = parareal.sequential(euler_propagator(problem.rhs, 10), problem.initial, times)
    solution = parareal.solve(
        count_calls(10), count_calls(1), problem.initial, times, guess=reference.states, schedule=schedule
    )
    assert np.nanmax(solution.increments) == 0
    assert solution.outcome is parareal.Outcome.EXACT
    assert solution.iterations == 1
    assert calls.count(10) == 6
    assert identical(solution.final_state, reference.final_state)


def test_a_guess_may_be_stacked_or_a_sequence_of_states():
    fine, coarse = (euler_propagator(PROBLEMS["tuple"].rhs, n) for n in (10, 1))
    times, initial = np.linspace(0, 1, 5), (1.0, 0.0)
    states = parareal.sequential(fine, initial, times).states
    sequence = [(float(a), float(b)) for a, b in zip(*states, strict=True)]
    for guess in (states, sequence):
        solution = parareal.solve(fine, coarse, initial, times, guess=guess)
        assert np.nanmax(solution.increments) == 0
    batch = np.array([[0.1], [0.5]])
    fine, coarse = (euler_propagator(lambda t, u: -u, n) for n in (10, 1))
    states = parareal.sequential(fine, batch, times, batch_dims=1).states
    assert states.shape == (5, 2, 1)
    solution = parareal.solve(fine, coarse, batch, times, guess=states, batch_dims=1)
    assert np.nanmax(solution.increments) == 0
