"""Tolerances as arguments: every real number in range is accepted as a float, and everything else is refused."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal

FORMS = (float, np.float64, np.float32, np.array, torch.tensor, Fraction)
RELATIVE = {
    "Increment: rtol": lambda x: parareal.Increment(x, 1.0).rtol,
    "Defect: rtol": lambda x: parareal.Defect(x, 1.0).rtol,
    "Tolerance: rtol": lambda x: parareal.Tolerance(x).rtol,
}
ABSOLUTE = {
    "Increment: atol": lambda x: parareal.Increment(0.5, x).atol,
    "Defect: atol": lambda x: parareal.Defect(0.5, x).atol,
    "LastChange: atol": lambda x: parareal.LastChange(x).atol,
}
FRACTIONS = {"Tolerance: interior": lambda x: parareal.Tolerance(0.5, interior=x).interior}
ALL = RELATIVE | ABSOLUTE | FRACTIONS
ZERO_REFUSED = {"Tolerance: rtol", "Tolerance: interior", "LastChange: atol"}
NO_REAL_NUMBERS = [
    *(True, False, np.True_, np.False_, np.array(True), torch.tensor(True)),
    *(0.1 + 0j, np.complex64(0.1), torch.tensor(0.1 + 0j)),
    *("0.1", b"0.1", np.array("0.1"), [0.1], (), {}, object(), float),
    *(np.array([0.1]), np.ones((2, 3)), torch.tensor([0.1, 0.2])),
]


def is_valid(name, value):
    """Return whether a finite number is in the range of an argument."""
    upper = value < 1 if name in RELATIVE else value <= 1 if name in FRACTIONS else True
    return upper and (value > 0 if name in ZERO_REFUSED else value >= 0)


@pytest.mark.parametrize("name", ALL)
@given(value=st.floats(), form=st.sampled_from(FORMS))
def test_a_number_is_accepted_as_a_float_or_refused_with_name_value_and_range(name, value, form):
    if form is Fraction and not np.isfinite(value):
        form = float
    with np.errstate(all="ignore"):  # a large number is infinite as float32
        number = form(value)
    if np.isfinite(float(number)) and is_valid(name, float(number)):
        result = ALL[name](number)
        assert type(result) is float
        assert result == float(number)
    else:
        with pytest.raises(
            ValueError, match=f"{name} must be a finite real number, (at least|above) 0.* but was .*: pass"
        ):
            ALL[name](number)


@pytest.mark.parametrize("value", NO_REAL_NUMBERS)
@pytest.mark.parametrize("name", ALL)
def test_anything_but_a_real_number_is_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be a finite real number, .* but was .*: pass"):
        ALL[name](value)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("Increment: rtol", "Defect: rtol")])
def test_none_is_the_default_of_two_relative_tolerances_only(name):
    with pytest.raises(TypeError, match="but was None"):
        ALL[name](None)
    for criterion in (parareal.Increment, parareal.Defect):
        assert criterion() == criterion(None, 0.0)
        assert (criterion().rtol, criterion().atol) == (None, 0.0)


@pytest.mark.parametrize("value", [10**400, -(10**400), Fraction(10**30 - 1, 10**30)])
def test_a_number_is_judged_as_the_float_it_becomes(value):
    with pytest.raises(ValueError, match="Tolerance: rtol"):
        parareal.Tolerance(value)


@pytest.mark.parametrize("criterion", [parareal.Increment, parareal.Defect])
def test_zero_is_accepted_for_one_of_two_tolerances(criterion):
    assert criterion(rtol=0, atol=1e-9).rtol == 0
    assert criterion(rtol=1e-9, atol=0).atol == 0
    with pytest.raises(ValueError, match=f"{criterion.__name__}: a tolerance of 0 .* raise rtol"):
        criterion(0, np.float32(0))


@pytest.mark.parametrize("form", [np.float32, torch.tensor])
def test_criteria_made_from_scalars_of_libraries_solve_and_compare_as_those_made_from_floats(form):
    options = {"rtol": form(0.125), "atol": form(0.0)}
    criterion = parareal.Increment(**options)
    assert criterion == parareal.Increment(0.125, 0.0)
    assert hash(criterion) == hash(parareal.Increment(0.125, 0.0))
    solution = parareal.solve(lambda u, t0, t1: u * 0.5, lambda u, t0, t1: u * 0.45, 1.0, range(9), criterion=criterion)
    assert solution.outcome is parareal.Outcome.CONVERGED


@pytest.mark.parametrize("value", ["max", 1, None])
def test_a_norm_in_the_place_of_accept_prediction_is_refused(value):
    """The parameter stands where `norm` stood before."""
    with pytest.raises(TypeError, match="accept_prediction must be True or False"):
        parareal.Tolerance(1e-3, parareal.propagated_error, value)
