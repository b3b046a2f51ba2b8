"""Tests of runs that are driven from outside: the driver makes the evaluations, as a pipeline's own loop does."""

import numpy as np
import pytest
import torch
from problems import AdamsBashforth2Stepper, HeunStepper, edges, logistic

import parareal
from parareal.driver import Evaluation, Options, Problem, Run

TIMES = np.linspace(0.0, 2.0, 25)
INITIAL = np.array([[0.1, 0.7], [1.3, 0.4]])


def build_propagators(method, rhs):
    fine, coarse = method(rhs, TIMES), method(rhs, TIMES)
    return parareal.Steps(fine), parareal.Steps(coarse, steps=1)


def build_run(method, rhs):
    fine, coarse = build_propagators(method, rhs)
    problem = Problem.create(fine, coarse, INITIAL, edges(24, 4), 1)
    return Run(problem, Options(criterion=parareal.Increment(1e-8)))


def fail_if_called(u, t):
    raise AssertionError("the driver makes the evaluations")


def rhs(u, t):
    return logistic(t, u)


@pytest.mark.parametrize("method", [HeunStepper, AdamsBashforth2Stepper])
def test_a_driver_outside_gets_the_solution_of_solve(method):
    run, iterations, value = build_run(method, fail_if_called), [], None
    events = run.events()
    calls = 0
    while True:
        try:
            event = events.send(value)
        except StopIteration:
            break
        value = rhs(*event.arguments) if isinstance(event, Evaluation) else None
        if isinstance(event, Evaluation):
            assert len(event.arguments[0]) == event.count
            calls += 1
        else:
            iterations.append(event)
    solution = parareal.solve(
        *build_propagators(method, rhs), INITIAL, edges(24, 4), batch_dims=1, criterion=parareal.Increment(1e-8)
    )
    assert np.array_equal(run.solution().final_state, solution.final_state)
    assert iterations == sorted(iterations)
    assert iterations[0] == 0
    assert calls == solution.stats.calls == run.solution().stats.calls


def test_an_error_of_the_driver_ends_the_run_with_a_solution():
    run = build_run(HeunStepper, fail_if_called)
    events = run.events()
    assert isinstance(next(events), Evaluation)
    with pytest.raises(StopIteration):
        events.throw(RuntimeError("out of memory"))
    assert "out of memory" in run.solution().message


def test_a_closed_run_has_a_cancelled_solution_and_leaves_gradients_on():
    run = build_run(HeunStepper, fail_if_called)
    events = run.events()
    next(events)
    events.close()
    assert torch.is_grad_enabled()
    assert run.solution().outcome is parareal.Outcome.CANCELLED


def test_sending_no_value_raises():
    run = build_run(HeunStepper, fail_if_called)
    events = run.events()
    assert isinstance(next(events), Evaluation)
    with pytest.raises(TypeError, match="must return a value for each"):
        next(events)
