"""Checks of arguments. Their messages name the argument, its value and the remedy."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Real
from operator import ge, gt, index, le, lt
from typing import Any, TypeVar

T = TypeVar("T")


def one_of(name: str, value: Any, valid: Iterable[str]) -> None:
    """Raise `ValueError` unless a value is one of several names.

    Args:
        name: the argument's name, for the message.
        value: the argument's value.
        valid: the names that are allowed; the message suggests the one most like `value`.
    """
    valid = list(valid)
    if value not in valid:
        near = get_close_matches(str(value), valid, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}, not {value!r}{hint}")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a value as an int, or raise `ValueError` unless it is a whole number of at least `least`.

    NumPy integers and other objects with `__index__` are accepted; floats, even whole ones, and bools are not.

    Args:
        name: the argument's name, for the message.
        value: the argument's value.
        least: the smallest number allowed.
    """
    try:
        # bool is a subclass of int, but True as a count is nearly always a mistake
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, but was {value!r}")
    return number


def optional_whole_number(name: str, value: Any, least: int) -> int | None:
    """Return None unchanged, and check any other value by `whole_number`."""
    return None if value is None else whole_number(name, value, least)


def real_number(
    name: str,
    value: Any,
    remedy: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Return a value as a float, or raise an error unless it is a finite real number within bounds.

    Integers, fractions, and scalars and arrays without dimensions of NumPy and torch are accepted; truth values,
    complex numbers and strings are not.

    Args:
        name: the argument's name, for the message.
        value: the argument's value.
        remedy: the advice at the end of the message.
        least: the smallest number allowed; None for no such bound.
        above: a bound that the number must exceed; None for no such bound.
        most: the largest number allowed; None for no such bound.
        below: a bound that the number must stay below; None for no such bound.

    Raises:
        TypeError: if the value is not a real number.
        ValueError: if it is NaN, infinite or out of bounds.
    """
    table = (("at least", least, ge), ("above", above, gt), ("at most", most, le), ("below", below, lt))
    bounds = [(words, bound, holds) for words, bound, holds in table if bound is not None]
    number = _convert_to_float(value)
    if number is None or not isfinite(number) or not all(holds(number, bound) for _, bound, holds in bounds):
        interval = " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds)
        message = f"{name} must be a finite real number, {interval}, but was {describe(value)}: {remedy}"
        raise TypeError(message) if number is None else ValueError(message)
    return number


def optional_share(name: str, value: Any) -> None:
    """Return for None, and raise as `real_number` does unless any other value is a share: a number from 0 to 1."""
    if value is not None:
        real_number(name, value, "pass the share of the slices to check, or None for none", least=0, most=1)


def _convert_to_float(value: Any) -> float | None:
    """Return a real number as a float, infinite if it is too large for one; None for everything else."""
    if getattr(value, "shape", None) == ():
        value = value.item()  # of NumPy's and torch's scalars alike
    # bool is registered as a real number, but True as a tolerance is nearly always a mistake
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return inf


def describe(value: Any) -> str:
    """Return the text of a value for a message; of an array with dimensions, its type and shape."""
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} of shape {tuple(shape)}" if shape else repr(value)


def resolve_renamed(old: str, value: T | None, new: str, current: T | None) -> T | None:
    """Return the value of a renamed option, and warn if the caller used the old name.

    Args:
        old: the option's old name.
        value: the value passed under the old name, or None.
        new: the option's new name.
        current: the value passed under the new name, or None.

    Raises:
        TypeError: if both names were used.
    """
    if value is None:
        return current
    if current is not None:
        raise TypeError(f"{old} is the old name of {new}: pass {new} alone")
    # level 4 is the caller of the public function that has the option
    _warn_renamed(old, new, stacklevel=4)
    return value


def _warn_renamed(old: str, new: str, stacklevel: int) -> None:
    """Warn that a name is old; `stacklevel` is counted as by `warnings.warn`, from this function."""
    warnings.warn(
        f"{old} is now called {new}; the old name will be removed in the next release",
        FutureWarning,
        stacklevel=stacklevel,
    )


class RenamedAttribute:
    """An attribute under its old name: reading it warns, and returns the attribute under its new name."""

    def __init__(self, old: str, new: str):
        self.old, self.new = old, new

    def __get__(self, instance: Any, owner: type) -> Any:
        """Return the value of the new attribute."""
        _warn_renamed(f"{owner.__name__}.{self.old}", f"{owner.__name__}.{self.new}", stacklevel=3)
        return getattr(owner if instance is None else instance, self.new)
