"""Boundaries of slices, spaced between evenly in steps and evenly in log-SNR."""

from typing import Any

import torch

from parareal.driver import whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._schedulers.native import build_grid, check_native_grid, copy_with_timesteps


def boundaries(
    scheduler: Any, slices: int, *, num_inference_steps: int | None = None, log_snr: float = 0.3
) -> list[int]:
    """Return boundaries for `sample(..., boundaries=)`, with shorter slices at the end, where the noise is small.

    The error of a coarse jump is largest where the signal to noise ratio changes fastest per step, which is at the end.

    Args:
        scheduler: a scheduler of diffusers, as passed to `sample`.
        slices: the number of slices, at most the number of steps.
        num_inference_steps: the number of steps N, as in `set_timesteps`.
        log_snr: 0 spaces boundaries evenly in steps, 1 evenly in half the logarithm of the signal to noise ratio
            (lambda in DPM-Solver, arXiv 2206.00927); values between mix the two.

    Returns:
        slices + 1 rising nodes, the first 0 and the last the number of steps.

    Raises:
        ValueError: if there are more slices than steps, or `log_snr` is outside [0, 1].
        TypeError: if the scheduler has no native grid.
    """
    whole_number("slices", slices, 1)
    if not 0 <= log_snr <= 1:
        raise ValueError(f"log_snr must be between 0 and 1, but was {log_snr}")
    check_native_grid(scheduler)
    grid = build_grid(copy_with_timesteps(scheduler, num_inference_steps))
    if slices > grid.steps:
        raise ValueError(f"slices must be at most the {grid.steps} steps, but was {slices}")
    return space_boundaries(grid, slices, log_snr)


def space_boundaries(grid: Grid, slices: int, log_snr: float) -> list[int]:
    """Return the result of `boundaries` for a grid that has at least `slices` steps."""
    steps = grid.steps
    position = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if log_snr:
        # Lambda is infinite at zero signal, where a grid may start. At all other nodes |lambda| is below 20 on the
        # schedules of diffusers.
        half_log_snr = grid.start.half_log_snr.cpu().double().clamp(-20, 20)
        # At the last node, too, lambda is infinite if that node has no noise. The last difference is repeated there.
        end = 2 * half_log_snr[-1] - half_log_snr[-2] if steps > 1 else half_log_snr[-1] + 1
        half_log_snr = torch.cat([half_log_snr, end[None]])
        total = half_log_snr[-1] - half_log_snr[0]
        position = (1 - log_snr) * position + log_snr * (half_log_snr - half_log_snr[0]) / total
    targets = torch.arange(slices + 1) / slices
    nodes = (position[None] - targets[:, None]).abs().argmin(dim=1).tolist()
    nodes[0], nodes[-1] = 0, steps
    # Several targets may be nearest to one node: every slice gets a step at least, and leaves one for each later slice.
    for i in range(1, slices):
        nodes[i] = min(max(nodes[i], nodes[i - 1] + 1), steps - (slices - i))
    return nodes
