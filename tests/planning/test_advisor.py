"""Advisors: their measurements, their caches, and their decisions."""

import gc
import threading
import weakref

import pytest

import parareal
from parareal.driver import PATIENCE, WORTHWHILE, Advisor, advisor_for, expected_iterations

CURVE = parareal.BatchTime((1, 8), (1.0, 1.5))


class Owner:
    """An object that problems call, with a method as one more callable."""

    def method(self):
        """Do nothing."""


def test_an_advisor_lives_as_long_as_its_owner():
    owner = Owner()
    advisor = advisor_for(owner, "kind")
    assert advisor_for(owner, "kind") is advisor
    assert advisor_for(owner, "other") is not advisor
    assert advisor_for(owner.method, "kind") is advisor_for(owner.method, "kind")
    reference = weakref.ref(advisor)
    del advisor, owner
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("owner", [3, []], ids=["no weak reference", "no hash"])
def test_an_owner_that_cannot_be_a_key_gets_a_new_advisor_every_time(owner):
    assert advisor_for(owner, "kind") is not advisor_for(owner, "kind")


def test_threads_share_an_advisor_and_lose_no_updates():
    owner, advisors = Owner(), set()

    def learn(first):
        for slices in range(first, first + 200):
            advisor = advisor_for(owner, "kind")
            advisor.learn_iterations(slices, [1])
            advisors.add(advisor)

    threads = [threading.Thread(target=learn, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(advisors) == 1
    assert len(advisor_for(owner, "kind").iterations) == 8 * 200


def test_plans_are_cached_until_iterations_are_learned():
    advisor = Advisor()
    first = advisor.advise(100, batch_time=CURVE, tolerance=1e-2)
    assert advisor.advise(100, batch_time=CURVE, tolerance=1e-2) is first
    assert {c.iterations for c in first.candidates} == {expected_iterations(1e-2)}
    advisor.learn_iterations(5, [1, 3])
    second = advisor.advise(100, batch_time=CURVE, tolerance=1e-2)
    assert {c.iterations for c in second.candidates} == {2.0}
    advisor.learn_iterations(30, [1])
    third = advisor.advise(100, batch_time=CURVE, tolerance=1e-2, slices=[4, 7, 25])
    assert {c.slices: c.iterations for c in third.candidates} == {
        4: 2.0,
        7: 2.0,
        25: 1.0,
    }  # those observed at the nearest number of slices


def test_iterations_are_guessed_from_the_tolerance():
    guesses = [expected_iterations(x) for x in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-6, None)]
    assert guesses == [1, 1, 2, 2, 3, 3, 4, 3]


def test_both_predictors_agree_if_every_tick_takes_one_second():
    """Then time equals span, and the span law is exact."""
    simulated = Advisor().advise(400, batch_time=parareal.BatchTime((1,), (1.0,)), slices=[20])
    estimated = Advisor().advise(400, tick_time=lambda rows, slices: 1.0, slices=[20])
    assert estimated.predicted_span == estimated.predicted_wall_time == simulated.predicted_span == 3 * 20 + 20 - 3
    assert estimated.predicted_sequential_time == simulated.predicted_sequential_time == 400


def test_the_span_law_measures_ticks_of_its_candidates_only():
    measured = []
    plan = Advisor().advise(8192, tick_time=lambda *args: measured.append(args) or 1.0, sequential_time=lambda: 8192.0)
    assert plan.worthwhile
    assert measured == [(79, 157), (73, 235), (63, 314)]
    assert Advisor().advise(8, tick_time=lambda *_: 1 / 0, sequential_time=lambda: 1 / 0).slices == 1  # too few steps


@pytest.mark.parametrize(("factor", "slices"), [(0.99, 1), (1.01, 20)])
def test_both_predictors_have_one_threshold(factor, slices):
    """A speed-up just below `WORTHWHILE` gives the sequential solve, one just above it gives slices."""
    span = 3 * 20 + 20 - 3

    def sequential_time():
        return WORTHWHILE * span * factor

    constant = parareal.BatchTime((1,), (1.0,))
    assert (
        Advisor().advise(400, tick_time=lambda *_: 1.0, sequential_time=sequential_time, slices=[20]).slices == slices
    )
    simulated = Advisor().advise(400, batch_time=constant, sequential_time=sequential_time, slices=[20])
    assert simulated.slices == slices
    assert simulated.predicted_sequential_time == sequential_time()


def test_lengths_at_which_parallel_solves_failed_or_were_slower_are_declined():
    advisor = Advisor()
    advisor.advise(400, tick_time=lambda *_: 1.0, sequential_time=lambda: 400.0)
    assert not advisor.declines(10.0)
    for seconds in (500.0, 1.0, 500.0):
        advisor.learn_time(7.0, seconds)
        assert not advisor.declines(10.0)
    for _ in range(PATIENCE - 1):
        advisor.learn_time(7.0, 500.0)
    assert advisor.declines(7.0)
    assert not advisor.declines(6.9)
    advisor.learn_failure(2.0)
    assert advisor.declines(2.0)


def test_calls_are_timed_once_and_never_with_more_rows_than_allowed():
    advisor, calls = Advisor(), []
    narrow = advisor.batch_time(calls.append, seconds=0.01, max_rows=5)
    assert narrow.rows == (1, 2, 3, 4, 5)
    assert max(calls) == 5
    calls.clear()
    assert advisor.batch_time(calls.append, seconds=0.01, max_rows=4) is narrow
    assert not calls
    assert not advisor.has_batch_time(6)
    assert max(advisor.batch_time(calls.append, seconds=0.01).rows) == 64
    assert advisor.has_batch_time(6)


def test_errors_of_timed_calls_are_passed_on():
    def call(rows):
        raise RuntimeError("CUDA out of memory")

    advisor = Advisor()
    with pytest.raises(RuntimeError, match="out of memory"):
        advisor.batch_time(call)
    assert not advisor.has_batch_time()
