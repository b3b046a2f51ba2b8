"""Rules for callbacks that receive a `Refinement`, in `solve` and in all adapters."""

from typing import Any

from parareal._checks import describe


def check_callback(callback: Any) -> None:
    """Raise `TypeError` unless a callback is a function or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a Refinement, or None, not {type(callback).__name__}")


def requests_cancellation(result: Any) -> bool:
    """Return whether the result of a callback cancels the solve.

    None does not, because a function without a return statement returns it. Every other value cancels if Python takes
    it for false: False, 0, `numpy.False_`, `torch.tensor(False)`, an empty string or an empty list.

    Raises:
        TypeError: if the result has no truth value, as an array of several numbers.
    """
    if result is None:
        return False
    try:
        return not result
    except Exception as error:  # NumPy raises ValueError, torch RuntimeError, and other libraries their own
        raise TypeError(
            f"callback returned {describe(result)}, whose truth value is undefined: return None or True to go "
            "on, False to cancel"
        ) from error
