"""Cancellation by a callback: None lets a solve go on, and so does every value except those that count as false."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal
from parareal.driver import requests_cancellation

SCALARS = (bool, int, float, np.bool_, np.float32, np.array, torch.tensor, lambda x: np.array([x]), lambda x: [1] * x)


class Undefined:
    """An object without truth value, as some libraries have them."""

    def __bool__(self):
        raise OSError("undefined")


def solve(callback):
    return parareal.solve(
        lambda u, t0, t1: u * 0.5, lambda u, t0, t1: u * 0.4, 1.0, range(5), callback=callback, throw=False
    )


@given(truth=st.booleans(), form=st.sampled_from(SCALARS), at=st.integers(0, 3))
def test_a_solve_is_cancelled_where_the_result_counts_as_false(truth, form, at):
    solution = solve(lambda r: None if r.iteration < at else form(truth))
    assert (solution.outcome is parareal.Outcome.CANCELLED) is not truth
    assert truth or solution.iterations == at


@given(
    st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.binary(), st.lists(st.none()), st.complex_numbers())
)
def test_the_truth_value_is_that_of_python_except_for_none(result):
    assert requests_cancellation(result) is (result is not None and not bool(result))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (np.zeros((2, 3)), r"ndarray of shape \(2, 3\)"),
        (torch.ones(2), r"Tensor of shape \(2,\)"),
        (torch.ones(0), r"Tensor of shape \(0,\)"),
        (Undefined(), "Undefined object"),
    ],
)
def test_a_result_without_truth_value_is_refused(result, text):
    calls = []
    with pytest.raises(TypeError, match=f"callback returned .*{text}.*: return None or True to go on, False to cancel"):
        solve(lambda r: calls.append(r) or result)
    assert len(calls) == 1
