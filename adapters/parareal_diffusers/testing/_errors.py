"""How far samples are from a reference."""

from torch import Tensor


def relative_errors(x: Tensor, reference: Tensor) -> Tensor:
    """Return, for each sample, the RMS of the difference over the RMS of the reference: shape (samples,).

    Both have shape (samples, *sample); NaN where a sample of the reference is zero and x is, too.
    """
    return (x - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def relative_error(x: Tensor, reference: Tensor) -> float:
    """Return the worst sample's relative error; see `relative_errors`."""
    return float(relative_errors(x, reference).max())
