"""Tests of the spot check: F runs once more on accepted states, and a contradiction takes `CONVERGED` back."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, STAGES, EulerStepper, edges, euler_propagator, identical

import parareal
from parareal import Outcome

TIMES = np.linspace(0.0, 4.0, 9)
SLICES = len(TIMES) - 1
INITIAL = np.array([1.0, -0.4, 2.0])
EXECUTORS = {
    "serial": lambda: nullcontext(parareal.SerialExecutor()),
    "batched": lambda: nullcontext(parareal.BatchedExecutor()),
    "threads": lambda: ThreadPoolExecutor(2),
}


def smooth(t, u):
    return np.sin(3 * t) - u - 0.2 * np.sin(u)


FINE, COARSE = euler_propagator(smooth, 6), euler_propagator(smooth, 2)


@dataclass(frozen=True)
class AcceptAll(parareal.AbstractCriterion):
    """A criterion that accepts everything, and makes no promise."""

    def accepts(self, evidence):
        return True


@dataclass(frozen=True)
class AcceptAllWithPromise(AcceptAll):
    """A criterion that accepts everything, and promises small defects."""

    def threshold(self, evidence):
        return 1e-6 * evidence.size


def trap(state, slice, fine=FINE, offset=1.0):
    """Return a fine propagator that differs from `fine` on one state at the start of one slice only."""

    def propagate(u, t0, t1):
        result = fine(u, t0, t1)
        differs = t0 == TIMES[slice] and identical(u, state)
        return optree.tree_map(lambda x, dx: x + dx, result, offset) if differs else result

    return propagate


@pytest.mark.parametrize(
    "criterion",
    [parareal.Increment(1e-5), parareal.Defect(1e-5), parareal.Tolerance(1e-3), AcceptAllWithPromise()],
    ids=lambda c: type(c).__name__,
)
def test_a_difference_that_shows_on_the_accepted_state_only_is_a_contradiction(criterion):
    honest = parareal.solve(FINE, COARSE, INITIAL, TIMES, criterion=criterion)
    slice = SLICES - 1
    fine = trap(honest.states[slice], slice)
    fooled = parareal.solve(fine, COARSE, INITIAL, TIMES, criterion=criterion)
    assert fooled.outcome is Outcome.CONVERGED
    assert identical(fooled.final_state, honest.final_state)
    with pytest.raises(
        parareal.PararealError, match=f"slice {slice} of sample 0 has a defect of .*: lower rtol"
    ) as caught:
        parareal.solve(fine, COARSE, INITIAL, TIMES, criterion=criterion, spot_check=1.0)
    solution = caught.value.solution
    assert solution.outcome is Outcome.CONTRADICTED
    assert solution.message.startswith(Outcome.CONTRADICTED.value)
    assert solution.spot_check.contradicted.tolist() == [True]
    assert solution.spot_check.defects[slice, 0] == pytest.approx(1.0, abs=0.2)
    assert np.isinf(solution.error_estimate).all()
    with pytest.raises(parareal.PararealError, match="spot check"):
        list(parareal.refine(fine, COARSE, INITIAL, TIMES, criterion=criterion, spot_check=1.0))


def two_scales(t, u):
    return optree.tree_map(lambda x: -0.4 * x, u)


PAIR_FINE, PAIR_COARSE = euler_propagator(two_scales, 6), euler_propagator(two_scales, 2)
PAIR = np.array([1e8, 1.0])


@pytest.mark.parametrize("make", [parareal.Increment, parareal.Defect, parareal.Tolerance])
def test_a_small_component_contradicts_where_the_norm_is_scaled(make):
    slice = SLICES - 1
    for norm, contradicted in (("scaled", True), ("rms", False)):
        options = {"criterion": make(1e-4, norm=norm), "throw": False}
        honest = parareal.solve(PAIR_FINE, PAIR_COARSE, PAIR, TIMES, spot_check=1.0, **options)
        assert honest.outcome is Outcome.CONVERGED
        fine = trap(honest.states[slice], slice, PAIR_FINE, np.array([0.0, 0.1]))
        fooled = parareal.solve(fine, PAIR_COARSE, PAIR, TIMES, spot_check=1.0, **options)
        assert (fooled.outcome is Outcome.CONTRADICTED) == contradicted


@pytest.mark.parametrize("make", [parareal.Increment, parareal.Defect])
def test_the_leaf_with_the_worst_defect_contradicts(make):
    state, slice = {"x": np.array([1e8, 2e8]), "v": np.array([1.0])}, SLICES - 1
    honest = parareal.solve(PAIR_FINE, PAIR_COARSE, state, TIMES, criterion=make(1e-4), spot_check=1.0)
    assert honest.outcome is Outcome.CONVERGED
    start = optree.tree_map(lambda x: x[slice], honest.states)
    for leaf, offset in (("x", 1e6), ("v", 0.01)):
        fine = trap(start, slice, PAIR_FINE, {"x": 0.0, "v": 0.0, leaf: offset})
        fooled = parareal.solve(fine, PAIR_COARSE, state, TIMES, criterion=make(1e-4), spot_check=1.0, throw=False)
        assert fooled.outcome is Outcome.CONTRADICTED
        # the message compares the defect of the whole state with the largest one that this leaf allows
        ratio = offset / (3e-4 * np.sqrt(np.mean(start[leaf] ** 2)))
        limit = float(re.search("at most (.*) is expected", fooled.message)[1])
        assert limit == pytest.approx(fooled.spot_check.defects[slice, 0] / ratio, rel=0.1)


@pytest.mark.parametrize(("rate", "defect", "contradicted"), [(2.0, 0.01, True), (-2.0, 0.1, False)])
def test_under_tolerance_a_defect_counts_as_it_arrives_at_the_end(rate, defect, contradicted):
    """The flow multiplies a defect by exp(4) or exp(-4) on its way to the final state, which is about 1."""
    fine, coarse = (euler_propagator(lambda t, u: rate * (u - 1), n) for n in (40, 4))
    criterion, slice = parareal.Tolerance(1e-2), 3
    honest = parareal.solve(fine, coarse, np.array([1 + 1e-6]), TIMES, criterion=criterion, spot_check=1.0)
    assert honest.outcome is Outcome.CONVERGED
    trapped = trap(honest.states[slice], slice, fine, np.array([defect]))
    fooled = parareal.solve(
        trapped, coarse, np.array([1 + 1e-6]), TIMES, criterion=criterion, spot_check=1.0, throw=False
    )
    assert fooled.spot_check.defects[slice, 0] == pytest.approx(defect, rel=1e-3)
    assert (fooled.outcome is Outcome.CONTRADICTED) == contradicted


def test_defects_are_those_of_the_states_in_the_solution():
    solution = parareal.solve(FINE, COARSE, INITIAL, TIMES, criterion=AcceptAll(), spot_check=1.0)
    check = solution.spot_check
    assert check.checked.ravel().tolist() == [n >= solution.iterations for n in range(SLICES)]
    for n in np.flatnonzero(check.checked[:, 0]):
        end, accepted = FINE(solution.states[n], TIMES[n], TIMES[n + 1]), solution.states[n + 1]
        defect, *sizes = (np.sqrt(np.mean(u**2)) for u in (end - accepted, end, accepted))
        assert check.defects[n, 0] == pytest.approx(defect)
        assert check.relative_defects[n, 0] == pytest.approx(defect / max(sizes))
    assert check.largest == np.nanmax(check.relative_defects)
    assert solution.outcome is Outcome.CONVERGED  # no promise, so no contradiction
    assert check.largest > 1e-3


def test_a_last_change_that_is_small_by_chance_shows_in_the_report():
    """From rest, a push early in the interval is on its way while the last boundary stands still."""

    def push(u, t0, t1):
        return FINE(u, t0, t1) + (t0 == TIMES[1])

    fooled = parareal.solve(
        push, lambda u, t0, t1: u, INITIAL, TIMES, criterion=parareal.LastChange(1e3), spot_check=1.0
    )
    assert fooled.outcome is Outcome.CONVERGED
    assert fooled.spot_check.largest > 0.1
    assert not fooled.spot_check.contradicted.any()


@settings(max_examples=15, deadline=None)
@given(
    criterion=st.sampled_from([parareal.Increment, parareal.Defect, parareal.Tolerance]),
    rtol=st.sampled_from([1e-2, 1e-4, 1e-6]),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    executor=st.sampled_from(list(EXECUTORS)),
    levels=st.sampled_from([None, (4, 3), (3, 2, 2)]),
    batch=st.booleans(),
    share=st.floats(0.01, 1.0),
    norm=st.sampled_from(["rms", "max", "scaled"]),
    seed=st.integers(0, 99),
)
def test_honest_problems_are_never_contradicted(criterion, rtol, schedule, executor, levels, batch, share, norm, seed):
    state = np.random.default_rng(seed).normal(size=(3, 2) if batch else 2) + 2.0
    options = {
        "criterion": criterion(rtol, norm=norm),
        "schedule": schedule,
        "levels": levels,
        "batch_dims": int(batch),
    }
    times = TIMES if levels is None else (0.0, 4.0)
    with EXECUTORS[executor]() as instance:
        plain, checked = (
            parareal.solve(FINE, COARSE, state, times, spot_check=p, executor=instance, **options)
            for p in (None, share)
        )
    assert checked.outcome in (Outcome.CONVERGED, Outcome.EXACT)
    if executor != "threads":  # the order in which their results arrive decides which iterates are the newest
        assert identical(checked.states, plain.states)
    assert not checked.spot_check.contradicted.any()
    per_sample = checked.spot_check.checked.sum(axis=0)
    # per sample, at least one slice unless its result is exact
    assert ((per_sample >= 1) | (checked.error_estimate == 0)).all()
    assert per_sample.max() <= np.ceil(share * len(checked.slice_iterations))


@settings(max_examples=12, deadline=None)
@given(
    method=st.sampled_from(list(METHODS)),
    library=st.sampled_from(["numpy", "torch"]),
    levels=st.sampled_from([None, (4, 3)]),
    criterion=st.sampled_from([parareal.Increment(1e-7, 0.0), parareal.Tolerance(1e-5)]),
)
def test_steppers_are_checked_with_their_memory(method, library, levels, criterion):
    """A slice of the two-step method without its memory would begin with an Euler step, and have a large defect."""
    grid = np.linspace(0.0, 2.0, 25)
    state = np.array([[0.1, 0.7], [1.3, 0.4]])
    if library == "torch":
        grid, state = torch.from_numpy(grid), torch.from_numpy(state)
    stepper = METHODS[method](lambda u, t: u * (1 - u) + 0.1 * t, grid)
    coarse = parareal.Steps(METHODS[method](stepper.evaluate, grid), steps=1)
    nodes = edges(24, 6) if levels is None else (0, 24)
    options = {"batch_dims": 1, "levels": levels, "criterion": criterion}
    plain = parareal.solve(parareal.Steps(stepper), coarse, state, nodes, **options)
    solution = parareal.solve(parareal.Steps(stepper), coarse, state, nodes, spot_check=1.0, **options)
    assert solution.outcome is plain.outcome
    checked = int(solution.spot_check.checked.sum())
    steps = 24 // (6 if levels is None else 4)
    assert solution.stats.span == plain.stats.span + (steps * STAGES[method] if checked else 0)
    assert len([p for p in solution.propagations if p.kind == "fine"]) > checked


def test_work_calls_and_propagations_are_counted():
    grid = np.linspace(0.0, 6.0, 121)
    fine, coarse = EulerStepper(lambda u, t: smooth(t, u), grid), EulerStepper(lambda u, t: smooth(t, u), grid)
    arguments = parareal.Steps(fine), parareal.Steps(coarse, steps=1), INITIAL, edges(120, 12)
    plain = parareal.solve(*arguments, criterion=parareal.Iterations(2))
    for share, count in [(0.01, 1), (0.25, 3), (1.0, 10)]:
        solution = parareal.solve(*arguments, criterion=parareal.Iterations(2), spot_check=share)
        assert solution.outcome is Outcome.ITERATIONS_DONE
        assert solution.spot_check.checked.sum() == count
        assert solution.stats.work == plain.stats.work + 10 * count
        assert solution.stats.calls == plain.stats.calls + 10  # one batch per step
        assert solution.stats.span == plain.stats.span + 10
        assert len(solution.propagations) == len(plain.propagations) + count
    nested = [
        parareal.solve(FINE, COARSE, INITIAL, (0.0, 6.0), levels=(4, 3), criterion=parareal.Iterations(1), spot_check=p)
        for p in (None, 0.5)
    ]
    # 2 of 4 slices, each with 3 innermost ones
    assert nested[1].stats.work == nested[0].stats.work + 6
    assert nested[1].stats.span == nested[0].stats.span + 3
    assert [p.level for p in nested[1].propagations[-6:]] == [1] * 6


def test_the_draw_is_reproducible_and_touches_no_global_generator():
    state = np.ones((8, 3))

    def solve():
        return parareal.solve(
            FINE, COARSE, state, TIMES, batch_dims=1, criterion=parareal.Iterations(1), spot_check=0.25
        )

    states = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = solve().spot_check.checked
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    np.random.seed(1)
    np.testing.assert_array_equal(first, solve().spot_check.checked)
    assert len({tuple(column) for column in first.T}) > 4
    assert (first.sum(axis=0) == 2).all()


def test_an_approximate_propagator_is_checked_at_full_accuracy():
    iterations = []

    def fine(u, t0, t1, iteration):
        iterations.append(iteration)
        return FINE(u, t0, t1)

    parareal.solve(fine, COARSE, INITIAL, TIMES, criterion=parareal.Iterations(1), spot_check=0.3)
    assert iterations[-3:] == [None] * 3
    assert None not in iterations[:-3]


def test_one_contradicted_sample_leaves_the_others():
    state = np.stack([INITIAL, 2 * INITIAL])
    criterion = parareal.Increment(1e-5)
    honest = parareal.solve(FINE, COARSE, state, TIMES, criterion=criterion, batch_dims=1)
    fine = trap(honest.states[-2][1], SLICES - 1)
    solution = parareal.solve(
        fine, COARSE, state, TIMES, criterion=criterion, batch_dims=1, spot_check=1.0, throw=False
    )
    assert solution.outcome is Outcome.CONTRADICTED
    assert solution.spot_check.contradicted.tolist() == [False, True]
    assert np.isfinite(solution.error_estimate[0])
    assert "1 of 2 samples" in solution.message


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_error_in_the_check_ends_the_solve_with_a_solution(executor):
    honest = parareal.solve(FINE, COARSE, INITIAL, TIMES)

    def fine(u, t0, t1):
        if t0 == TIMES[-2] and identical(u, honest.states[-2]):
            raise ArithmeticError("no such state")
        return FINE(u, t0, t1)

    with EXECUTORS[executor]() as instance, pytest.raises(parareal.PararealError, match="no such state") as caught:
        parareal.solve(fine, COARSE, INITIAL, TIMES, spot_check=1.0, executor=instance)
    assert caught.value.solution.outcome is Outcome.WORKER_LOST
    assert identical(caught.value.solution.final_state, honest.final_state)


def test_a_result_that_is_not_finite_contradicts():
    honest = parareal.solve(FINE, COARSE, INITIAL, TIMES)
    fine = trap(honest.states[-2], SLICES - 1)

    def overflow(u, t0, t1):
        return np.where(identical(fine(u, t0, t1), FINE(u, t0, t1)), FINE(u, t0, t1), np.nan)

    solution = parareal.solve(overflow, COARSE, INITIAL, TIMES, spot_check=1.0, throw=False)
    assert solution.outcome is Outcome.CONTRADICTED
    assert solution.spot_check.largest == np.inf


def test_nothing_is_checked_where_there_is_nothing_to_check(tmp_path):
    exact = parareal.solve(FINE, COARSE, INITIAL, TIMES, criterion=parareal.Iterations(SLICES), spot_check=1.0)
    assert exact.outcome is Outcome.EXACT
    assert not exact.spot_check.checked.any()
    assert np.isnan(exact.spot_check.largest)
    for share in (None, 0):
        assert parareal.solve(FINE, COARSE, INITIAL, TIMES, spot_check=share).spot_check is None
    cancelled = parareal.solve(FINE, COARSE, INITIAL, TIMES, callback=lambda _: False, spot_check=1.0, throw=False)
    assert cancelled.spot_check is None
    exact.save(tmp_path / "solution.pt")
    loaded = torch.load(tmp_path / "solution.pt", weights_only=True)["spot_check"]
    np.testing.assert_array_equal(loaded["defects"], exact.spot_check.defects)


@pytest.mark.parametrize(
    ("share", "error"),
    [
        *((share, ValueError) for share in (-0.1, 1.01, float("nan"), np.float32("inf"))),
        *((share, TypeError) for share in (True, False, "half", 1j, [0.5])),
    ],
)
def test_bad_shares_are_refused_before_any_work(share, error):
    def fail(u, t0, t1):
        raise AssertionError("work was done")

    for call in (parareal.solve, parareal.refine):
        with pytest.raises(error, match="spot_check must be a finite real number, at least 0 and at most 1, but was"):
            call(fail, fail, 1.0, [0, 1, 2], spot_check=share)


@pytest.mark.parametrize("share", [Fraction(1, 2), np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_every_real_number_is_a_share(share):
    solution = parareal.solve(FINE, COARSE, INITIAL, TIMES, criterion=parareal.Iterations(1), spot_check=share)
    assert solution.spot_check.checked.sum() == SLICES // 2
