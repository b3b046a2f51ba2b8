"""The option `slices`: even division of the interval between two ends."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import EulerStepper

import parareal

STEPPER = EulerStepper(lambda u, t: -u, torch.linspace(0, 1, 9))


@pytest.mark.parametrize("ends", [(0.0, 3.0), (3.0, -1.0), (0, 3), tuple(torch.tensor([0.0, 3.0]))])
def test_functions_cross_slices_of_equal_length(ends):
    intervals = set()

    def fine(u, t0, t1):
        intervals.add((float(t0), float(t1)))
        return u * 0.5

    parareal.solve(fine, lambda u, t0, t1: u * 0.4, 1.0, ends, slices=5)
    start, stop = (float(t) for t in ends)
    expected = [start + (stop - start) * i / 5 for i in range(6)]
    np.testing.assert_allclose(sorted(intervals), sorted(pairwise(expected)), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(4, 40), slices=st.integers(1, 4), falling=st.booleans())
def test_slices_of_steppers_begin_at_whole_nodes(steps, slices, falling):
    stepper = EulerStepper(lambda u, t: -u, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    ends = (steps, 0) if falling else (0, steps)
    arguments = (parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.ones(2, dtype=torch.float64))
    solution = parareal.solve(*arguments, ends, slices=slices, criterion=parareal.Iterations(slices))
    assert solution.boundaries == [ends[0] + round((ends[1] - ends[0]) * i / slices) for i in range(slices + 1)]
    assert solution.outcome is parareal.Outcome.EXACT


@pytest.mark.parametrize(
    ("kind", "message", "change"),
    [
        (ValueError, "boundaries has 3 numbers: give the first and the last", {"boundaries": [0, 4, 8]}),
        (ValueError, "leave slices=4 out", {"levels": (2, 2), "slices": 4}),
        (ValueError, "slices must be a whole number of at least 1, but was 0", {"slices": 0}),
        (ValueError, "slices must be a whole number of at least 1, but was 2.5", {"slices": 2.5}),
        (ValueError, "slices must be a whole number of at least 1, but was 'auto'", {"slices": "auto"}),
        (ValueError, "at most the 8 steps between the two ends, but was 9", {"slices": 9}),
        (ValueError, "window must be a whole number", {"window": 0}),
        (ValueError, "schedule must be one of", {"schedule": "pipeline"}),
        (ValueError, "max_iterations must be", {"max_iterations": -1}),
        (TypeError, "criterion must be", {"criterion": 1e-3}),
        (TypeError, "executor must be", {"executor": "serial"}),
        (TypeError, "unexpected keyword argument 'cost'", {"cost": 1}),
    ],
)
@pytest.mark.parametrize("call", [parareal.solve, parareal.refine])
def test_invalid_slices_and_options_are_refused_before_any_work(call, kind, message, change):
    class FailingStepper(EulerStepper):
        def step(self, state, memory, start, stop):
            raise AssertionError("work was done before the input was checked")

    fine = parareal.Steps(FailingStepper(STEPPER.evaluate, STEPPER.grid))
    arguments = {"fine": fine, "coarse": fine, "initial": torch.ones(2), "boundaries": (0, 8), "slices": 4}
    with pytest.raises(kind, match=message):
        call(**arguments | change)
