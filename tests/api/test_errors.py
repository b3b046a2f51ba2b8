"""Errors: invalid input is refused before any work with the remedy in the message, and failed solves lose nothing."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import EulerStepper, euler_propagator

import parareal

TIMES = [0.0, 0.5, 1.0]


def fail_if_called(u, t0, t1):
    raise AssertionError("work was done before the input was checked")


def halve(u, t0, t1):
    return u * 0.5


STEPPER = EulerStepper(lambda u, t: -u, torch.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "rise or fall strictly: boundary 1 is 1", {"boundaries": [0, 1, 1]}),
        (ValueError, "rise or fall strictly: boundary 1 is 2", {"boundaries": [0, 2, 1]}),
        (ValueError, "at least two numbers", {"boundaries": [0.0]}),
        (ValueError, "one-dimensional", {"boundaries": np.zeros((2, 2))}),
        (ValueError, "rise or fall strictly", {"boundaries": [0.0, float("nan"), 1.0]}),
        (
            TypeError,
            "must be a Python number, a NumPy array, a torch tensor or a pytree of them, not str",
            {"initial": "x"},
        ),
        (ValueError, "holds no number", {"initial": ()}),
        (TypeError, "float32 or float64, not torch.float16", {"initial": torch.ones(2, dtype=torch.float16)}),
        (ValueError, "initial holds a number that is not finite", {"initial": float("nan")}),
        (ValueError, "guess holds a number that is not finite", {"guess": [1.0, float("inf"), 1.0]}),
        (ValueError, r"guess must have shape \(3,\)", {"guess": 1.0}),
        (TypeError, "not truth values", {"initial": np.array([True])}),
        (ValueError, "at least two numbers, but were 5", {"boundaries": 5}),
        (TypeError, "float32 or float64, not float16", {"initial": np.ones(2, dtype=np.float16)}),
        (ValueError, "batch_dims must be 0", {"batch_dims": 2}),
        (ValueError, "batch_dims=1 needs a leading axis", {"batch_dims": 1, "initial": 1.0}),
        (ValueError, "batch_dims=1 needs a leading axis", {"batch_dims": 1, "initial": (np.ones(2), np.ones(3))}),
        (ValueError, "guess must hold 3 states", {"guess": [1.0, 2.0]}),
        (ValueError, r"guess must have shape \(3,\)", {"guess": np.ones(4)}),
        (ValueError, r"guess must have shape \(3, 2\)", {"guess": np.ones((3, 3)), "initial": np.ones(2)}),
        (ValueError, "guess must hold 3 states", {"guess": {"x": np.ones(3)}}),
        (
            ValueError,
            "guess must hold states like",
            {"guess": np.ones((3, 2)), "initial": np.ones(2, dtype=np.float32)},
        ),
        (ValueError, "schedule must be one of .* did you mean 'pipelined'", {"schedule": "pipeline"}),
        (TypeError, "unexpected keyword argument 'tolerence'", {"tolerence": 1}),
        (TypeError, "unexpected keyword argument 'max_iteration'", {"max_iteration": 1}),
        (ValueError, "max_iterations must be a whole number", {"max_iterations": -1}),
        (ValueError, "below 2.2e-16", {"criterion": parareal.Increment(1e-17)}),
        (ValueError, "below 1.2e-07", {"criterion": parareal.Increment(1e-9), "initial": torch.ones(2)}),
        (ValueError, "below 1.2e-07", {"criterion": parareal.Tolerance(1e-8), "initial": torch.ones(2)}),
        (TypeError, "criterion must be Increment", {"criterion": 1e-3}),
        (TypeError, "executor must be", {"executor": "serial"}),
        (TypeError, "fine is a stepper: wrap it as parareal.Steps", {"fine": STEPPER}),
        (TypeError, "coarse must be a function", {"coarse": 3}),
        (ValueError, "nodes and must be whole numbers", {"fine": parareal.Steps(STEPPER), "initial": torch.ones(2)}),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(kind, message, change):
    arguments = {"fine": fail_if_called, "coarse": fail_if_called, "initial": 1.0, "boundaries": TIMES} | change
    with pytest.raises(kind, match=message):
        parareal.solve(**arguments)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("norm must be one of .* did you mean 'rms'", lambda: parareal.Increment(norm="rm")),
        ("consecutive must be a whole number of at least 1", lambda: parareal.Increment(consecutive=0)),
        ("count must be a whole number of at least 0", lambda: parareal.Iterations(-1)),
        ("LastChange: atol must be a finite real number, above 0, but was 0.0", lambda: parareal.LastChange(0.0)),
        ("run to the end with Iterations", lambda: parareal.Increment(0.0, 0.0)),
        ("run to the end with Iterations", lambda: parareal.Tolerance(0.0)),
        ("max_batch must be a whole number", lambda: parareal.BatchedExecutor(0)),
        ("steps must be a whole number", lambda: parareal.Steps(STEPPER, 0)),
        ("topic must be one of .* did you mean 'parareal'", lambda: parareal.citation("pararel")),
    ],
)
def test_invalid_values_of_small_objects_are_refused(message, make):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_refuses_a_function():
    with pytest.raises(TypeError, match=r"stepper must be a parareal\.Stepper"):
        parareal.Steps(halve)  # type: ignore[arg-type], on purpose


@pytest.mark.parametrize(
    ("result", "change"),
    [
        (lambda u: u[:1], "shape"),
        (lambda u: u.astype(np.float32), "dtype"),
        (lambda u: (u, u), "structure"),
        (lambda u: torch.from_numpy(u), "library"),
        (lambda u: None, "nothing"),
    ],
)
@pytest.mark.parametrize("who", ["fine", "coarse"])
def test_a_propagator_that_changes_the_form_of_the_state_is_refused(result, change, who):
    propagators = {"fine": halve, "coarse": halve} | {who: lambda u, t0, t1: result(u)}
    with pytest.raises((TypeError, ValueError), match=f"the {who} propagator"):
        parareal.solve(**propagators, initial=np.ones(2), boundaries=TIMES)


def test_a_vectorized_propagator_that_loses_rows_is_refused():
    mean = parareal.vectorized(lambda u, t0, t1: u.mean(0))
    with pytest.raises(ValueError, match="given 1 stacked states it must return 1 stacked states"):
        parareal.solve(mean, mean, np.ones((3, 2)), TIMES)


class StepWithoutYield(EulerStepper):
    def step(self, state, memory, start, stop):
        return state, memory


class StepWithoutMemory(EulerStepper):
    def step(self, state, memory, start, stop):
        yield state, start
        return state


class StepWithScalarWhere(EulerStepper):
    def step(self, state, memory, start, stop):
        yield state, 0.5
        return state, memory


class StepperWithoutBegin(EulerStepper):
    def step(self, state, memory, start, stop):
        slope = yield state, start
        return state, slope


@pytest.mark.parametrize(
    ("stepper", "message"),
    [
        (StepWithoutYield(lambda u, t: u, torch.ones(5)), "must be a generator"),
        (StepWithoutMemory(lambda u, t: u, torch.ones(5)), r"must return \(state, memory\)"),
        (StepWithScalarWhere(lambda u, t: u, torch.ones(5)), "`where` for each row"),
        (StepperWithoutBegin(lambda u, t: u, torch.ones(5)), "implement begin"),
        (EulerStepper(lambda u, t: torch.cat([u, u]), torch.ones(5)), "given 1 rows and must return a value for each"),
        (EulerStepper(lambda u, t: 1.0, torch.ones(5)), "must return a value for each"),
    ],
)
def test_mistakes_in_steppers_are_named(stepper, message):
    with pytest.raises(ValueError, match=message):
        parareal.solve(parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.ones(2), [0, 2, 4])


def test_a_stepper_without_evaluate_is_refused():
    incomplete = EulerStepper(None, torch.ones(5))
    with pytest.raises(TypeError, match="has no evaluate"):
        parareal.Steps(incomplete)


def test_refine_check_and_sequential_refuse_unknown_options():
    for call in (parareal.refine, parareal.check):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'batch_dim'"):
            call(halve, halve, 1.0, TIMES, batch_dim=1)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'batch_dim'"):
        parareal.sequential(halve, 1.0, TIMES, batch_dim=1)


def test_the_message_about_a_state_that_is_not_finite_names_slice_iteration_and_sample():
    def fine(u, t0, t1):
        return u * (np.nan if t0 == 3 and u[0] > 1.5 else 1.0)

    initial = np.array([[1.0], [2.0]])
    with pytest.raises(parareal.PararealError, match="end of slice 3 is not finite in iteration 1, sample 1") as caught:
        parareal.solve(fine, lambda u, a, b: u, initial, range(7), batch_dims=1)
    solution = caught.value.solution
    assert solution.outcome is parareal.Outcome.NON_FINITE
    assert solution.final_state[0] == 1.0  # the other sample has converged and keeps its result
    assert np.isfinite(solution.states).all()
    assert "1 of 2 samples" in solution.message
    returned = parareal.solve(fine, lambda u, a, b: u, initial, range(7), batch_dims=1, throw=False)
    assert returned.outcome is parareal.Outcome.NON_FINITE


def test_an_unstable_coarse_propagator_is_named_as_the_cause_of_waiting():
    """It is no reason to fail: F gives the answer (tests/iteration/test_finite.py)."""
    solution = parareal.solve(halve, lambda u, a, b: u * float("inf"), 1.0, TIMES)
    assert solution.outcome is parareal.Outcome.EXACT
    assert "more stable coarse" in solution.message


def test_an_exception_in_the_middle_of_a_solve_loses_nothing():
    calls = []

    def fine(u, t0, t1):
        calls.append(t0)
        if len(calls) > 7:
            raise OSError("disk full")
        return u * 0.9

    with pytest.raises(parareal.PararealError, match=re.escape("OSError: disk full")) as caught:
        parareal.solve(fine, lambda u, a, b: u * 0.7, 1.0, range(7))
    solution = caught.value.solution
    assert solution.outcome is parareal.Outcome.WORKER_LOST
    assert isinstance(caught.value.__cause__, OSError)
    assert solution.states[1] == 0.9
    assert np.isfinite(solution.states).all()


def test_a_solve_at_the_iteration_limit_has_a_solution():
    fine, coarse = (euler_propagator(lambda t, u: u * (1 - u), n) for n in (20, 1))
    with pytest.raises(parareal.PararealError, match="1 iteration was allowed") as caught:
        parareal.solve(fine, coarse, 0.1, np.linspace(0, 3, 9), max_iterations=1)
    assert caught.value.solution.outcome is parareal.Outcome.ITERATION_LIMIT
    assert caught.value.solution.iterations == 1
    requested = parareal.solve(fine, coarse, 0.1, np.linspace(0, 3, 9), criterion=parareal.Iterations(1))
    assert requested.outcome is parareal.Outcome.ITERATIONS_DONE
    assert requested.final_state == caught.value.solution.final_state


def test_every_outcome_is_a_sentence():
    for outcome in parareal.Outcome:
        assert outcome.value.endswith(".")
    failed = [o.name for o in parareal.Outcome if o.failed]
    assert failed == ["ITERATION_LIMIT", "CONTRADICTED", "CANCELLED", "NON_FINITE", "WORKER_LOST"]


class StateChangingStepper(EulerStepper):
    """Euler steps whose result goes through a function that breaks it."""

    def __init__(self, spoil):
        super().__init__(lambda u, t: -u, torch.linspace(0, 1, 5))
        self.spoil = spoil

    def step(self, state, memory, start, stop):
        state, memory = yield from super().step(state, memory, start, stop)
        return self.spoil(state), memory


@pytest.mark.parametrize("spoil", [lambda u: (u, u), lambda u: u.double(), lambda u: u[:, :1]])
@pytest.mark.parametrize("who", ["fine", "coarse"])
def test_a_stepper_that_changes_the_form_of_the_state_is_refused(spoil, who):
    steppers = {"fine": STEPPER, "coarse": STEPPER} | {who: StateChangingStepper(spoil)}
    fine, coarse = parareal.Steps(steppers["fine"]), parareal.Steps(steppers["coarse"], 1)
    with pytest.raises(TypeError, match=f"the {who} propagator must return a state like its input"):
        parareal.solve(fine, coarse, torch.ones(2), [0, 1, 2, 3, 4])


def raise_from_estimator(evidence):
    raise ZeroDivisionError("the criterion's own")


@pytest.mark.parametrize("levels", [None, (2, 2)])
def test_an_exception_of_a_criterion_is_passed_on(levels):
    criterion = parareal.Tolerance(1e-3, estimator=raise_from_estimator)
    arguments = halve, lambda u, a, b: u * 0.4, np.ones(2), (0.0, 4.0)
    options = {"slices": 4} if levels is None else {"levels": levels}
    with pytest.raises(ZeroDivisionError, match="the criterion's own"):
        parareal.solve(*arguments, criterion=criterion, **options)
    with pytest.raises(ZeroDivisionError, match="the criterion's own"):
        list(parareal.refine(*arguments, criterion=criterion, **options))


def test_an_exception_of_a_propagator_of_an_inner_level_is_an_outcome():
    def fails(u, t0, t1):
        raise ZeroDivisionError("the propagator's own")

    with pytest.raises(parareal.PararealError, match="ZeroDivisionError: the propagator's own") as caught:
        parareal.solve(fails, halve, np.ones(2), (0.0, 4.0), levels=(2, 2))
    assert caught.value.solution.outcome is parareal.Outcome.WORKER_LOST
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_boundaries_are_read_once():
    expected = parareal.solve(halve, halve, 1.0, TIMES).final_state
    assert parareal.solve(halve, halve, 1.0, iter(TIMES)).final_state == expected
    assert parareal.sequential(halve, 1.0, iter(TIMES)).final_state == expected
    assert parareal.check(halve, halve, 1.0, iter(TIMES)).ok


@pytest.mark.parametrize("embedded", [np.ones((4, 3)), np.ones(2), np.ones((2, 2), dtype=np.float32)])
def test_the_embedded_result_of_a_vectorized_function_is_checked(embedded):
    coarse = parareal.vectorized(lambda u, t0, t1: parareal.Costed(u * 0.4, 1, embedded=embedded[: len(u)]))
    with pytest.raises(TypeError, match="coarse propagator"):
        parareal.solve(halve, coarse, np.ones(2), TIMES)


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "boundaries must be finite", {"boundaries": [0.0, 1.0, np.inf]}),
        (ValueError, "boundaries must be finite", {"boundaries": [-np.inf, 1.0]}),
        (TypeError, "callback must be a function", {"callback": 3}),
    ],
)
def test_infinite_boundaries_and_callbacks_that_are_no_functions_are_refused_before_any_work(kind, message, change):
    with pytest.raises(kind, match=message):
        parareal.solve(
            **{"fine": fail_if_called, "coarse": fail_if_called, "initial": 1.0, "boundaries": TIMES} | change
        )


def test_whole_numbers_may_be_of_any_integer_type():
    with pytest.raises(ValueError, match="consecutive must be a whole number"):
        parareal.Increment(consecutive=1.5)  # pyright: ignore[reportArgumentType]
    for levels in (np.array([2, 2]), (np.int64(2), 2)):
        solution = parareal.solve(halve, halve, 1.0, (0.0, 4.0), levels=levels)
        assert len(solution.boundaries) == 3


def test_a_refinement_shows_its_own_iterate_however_late_it_is_read():
    arguments = halve, lambda u, a, b: u * 0.45, np.ones(2), TIMES
    refinements = list(parareal.refine(*arguments))
    for late, now in zip(refinements, parareal.refine(*arguments), strict=True):
        np.testing.assert_array_equal(late.states, now.states)
        np.testing.assert_array_equal(late.final_state, late.states[-1])


def test_the_old_name_of_an_option_works_with_a_warning():
    with pytest.warns(FutureWarning, match="eager is now called speculate_until"):
        old = parareal.solve(halve, halve, 1.0, TIMES, eager=1)
    new = parareal.solve(halve, halve, 1.0, TIMES, speculate_until=1)
    assert old.stats.work == new.stats.work
    with pytest.raises(TypeError, match="pass speculate_until alone"):
        parareal.refine(halve, halve, 1.0, TIMES, eager=1, speculate_until=1)


def test_sequential_raises_and_check_reports_an_exception_of_a_propagator():
    def fails(u, t0, t1):
        raise ZeroDivisionError("the propagator's own")

    with pytest.raises(ZeroDivisionError, match="the propagator's own"):
        parareal.sequential(fails, 1.0, TIMES)
    report = parareal.check(fails, halve, 1.0, TIMES)
    assert not report.ok
    assert "ZeroDivisionError: the propagator's own" in str(report)


class FailingCorrection(EulerStepper):
    """A stepper with memory whose `correct` raises an exception."""

    def begin(self, state):
        return torch.zeros(len(state), 1)

    def correct(self, memory, change, node, coarse_memories):
        raise ZeroDivisionError("in correct")


def test_an_exception_in_the_correction_of_memory_is_an_outcome():
    fine = parareal.Steps(FailingCorrection(lambda u, t: -u, torch.linspace(0, 1, 9)))
    coarse = parareal.Steps(EulerStepper(lambda u, t: -u, torch.linspace(0, 1, 9)), 1)
    solution = parareal.solve(fine, coarse, torch.ones(2), range(0, 9, 2), throw=False)
    assert solution.outcome is parareal.Outcome.WORKER_LOST
    assert "ZeroDivisionError: in correct" in solution.message


def test_the_error_of_a_pool_that_was_shut_down_is_shown():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        parareal.sequential(halve, 1.0, TIMES, executor=pool)
    with pytest.raises(parareal.PararealError, match="after shutdown") as caught:
        parareal.solve(halve, halve, 1.0, TIMES, executor=pool)
    assert caught.value.solution.outcome is parareal.Outcome.WORKER_LOST


def test_sequential_keeps_the_context_of_an_error():
    def fails(u, t0, t1):
        try:
            {}["x"]
        except KeyError:
            raise ValueError("mine")  # noqa: B904, the context is what is tested

    with pytest.raises(ValueError, match="mine") as caught:
        parareal.sequential(fails, 1.0, TIMES)
    assert isinstance(caught.value.__context__, KeyError)


def test_refinements_can_be_pickled():
    first = next(iter(parareal.refine(lambda u, a, b: u * 0.5, lambda u, a, b: u * 0.4, np.ones(2), TIMES)))
    again = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(again.states, first.states)


def test_a_nested_level_without_a_coarse_propagator_follows_the_outer_correction():
    nested = parareal.Parareal(halve, None, 2)
    options = {"correction": parareal.Identity(), "criterion": parareal.Iterations(4)}
    solution = parareal.solve(nested, None, 1.0, (0.0, 4.0), slices=4, **options)
    assert solution.outcome is parareal.Outcome.EXACT
    with pytest.raises(ValueError, match="coarse is None, but CoarseDifference uses it"):
        parareal.solve(nested, halve, 1.0, (0.0, 4.0), slices=4)
