"""The engine driven from outside: whoever asks for events makes the calls, as a pipeline's own loop does."""

import numpy as np
import pytest
import torch
from problems import AdamsBashforth2Stepper, HeunStepper, edges, logistic

import parareal
from parareal.driver import Evaluation, Options, Problem, Run

TIMES = np.linspace(0.0, 2.0, 25)
INITIAL = np.array([[0.1, 0.7], [1.3, 0.4]])


def parts(method, rhs):
    fine, coarse = method(rhs, TIMES), method(rhs, TIMES)
    return parareal.Steps(fine), parareal.Steps(coarse, steps=1)


def run_of(method, rhs):
    fine, coarse = parts(method, rhs)
    problem = Problem.checked(fine, coarse, INITIAL, edges(24, 4), 1)
    return Run(problem, Options(criterion=parareal.Increment(1e-8)))


def never(u, t):
    raise AssertionError("the driver makes the calls")


def rhs(u, t):
    return logistic(t, u)


@pytest.mark.parametrize("method", [HeunStepper, AdamsBashforth2Stepper])
def test_a_driver_outside_gets_what_solve_gets(method):
    run, iterations, value = run_of(method, never), [], None
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
        *parts(method, rhs), INITIAL, edges(24, 4), batch_dims=1, criterion=parareal.Increment(1e-8)
    )
    assert np.array_equal(run.solution().final_state, solution.final_state)
    assert iterations == sorted(iterations)
    assert iterations[0] == 0
    assert calls == solution.stats.calls == run.solution().stats.calls


def test_an_error_of_the_driver_ends_the_run_with_a_solution():
    run = run_of(HeunStepper, never)
    events = run.events()
    assert isinstance(next(events), Evaluation)
    with pytest.raises(StopIteration):
        events.throw(RuntimeError("out of memory"))
    assert "out of memory" in run.solution().message


def test_closing_leaves_a_cancelled_solution_and_gradients_as_they_were():
    run = run_of(HeunStepper, never)
    events = run.events()
    next(events)
    events.close()
    assert torch.is_grad_enabled()
    assert run.solution().outcome is parareal.Outcome.CANCELLED


def test_a_value_that_was_forgotten_is_named():
    run = run_of(HeunStepper, never)
    events = run.events()
    assert isinstance(next(events), Evaluation)
    with pytest.raises(TypeError, match="must return a value for each"):
        next(events)
