"""Old class names return the renamed classes and warn."""

import parareal_diffusers
import pytest
from parareal_diffusers import IdentitySolver, StepInterval


@pytest.mark.parametrize(("old", "new"), [("Leg", StepInterval), ("Identity", IdentitySolver)])
def test_an_old_name_returns_the_new_class_with_a_warning(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} was renamed: use {new.__name__}"):
        assert getattr(parareal_diffusers, old) is new


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'parareal_diffusers' has no attribute 'Stride'"):
        _ = parareal_diffusers.Stride
