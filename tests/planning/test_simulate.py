"""Simulated solves: their counts are those of real solves and obey the closed formulas."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, STAGES

import parareal

CURVE = {1: 1.0, 2: 1.2, 4: 1.7, 8: 2.9, 16: 5.5}


def solve_really(steps, slices, iterations, method="euler", levels=None, **options):
    """Solve a problem of two numbers on a real queue, for a number of iterations."""
    grid = torch.linspace(0, 2, steps + 1, dtype=torch.float64)
    stepper = METHODS[method](lambda u, t: torch.sin(3 * u) - u + torch.cos(5 * t), grid)
    nodes = [0, steps] if levels else [round(i * steps / slices) for i in range(slices + 1)]
    state = torch.tensor([0.7, -0.3], dtype=torch.float64)
    fine, coarse = parareal.Steps(stepper), parareal.Steps(stepper, 1)
    options = {"criterion": parareal.Iterations(iterations), **options}
    return parareal.solve(fine, coarse, state, nodes, levels=levels, **options)


@settings(max_examples=40, deadline=None)
@given(
    slices=st.integers(2, 9),
    size=st.integers(2, 9),  # with one step per slice, F and G would be equal here
    iterations=st.integers(1, 4),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
    extra=st.integers(0, 3),
)
def test_counts_equal_those_of_a_real_solve(slices, size, iterations, schedule, extra):
    steps, iterations = slices * size + extra, min(iterations, slices)
    solution = solve_really(steps, slices, iterations, schedule=schedule)
    result = parareal.simulate(steps, slices, iterations, schedule=schedule)
    names = ("work", "span", "calls", "peak_batch", "sequential_work", "sequential_span")
    assert [getattr(result.stats, n) for n in names] == [getattr(solution.stats, n) for n in names]
    assert result.wall_time == result.stats.calls  # a call takes one second, whatever its rows


@pytest.mark.parametrize("levels", [(3, 2), (2, 3, 2), (4, 4)])
def test_counts_of_levels_equal_those_of_a_real_solve(levels):
    solution = solve_really(48, None, 1, levels=levels)
    result = parareal.simulate(48, levels=levels, iterations=1)
    assert (result.stats.work, result.stats.span, result.stats.calls) == (
        solution.stats.work,
        solution.stats.span,
        solution.stats.calls,
    )


@pytest.mark.parametrize("most", [1, 3, 8])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_counts_with_bounded_batches_and_stages_equal_those_of_a_real_solve(method, most):
    stages = {"euler": 1, "heun": 2}[method]
    solution = solve_really(40, 5, 2, method=method, executor=parareal.BatchedExecutor(most))
    result = parareal.simulate(
        40, 5, 2, stages=stages, coarse_stages=stages, max_batch=most, batch_time={1: 1.0, 2: 2.0}
    )
    assert (result.stats.work, result.stats.calls) == (solution.stats.work, solution.stats.calls)
    assert result.wall_time == pytest.approx(solution.stats.work)  # a call takes as long as its rows one after another


@settings(max_examples=40, deadline=None)
@given(slices=st.integers(2, 12), size=st.integers(1, 12), iterations=st.integers(1, 5), devices=st.integers(1, 5))
def test_counts_obey_the_closed_formulas(slices, size, iterations, devices):
    """Theory, eq. 9 and 10. A call takes one second whatever its rows, so no number of devices beats the span."""
    p, steps = min(iterations, slices), slices * size
    result = parareal.simulate(steps, slices, p, devices=devices)
    assert result.wall_time == result.stats.span == slices + p * (size - 1)
    assert result.stats.work == slices + sum((slices - j + 1) * (size - 1) + slices - j for j in range(1, p + 1))
    assert result.speedup == pytest.approx(steps / result.stats.span)


@settings(max_examples=20, deadline=None)
@given(slices=st.integers(2, 8), size=st.integers(2, 8), cost=st.integers(1, 2), iterations=st.integers(1, 4))
def test_the_span_without_shared_evaluations(slices, size, cost, iterations):
    p, cost = min(iterations, slices), min(cost, size)
    result = parareal.simulate(
        slices * size, slices, p, coarse_steps=cost, shared=False, devices=None, batch_time={1: 1.0}
    )
    assert result.stats.span == p * size + (slices - p) * cost


def test_picard_has_no_coarse_cost():
    result = parareal.simulate(30, 30, 6, coarse_stages=0, devices=None)
    assert result.stats.span == 6


def test_messages_delay_values_that_go_to_another_device():
    """The first correction passes through all slices, so each of its transfers to another device costs a message."""
    immediate, delayed = (parareal.simulate(64, 8, 1, devices=8, message_time=t) for t in (0.0, 0.5))
    assert delayed.wall_time == pytest.approx(immediate.wall_time + 7 * 0.5)
    assert parareal.simulate(64, 8, 1, devices=1, message_time=0.5).wall_time == immediate.wall_time


def test_more_devices_are_not_slower_and_efficiency_is_at_most_one():
    results = [parareal.simulate(96, 8, 2, devices=p, batch_time={1: 1.0, 2: 2.0}) for p in (1, 2, 4, 8)]
    assert all(a.wall_time >= b.wall_time for a, b in pairwise(results))
    assert all(0 < t.busy <= 1 and 0 < t.efficiency <= 1.01 for t in results)


def test_windows_make_smaller_batches_and_less_speculation_makes_less_work():
    full = parareal.simulate(96, 12, [3] * 12)
    narrow = parareal.simulate(96, 12, [3] * 12, window=3)
    assert narrow.stats.peak_batch < full.stats.peak_batch
    speculative = parareal.simulate(96, 12, [*[3] * 11, 2])
    waiting = parareal.simulate(96, 12, [*[3] * 11, 2], speculate_until=2)
    assert waiting.stats.work < speculative.stats.work
    assert waiting.stats.span == speculative.stats.span


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 3, "levels": (2, 2)}, "one of slices, levels and boundaries"),
        ({"slices": 200}, "at most the 96 steps"),
        ({"slices": 4, "batch_time": {1: -1.0}}, "must be positive"),
        ({"slices": 4, "iterations": [1, 2]}, "2 numbers for 4 slices"),
        ({"slices": 4, "message_time": -1}, "message_time"),
        ({"boundaries": [0, 5]}, "end with 96"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parareal.simulate(96, **options)


def test_a_plan_advises_and_explains_the_fastest_candidate():
    plan = parareal.plan(100, iterations=2, batch_time=CURVE)
    assert plan.worthwhile
    assert plan.predicted_wall_time == min(c.wall_time for c in plan.candidates)
    assert plan.predicted_speedup == pytest.approx(100 / plan.predicted_wall_time)
    assert "in parallel" in plan.explain()
    assert str(plan.slices) in plan.table()


def test_a_plan_advises_the_sequential_solve_if_batches_gain_nothing():
    plan = parareal.plan(100, iterations=2, batch_time={1: 1.0, 2: 2.0})
    assert not plan.worthwhile
    assert (plan.slices, plan.predicted_wall_time) == (1, 100.0)
    assert (plan.predicted_span, plan.predicted_work, plan.predicted_states) == (100, 100, 2)
    assert plan.predicted_speedup < 1
    assert "sequentially" in plan.explain()


def test_a_plan_advises_no_speculation_if_the_last_iteration_is_known():
    plan = parareal.plan(400, iterations=1, batch_time=CURVE, slices=[20])
    assert plan.speculate_until == 1


def test_a_batch_time_interpolates_and_extrapolates():
    curve = parareal.BatchTime((1, 3), (1.0, 2.0))
    np.testing.assert_allclose([curve(n) for n in (1, 2, 3, 5)], [1.0, 1.5, 2.0, 3.0])
    calls = []
    measured = parareal.BatchTime.measure(calls.append, sizes=(1, 4), seconds=0.05)
    assert measured.rows == (1, 4)
    assert set(calls) == {1, 4}


@settings(max_examples=30, deadline=None)
@given(slices=st.integers(2, 7), bound=st.integers(0, 4), seed=st.integers(0, 20), rtol=st.sampled_from([1e-2, 1e-5]))
def test_waiting_for_the_final_state_changes_no_iterate(slices, bound, seed, rtol):
    grid = torch.linspace(0, 2, 41, dtype=torch.float64)
    stepper = METHODS["euler"](lambda u, t: torch.sin(3 * u) - u + torch.cos(5 * t), grid)
    state = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nodes = [round(i * 40 / slices) for i in range(slices + 1)]
    fine, coarse = parareal.Steps(stepper), parareal.Steps(stepper, 1)
    for criterion in (parareal.Tolerance(rtol), parareal.Increment(rtol), parareal.Iterations(slices)):
        speculative, waiting = (
            parareal.solve(fine, coarse, state, nodes, criterion=criterion, speculate_until=k) for k in (None, bound)
        )
        torch.testing.assert_close(speculative.final_state, waiting.final_state, rtol=1e-12, atol=1e-12)
        assert speculative.iterations == waiting.iterations


def test_waiting_lengthens_the_critical_path_if_another_iteration_is_needed():
    runs = [parareal.simulate(96, 12, 2, speculate_until=k) for k in (None, 1)]
    assert runs[0].stats.span == 2 * 8 + 12 - 2
    assert runs[1].stats.span == (12 + 8 - 1) + 8 + 12 - 2  # all F of iteration 1 start at its end


def test_nested_levels_wait_as_well():
    # Euler's method has no embedded pair, so nothing is known of the error before the second iteration, and the third
    # is the first one whose estimate is small enough.
    three = parareal.simulate(96, levels=(6, 4), iterations=3)
    result = solve_really(96, None, 1, levels=(6, 4), speculate_until=3, criterion=parareal.Tolerance(0.5))
    assert result.iterations == 3
    assert result.stats.work == three.stats.work
    speculative = solve_really(96, None, 1, levels=(6, 4), criterion=parareal.Tolerance(0.5))
    assert speculative.stats.work > three.stats.work


@settings(max_examples=8, deadline=None)
@given(
    steps=st.integers(48, 100),
    method=st.sampled_from(["euler", "heun", "rk4"]),
    iterations=st.integers(1, 2),
    falling=st.booleans(),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
)
def test_a_solve_that_follows_a_plan_has_the_predicted_cost(steps, method, iterations, falling, schedule):
    stages = STAGES[method]
    costs = {"stages": stages, "coarse_stages": stages}
    plan = parareal.plan(
        steps, iterations=iterations, batch_time={1: 1.0, 64: 1.2}, schedules=[schedule], max_batches=[None], **costs
    )
    assert plan.worthwhile
    stepper = METHODS[method](lambda u, t: np.sin(3 * u) - u, np.linspace(0, 2, steps + 1))
    solution = parareal.solve(
        parareal.Steps(stepper),
        parareal.Steps(stepper, 1),
        np.array([0.7, -0.3]),
        (steps, 0) if falling else (0, steps),
        slices=plan.slices,
        criterion=parareal.Iterations(iterations),
        schedule=schedule,
        speculate_until=plan.speculate_until,
    )
    assert solution.stats.span == plan.predicted_span
    if plan.speculate_until is not None:  # without speculation no work is wasted, as in the plan
        assert solution.stats.work == plan.predicted_work
    assert solution.stats.work <= plan.predicted_work


def test_iterations_may_depend_on_the_slices():
    chosen_slices = {}
    for few in (True, False):
        plan = parareal.plan(
            100, batch_time={1: 1.0, 64: 1.2}, iterations=lambda slices, few=few: 1 if (slices < 15) == few else 6
        )
        chosen_slices[few] = plan.slices
    assert chosen_slices[True] < 15 <= chosen_slices[False]
