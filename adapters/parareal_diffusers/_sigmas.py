"""Levels of noise given by their sigmas: what k-diffusion's samplers step over, without any scheduler."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from parareal._checks import whole_number
from parareal_diffusers._grid import Grid, Levels

if TYPE_CHECKING:
    from parareal_diffusers._solver import Solver


@final
@dataclass(frozen=True, eq=False)
class Sigmas:
    """Levels to step over where states are clean + sigma * noise, and the model is marked `denoised`.

    It takes the scheduler's place in a solver object, as in `sample(denoised(model), x, Heun(Sigmas.karras(25)))`; x is
    `init_noise_sigma` times standard noise. Solvers with two stages a step add nodes of their own.

    Args:
        values: N + 1 sigmas, falling, the last one zero or more; kept in float32.

    Raises:
        ValueError: for others.
    """

    values: Tensor

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values, dtype=torch.float32, device="cpu")
        object.__setattr__(self, "values", values)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(f"Sigmas needs a sequence of at least two numbers, got shape {tuple(values.shape)}")
        if not bool(torch.isfinite(values).all()) or not bool((values.diff() < 0).all()) or not float(values[-1]) >= 0:
            raise ValueError("Sigmas must be finite and fall strictly, down to zero or above: sort them, largest first")

    @staticmethod
    def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> "Sigmas":
        """Return N + 1 levels of Karras et al. (2022, arXiv 2206.00364, eq. 5): N down to sigma_min, then zero.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max, rho > 0 and steps >= 1.
        """
        whole_number("steps", steps, 1)
        if not 0 < sigma_min < sigma_max or not rho > 0:
            raise ValueError(
                f"0 < sigma_min < sigma_max and rho > 0 are needed, got {sigma_min}, {sigma_max} and {rho}"
            )
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        return Sigmas(torch.cat([(high + ramp * (low - high)) ** rho, ramp.new_zeros(1)]))

    @property
    def init_noise_sigma(self) -> float:
        """By what standard noise is multiplied to make latents."""
        return float(self.values[0])

    def grid(self, solver: "Solver") -> Grid:
        """Return the nodes of a solver on these levels."""
        sigma = solver.nodes(self.values)
        start, stop = Levels.exploding(sigma[:-1]), Levels.exploding(sigma[1:])
        return Grid(sigma[:-1], start, stop, "sample", casts=False)
