"""Checks of arguments, with messages that say what to change."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from operator import index
from typing import Any, TypeVar

T = TypeVar("T")


def one_of(name: str, value: Any, valid: Iterable[str]) -> None:
    """Raise `ValueError` unless `value` is one of `valid`, naming the nearest."""
    valid = list(valid)
    if value not in valid:
        near = get_close_matches(str(value), valid, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}, not {value!r}{hint}")


def whole_number(name: str, value: Any, least: int) -> int:
    """Return `value` as an int, or raise `ValueError` unless it is a whole number of at least `least`."""
    try:
        number = least - 1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")
    return number


def optional_whole_number(name: str, value: Any, least: int) -> int | None:
    """Return None as it is, and any other `value` as `whole_number` does."""
    return None if value is None else whole_number(name, value, least)


def renamed(old: str, value: T | None, new: str, current: T | None) -> T | None:
    """Return the value of a renamed option, with a warning where the old name was used.

    Raises:
        TypeError: if both names were used.
    """
    if value is None:
        return current
    if current is not None:
        raise TypeError(f"{old} is the old name of {new}: pass {new} alone")
    warnings.warn(f"{old} is now called {new}; the old name goes with the next release", FutureWarning, stacklevel=3)
    return value
