"""Levels of noise given by their sigmas: what k-diffusion's samplers step over, without any scheduler."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal.driver import whole_number
from parareal_diffusers._grid.grid import Levels


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

    @staticmethod
    def exponential(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> "Sigmas":
        """Return N + 1 levels even in log sigma: N down to sigma_min, then zero, as k-diffusion makes them.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max and steps >= 1.
        """
        whole_number("steps", steps, 1)
        return Sigmas(torch.cat([even(steps, sigma_min, sigma_max), torch.zeros(1, dtype=torch.float64)]))

    @property
    def init_noise_sigma(self) -> float:
        """By what standard noise is multiplied to make latents."""
        return float(self.values[0])

    def like(self, steps: int) -> "Sigmas":
        """Return other levels over the same range: so many steps, even in log sigma down to the last one above zero."""
        ends_at_zero = float(self.values[-1]) == 0
        if ends_at_zero and (steps == 1 or len(self.values) == 2):
            return Sigmas(torch.stack([self.values[0], self.values[-1]]))
        last = self.values[-2 if ends_at_zero else -1]
        levels = even(steps + (not ends_at_zero), float(last), self.init_noise_sigma)
        levels[0], levels[-1] = self.values[0], last
        return Sigmas(torch.cat([levels, levels.new_zeros(1)]) if ends_at_zero else levels)


def even(count: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return so many sigmas from sigma_max down to sigma_min, even in log sigma, float64."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"0 < sigma_min < sigma_max is needed, got {sigma_min} and {sigma_max}")
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), count, dtype=torch.float64).exp()


def ancestral_std(s: Levels, t: Levels) -> Tensor:
    """Return the standard deviation of ancestral noise at level t (k-diffusion, `get_ancestral_step` with eta 1)."""
    up = (t.sigma**2 * (s.sigma**2 - t.sigma**2) / s.sigma**2) ** 0.5
    return torch.minimum(t.sigma, up)


def with_middles(sigmas: Tensor, targets: Tensor) -> Tensor:
    """Return sigmas of nodes: each step's beginning and, in log sigma halfway to its target, its middle.

    From N + 1 levels and N targets; a step whose target is zero has no middle.
    """
    middles = sigmas[:-1].log().lerp(targets.log(), 0.5).exp()
    nodes = torch.cat([torch.stack([sigmas[:-1], middles], dim=1).flatten(), sigmas[-1:]])
    return nodes if bool(targets[-1] > 0) else torch.cat([nodes[:-2], nodes[-1:]])


def downwards(sigmas: Tensor) -> Tensor:
    """Return to where each step goes before ancestral noise is added: N sigmas from N + 1."""
    s, t = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:])
    return (t.sigma**2 - ancestral_std(s, t) ** 2).clamp(min=0) ** 0.5
