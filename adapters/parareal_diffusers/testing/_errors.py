"""Errors of samples relative to a reference."""

from torch import Tensor


def relative_errors(x: Tensor, reference: Tensor) -> Tensor:
    """Return the relative error of each sample: the RMS of the difference over the RMS of the reference.

    Args:
        x: shape (samples, *sample).
        reference: shape (samples, *sample).

    Returns:
        Errors of shape (samples,). Where a sample of the reference is zero the error is infinite, or NaN if x is zero
        there too.
    """
    return (x - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def relative_error(x: Tensor, reference: Tensor) -> float:
    """Return the largest relative error of all samples (`relative_errors`)."""
    return float(relative_errors(x, reference).max())
