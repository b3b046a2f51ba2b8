"""Plans: the candidates, and invalid arguments."""

import math

import numpy as np
import pytest

import parareal
from parareal.driver import WORTHWHILE

CURVE = {1: 1.0, 2: 1.2, 4: 1.7, 8: 2.9, 16: 5.5}


@pytest.mark.parametrize("iterations", [np.int64(3), lambda slices: np.int64(3), [np.int64(3)], np.array([3, 3])])
def test_numbers_of_iterations_may_be_numpy_integers(iterations):
    expected = parareal.plan(100, iterations=3, batch_time=CURVE)
    assert parareal.plan(100, iterations=iterations, batch_time=CURVE).best == expected.best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": []}, "slices must have at least one entry"),
        ({"windows": []}, "windows must have at least one entry"),
        ({"schedules": []}, "schedules must have at least one entry"),
        ({"max_batches": []}, "max_batches must have at least one entry"),
        ({"iterations": []}, "iterations has no numbers"),
        ({"iterations": 1.5}, "iterations must be a whole number"),
        ({"slices": [2.5]}, "slices: an entry must be a whole number"),
    ],
)
def test_invalid_and_empty_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parareal.plan(100, **{"iterations": 2, **options})


def test_all_candidates_may_be_nested_levels():
    plan = parareal.plan(100, iterations=1, batch_time=CURVE, slices=[], levels=[(5, 4)])
    assert {c.levels for c in plan.candidates} == {(5, 4)}


def test_a_solve_without_evaluations_takes_no_time():
    result = parareal.simulate(10, 2, 0, coarse_stages=0)
    assert (result.wall_time, result.busy) == (0, 0)
    assert result.speedup == result.efficiency == math.inf


def test_a_plan_shows_the_fields_of_its_best_candidate():
    plan = parareal.plan(100, iterations=2, batch_time=CURVE)
    best = plan.best
    assert best is plan.candidates[0]
    assert (plan.slices, plan.levels, plan.correction) == (best.slices, None, None)
    assert (plan.schedule, plan.window, plan.speculate_until) == (best.schedule, best.window, best.speculate_until)
    assert (plan.predicted_span, plan.predicted_work, plan.max_batch) == (best.span, best.work, best.max_batch)
    assert plan.worthwhile == (plan.predicted_speedup >= WORTHWHILE)


def test_a_candidate_that_takes_no_time_is_infinitely_fast():
    plan = parareal.plan(10, iterations=0, coarse_stages=0, slices=[], levels=[(2, 2)])
    assert plan.best.wall_time == 0
    assert plan.predicted_speedup == math.inf
    assert "a speed-up of inf" in plan.explain()
