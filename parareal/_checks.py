"""Checks of arguments. Their messages name the argument, its value and the remedy."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from operator import index
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
