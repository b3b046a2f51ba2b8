"""Where slices begin and end: between even in steps and even in log-SNR."""

from typing import Any

import torch

from parareal.driver import whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._schedulers.native import check_nodes, grid_of, prepared


def boundaries(
    scheduler: Any, slices: int, *, num_inference_steps: int | None = None, log_snr: float = 0.3
) -> list[int]:
    """Return nodes as boundaries of slices, for `sample(..., boundaries=)`: shorter slices where the noise ends.

    Errors of coarse jumps are largest where the ratio of signal to noise changes fastest over a step, at the end.

    Args:
        scheduler: a scheduler of diffusers, as given to `sample`.
        slices: how many, at most the number of steps.
        num_inference_steps: steps N, as in `set_timesteps`.
        log_snr: 0 spaces them evenly over steps, 1 over half the logarithm of the signal to noise ratio (lambda in
            DPM-Solver, arXiv 2206.00927), what is between mixes the two.

    Returns:
        slices + 1 rising nodes, the first 0 and the last the number of steps.

    Raises:
        ValueError, TypeError: for a scheduler without a native grid, more slices than steps, or a mix outside [0, 1].
    """
    whole_number("slices", slices, 1)
    if not 0 <= log_snr <= 1:
        raise ValueError(f"log_snr must be between 0 and 1, got {log_snr}")
    check_nodes(scheduler)
    grid = grid_of(prepared(scheduler, num_inference_steps))
    if slices > grid.steps:
        raise ValueError(f"slices must be at most the {grid.steps} steps, got {slices}")
    return spaced(grid, slices, log_snr)


def spaced(grid: Grid, slices: int, log_snr: float) -> list[int]:
    """Return what `boundaries` does, for a grid of as many steps or more."""
    steps = grid.steps
    place = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if log_snr:
        ratio = grid.start.half_log_snr.cpu().double().clamp(-20, 20)
        end = 2 * ratio[-1] - ratio[-2] if steps > 1 else ratio[-1] + 1  # the last step ends without noise
        ratio = torch.cat([ratio, end[None]])
        place = (1 - log_snr) * place + log_snr * (ratio - ratio[0]) / (ratio[-1] - ratio[0])
    wanted = torch.arange(slices + 1) / slices
    nodes = (place[None] - wanted[:, None]).abs().argmin(dim=1).tolist()
    nodes[0], nodes[-1] = 0, steps
    for i in range(1, slices):  # a slice has a step at least, on both sides
        nodes[i] = min(max(nodes[i], nodes[i - 1] + 1), steps - (slices - i))
    return nodes
