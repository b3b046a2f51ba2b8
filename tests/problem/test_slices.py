"""`slices` and `cost`: an interval divided evenly, or as is planned, or not at all where that does not pay."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import METHODS, STAGES, Euler, identical

import parareal

GAINS, LINEAR = {1: 1.0, 64: 1.2}, {1: 1.0, 2: 2.0}
STATE = torch.tensor([0.7, -0.3], dtype=torch.float64)


def steppers(steps, method="euler", batch=None):
    """Return fine and coarse propagators over a grid, and the rows of their calls."""
    rows = []

    def rhs(u, t):
        rows.append(len(u))
        return torch.sin(3 * u) - u + torch.cos(5 * t)

    stepper = METHODS[method](rhs, torch.linspace(0, 2, steps + 1, dtype=torch.float64))
    return parareal.Steps(stepper), parareal.Steps(stepper, 1), rows


@settings(max_examples=8, deadline=None)
@given(
    steps=st.integers(48, 100),
    method=st.sampled_from(["euler", "heun", "rk4"]),
    iterations=st.integers(1, 2),
    falling=st.booleans(),
    schedule=st.sampled_from(["pipelined", "synchronous"]),
)
def test_a_planned_solve_takes_what_was_predicted(steps, method, iterations, falling, schedule):
    fine, coarse, rows = steppers(steps, method)
    ends, stages = ((steps, 0) if falling else (0, steps)), STAGES[method]
    cost = parareal.Cost(batch_time=GAINS, stages=stages, coarse_stages=stages)
    given = {"slices": "auto", "cost": cost, "schedule": schedule}
    solution = parareal.solve(fine, coarse, STATE, ends, criterion=parareal.Iterations(iterations), **given)
    plan = parareal.plan(
        steps,
        iterations=iterations,
        batch_time=GAINS,
        schedules=[schedule],
        max_batches=[None],
        stages=stages,
        coarse_stages=stages,
    )
    assert plan.worthwhile
    assert len(solution.boundaries) == plan.slices + 1
    assert solution.boundaries == [
        ends[0] + round((ends[1] - ends[0]) * i / plan.slices) for i in range(plan.slices + 1)
    ]
    assert sum(rows) == solution.stats.work
    alone = {"stages": stages, "coarse_stages": stages, "eager": plan.eager, "schedule": schedule}
    simulated = parareal.simulate(steps, plan.slices, iterations, **alone).stats
    assert (solution.stats.work, solution.stats.span) == (simulated.work, simulated.span)
    assert solution.stats.span == plan.predicted_span
    if plan.eager is not None:  # F waits to be told that it is not needed, as in the plan: nothing is in vain
        assert solution.stats.work == plan.predicted_work
    assert solution.stats.work <= plan.predicted_work


@pytest.mark.parametrize("executor", [None, parareal.BatchedExecutor(max_batch=16)])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_a_planned_solve_converges_to_the_sequential_solution(library, executor):
    grid = np.linspace(0, 2, 201) if library == "numpy" else torch.linspace(0, 2, 201, dtype=torch.float64)
    state = np.array([[0.2, 0.5], [1.2, 2.0]]) if library == "numpy" else STATE.abs()[None]
    stepper = METHODS["rk4"](lambda u, t: u * (1 - u), grid)
    fine, coarse = parareal.Steps(stepper), parareal.Steps(stepper, 1)
    cost = parareal.Cost(batch_time=GAINS, stages=4, coarse_stages=4)
    given = {"batch_dims": 1, "slices": "auto", "cost": cost, "executor": executor}
    solution = parareal.solve(fine, coarse, state, (0, 200), **given)
    expected = parareal.sequential(fine, state, (0, 200), batch_dims=1).final_state
    np.testing.assert_allclose(solution.final_state, expected, rtol=1e-6)
    assert 2 < len(solution.boundaries) < 200
    assert "step by step" not in solution.message
    found = list(parareal.refine(fine, coarse, state, (0, 200), **given))
    assert len(found) == solution.iterations + 1
    assert identical(found[-1].final_state, solution.final_state)


@settings(max_examples=15, deadline=None)
@given(steps=st.integers(1, 60), iterations=st.integers(0, 3), samples=st.integers(1, 3))
def test_where_slices_gain_nothing_it_goes_step_by_step_and_says_so(steps, iterations, samples):
    fine, coarse, rows = steppers(steps)
    state = torch.linspace(-1, 1, samples, dtype=torch.float64)[:, None]
    seen = []
    given = {"batch_dims": 1, "slices": "auto", "cost": parareal.Cost(batch_time=LINEAR, iterations=2)}
    given["criterion"] = parareal.Iterations(iterations)
    solution = parareal.solve(fine, coarse, state, (0, steps), callback=seen.append, **given)
    assert "step by step" in solution.message
    assert sum(rows) == solution.stats.work == steps * samples
    assert solution.boundaries == [0, steps]
    assert solution.outcome is parareal.Outcome.EXACT
    assert not solution.error_estimate.any()
    expected = parareal.sequential(fine, state, (0, steps), batch_dims=1).final_state
    assert torch.equal(solution.final_state, expected)
    (only,) = seen
    (refined,) = parareal.refine(fine, coarse, state, (0, steps), **given)
    for item in (only, refined):
        assert torch.equal(item.final_state, expected)
        assert item.increments.shape == (2, samples)
        assert not item.error_estimate.any()


def test_refine_that_goes_step_by_step_works_only_when_asked():
    fine, coarse, rows = steppers(20)
    items = parareal.refine(fine, coarse, STATE, (0, 20), slices="auto", cost=parareal.Cost(batch_time=LINEAR))
    assert not rows
    assert len(list(items)) == 1
    assert len(rows) == 20


def test_a_state_that_is_not_finite_step_by_step():
    stepper = Euler(lambda u, t: u * 1e300, torch.arange(9.0))
    given = {"slices": "auto", "cost": parareal.Cost(batch_time=LINEAR)}
    arguments = (parareal.Steps(stepper), parareal.Steps(stepper, 1), STATE, (0, 8))
    with pytest.raises(parareal.PararealError, match="not finite") as caught:
        parareal.solve(*arguments, **given)
    assert caught.value.solution.outcome is parareal.Outcome.NON_FINITE
    found = parareal.solve(*arguments, **given, throw=False)
    assert found.outcome is parareal.Outcome.NON_FINITE
    assert "step by step" in found.message


@pytest.mark.parametrize("ends", [(0.0, 3.0), (3.0, -1.0), (0, 3), tuple(torch.tensor([0.0, 3.0]))])
def test_functions_are_given_slices_of_equal_length(ends):
    asked = set()

    def fine(u, t0, t1):
        asked.add((float(t0), float(t1)))
        return u * 0.5

    parareal.solve(fine, lambda u, t0, t1: u * 0.4, 1.0, ends, slices=5)
    start, stop = (float(t) for t in ends)
    expected = [start + (stop - start) * i / 5 for i in range(6)]
    np.testing.assert_allclose(sorted(asked), sorted(pairwise(expected)), atol=1e-6)


def test_planned_slices_of_a_vectorized_function_begin_at_whole_steps():
    @parareal.vectorized
    def fine(u, t0, t1):
        steps = (t1 - t0) * 25
        np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
        return parareal.Costed(u * np.exp(-(t1 - t0)), steps.round())

    coarse = parareal.vectorized(lambda u, t0, t1: parareal.Costed(u * (1 - (t1 - t0)), np.ones(len(t0))))
    cost = parareal.Cost(batch_time=GAINS, steps=100, iterations=1)
    given = {"slices": "auto", "cost": cost, "criterion": parareal.Iterations(1)}
    solution = parareal.solve(fine, coarse, 1.0, (0.0, 4.0), **given)
    plan = parareal.plan(100, iterations=1, batch_time=GAINS, shared=False, schedules=["pipelined"], max_batches=[None])
    assert len(solution.boundaries) == plan.slices + 1 > 3
    assert solution.stats.span == plan.predicted_span


def test_plain_functions_are_called_one_by_one_so_that_slices_gain_nothing_but_in_a_pool():
    calls = []

    def fine(u, t0, t1):
        calls.append((t0, t1))
        return u * 0.5

    given = {"slices": "auto", "cost": parareal.Cost(batch_time=GAINS, steps=100, iterations=1)}
    solution = parareal.solve(fine, fine, 1.0, (0.0, 4.0), **given)
    assert calls == [(0.0, 4.0)]
    assert "step by step" in solution.message


def test_in_a_pool_slices_of_plain_functions_pay():
    def fine(u, t0, t1):
        return parareal.Costed(u * math.exp(t0 - t1), round((t1 - t0) * 25))

    cost = parareal.Cost(steps=100, iterations=1, devices=8)
    given = {"slices": "auto", "cost": cost, "criterion": parareal.Increment(1e-6)}
    with ThreadPoolExecutor(2) as pool:
        solution = parareal.solve(
            fine, lambda u, t0, t1: u * math.exp(t0 - t1), 1.0, (0.0, 4.0), executor=pool, **given
        )
    assert len(solution.boundaries) > 3
    assert solution.final_state == pytest.approx(math.exp(-4.0))
    assert solution.stats.span < 100


STEPPER = Euler(lambda u, t: -u, torch.linspace(0, 1, 9))
COST = parareal.Cost(batch_time=GAINS)


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "boundaries has 3 numbers: give the first and the last", {"boundaries": [0, 4, 8]}),
        (ValueError, "slices='auto' plans by .* pass cost=parareal.Cost", {"cost": None}),
        (ValueError, "pass slices='auto' too, or leave cost out", {"slices": None}),
        (ValueError, "slices=4 is a number: leave cost out", {"slices": 4}),
        (ValueError, "leave slices='auto' out", {"levels": (2, 2)}),
        (ValueError, "leave slices=4 out", {"levels": (2, 2), "slices": 4, "cost": None}),
        (ValueError, "slices must be a whole number from 1 on, got 0", {"slices": 0, "cost": None}),
        (ValueError, "slices must be a whole number from 1 on, got 2.5", {"slices": 2.5, "cost": None}),
        (ValueError, "at most the 8 steps between the two ends, got 9", {"slices": 9, "cost": None}),
        (ValueError, "slices .* must be one of 'auto', not 'aut': did you mean 'auto'", {"slices": "aut"}),
        (TypeError, "cost must be a parareal.Cost, not dict", {"cost": {1: 1.0}}),
        (ValueError, "guess has a state for each boundary", {"guess": torch.ones(2, 2)}),
        (ValueError, "nobody can count the steps of a function", {"fine": lambda u, t0, t1: u}),
        (ValueError, "fine takes 3 steps a slice", {"fine": parareal.Steps(STEPPER, 3)}),
        (ValueError, "steps=9, but there are 8", {"cost": parareal.Cost(steps=9)}),
        (
            ValueError,
            "plans one level",
            {"fine": parareal.Parareal(parareal.Steps(STEPPER), parareal.Steps(STEPPER, 1), 2)},
        ),
        (ValueError, "window must be a whole number", {"window": 0}),
        (ValueError, "schedule must be one of", {"schedule": "pipeline"}),
        (ValueError, "max_iterations must be", {"max_iterations": -1}),
        (TypeError, "criterion must be", {"criterion": 1e-3}),
        (TypeError, "criterion must be", {"criterion": 1e-3, "cost": parareal.Cost(batch_time=LINEAR)}),
        (ValueError, "max_iterations must be", {"max_iterations": -1, "cost": parareal.Cost(batch_time=LINEAR)}),
        (TypeError, "executor must be", {"executor": "serial", "cost": parareal.Cost(batch_time=LINEAR)}),
        (TypeError, "no option 'costs': did you mean 'cost'", {"costs": COST}),
    ],
)
@pytest.mark.parametrize("call", [parareal.solve, parareal.refine])
def test_before_any_work(call, kind, message, change):
    class Never(Euler):
        def step(self, state, memory, start, stop):
            raise AssertionError("work was done before the input was checked")

    fine = parareal.Steps(Never(STEPPER.evaluate, STEPPER.grid))
    given = {
        "fine": fine,
        "coarse": fine,
        "initial": torch.ones(2),
        "boundaries": (0, 8),
        "slices": "auto",
        "cost": COST,
    }
    with pytest.raises(kind, match=message):
        call(**given | change)


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "steps must be a whole number from 1 on", {"steps": 0}),
        (ValueError, "devices must be a whole number from 1 on", {"devices": 0}),
        (ValueError, "coarse_steps must be", {"coarse_steps": 1.5}),
        (ValueError, "coarse_stages must be a whole number from 0 on", {"coarse_stages": -1}),
        (ValueError, "message_time must be seconds", {"message_time": -1.0}),
        (ValueError, "message_time must be seconds", {"message_time": float("nan")}),
        (ValueError, "the seconds of a call must be positive", {"batch_time": {1: 0.0}}),
        (TypeError, "batch_time must be a BatchTime, a mapping", {"batch_time": 1.0}),
        (ValueError, "iterations: a number must be a whole number", {"iterations": 1.5}),
        (ValueError, "iterations: a number must be a whole number", {"iterations": [1, -1]}),
        (ValueError, "some numbers, or a function of the slices, got none", {"iterations": []}),
    ],
)
def test_bad_costs(kind, message, change):
    with pytest.raises(kind, match=message):
        parareal.Cost(**change)


def test_iterations_may_depend_on_the_slices():
    fine, coarse, _ = steppers(100)
    found = {}
    for few in (True, False):
        cost = parareal.Cost(batch_time=GAINS, iterations=lambda slices, few=few: 1 if (slices < 15) == few else 6)
        found[few] = len(parareal.solve(fine, coarse, STATE, (0, 100), slices="auto", cost=cost).boundaries) - 1
    assert found[True] < 15 <= found[False]
