"""The memory of multistep methods, and a check of their coefficients."""

from typing import NamedTuple

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid


class PredictionHistory(NamedTuple):
    """Predictions at earlier nodes, the latest first: a multistep method's memory."""

    predictions: Tensor
    """shape (R, order - 1, *sample); noise, clean sample or slope, as the method extrapolates"""
    nodes: Tensor
    """nodes of the predictions, int64 of shape (R, order - 1); -1 for no prediction yet"""


def check_finite(coefficients: dict[str, Tensor], grid: Grid) -> None:
    """Raise `ValueError` if a step of the grid has a coefficient that is not finite.

    Args:
        coefficients: values per step, each of shape (N,), by the name that the message uses.
        grid: the grid of the steps.
    """
    for name, values in coefficients.items():
        bad = torch.nonzero(~torch.isfinite(values)).flatten().tolist()
        if bad:
            i = bad[0]
            ends = [f"{float(x):.6g}" for x in (grid.start.half_log_snr[i], grid.stop.half_log_snr[i])]
            raise ValueError(
                f"step {i} of {grid.steps} has no finite {name}: it, or a step whose prediction it uses, goes from "
                f"log-SNR/2 {ends[0]} to {ends[1]}. The scheduler's own loop returns NaN here "
                "(docs/reference/upstream.md): use fewer steps, another timestep_spacing, or a lower order"
            )
