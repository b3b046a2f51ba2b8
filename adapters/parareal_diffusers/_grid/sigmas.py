"""Noise levels given by their sigmas, as for k-diffusion's samplers, without any scheduler."""

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
    """Noise levels of N steps, for states clean + sigma * noise and a model marked `denoised`.

    The object takes the place of the scheduler in a solver: `sample(denoised(model), x, Heun(Sigmas.karras(25)))`. The
    latents x are `init_noise_sigma` times standard noise. Solvers with two stages per step add nodes of their own.

    Args:
        values: N + 1 sigmas, strictly falling, the last one zero or above; stored in float32.

    Raises:
        ValueError: if `values` is not such a sequence.
    """

    values: Tensor

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values, dtype=torch.float32, device="cpu")
        object.__setattr__(self, "values", values)  # the dataclass is frozen
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"Sigmas needs a sequence of at least two numbers, but values has shape {tuple(values.shape)}"
            )
        if not bool(torch.isfinite(values).all()) or not bool((values.diff() < 0).all()) or not float(values[-1]) >= 0:
            raise ValueError(
                f"Sigmas must be finite and fall strictly, down to zero or above, but were {values.tolist()}: remove "
                "duplicates and sort, largest first"
            )

    @staticmethod
    def karras(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> "Sigmas":
        """Return the N + 1 levels of Karras et al. (2022, arXiv 2206.00364, eq. 5).

        Args:
            steps: number of steps N.
            sigma_min: the last level above zero; level N is zero.
            sigma_max: the first level.
            rho: exponent; larger values shorten the steps at low noise.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max, rho > 0 and steps >= 1.
        """
        whole_number("steps", steps, 1)
        if not 0 < sigma_min < sigma_max or not rho > 0:
            raise ValueError(
                f"0 < sigma_min < sigma_max and rho > 0 are needed, but they were {sigma_min}, {sigma_max} and {rho}"
            )
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        return Sigmas(torch.cat([(high + ramp * (low - high)) ** rho, ramp.new_zeros(1)]))

    @staticmethod
    def exponential(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> "Sigmas":
        """Return N + 1 levels, evenly spaced in log sigma down to `sigma_min`, then zero, as in k-diffusion.

        Args:
            steps: number of steps N.
            sigma_min: the last level above zero; level N is zero.
            sigma_max: the first level.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max and steps >= 1.
        """
        whole_number("steps", steps, 1)
        return Sigmas(torch.cat([log_spaced(steps, sigma_min, sigma_max), torch.zeros(1, dtype=torch.float64)]))

    @property
    def init_noise_sigma(self) -> float:
        """The factor that turns standard noise into latents: the first sigma."""
        return float(self.values[0])

    def like(self, steps: int) -> "Sigmas":
        """Return levels of `steps` steps over the same range, evenly spaced in log sigma above zero."""
        ends_at_zero = float(self.values[-1]) == 0  # zero has no logarithm, so it stays as the last level
        if ends_at_zero and (steps == 1 or len(self.values) == 2):
            return Sigmas(torch.stack([self.values[0], self.values[-1]]))
        last = self.values[-2 if ends_at_zero else -1]
        levels = log_spaced(steps + (not ends_at_zero), float(last), self.init_noise_sigma)
        levels[0], levels[-1] = self.values[0], last  # exactly, without the rounding of exp and log
        return Sigmas(torch.cat([levels, levels.new_zeros(1)]) if ends_at_zero else levels)


def log_spaced(count: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return `count` sigmas from `sigma_max` down to `sigma_min`, evenly spaced in log sigma, float64."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"0 < sigma_min < sigma_max is needed, but they were {sigma_min} and {sigma_max}")
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), count, dtype=torch.float64).exp()


def ancestral_std(s: Levels, t: Levels) -> Tensor:
    """Return the standard deviation of ancestral noise at level t (k-diffusion, `get_ancestral_step` with eta 1)."""
    up = (t.sigma**2 * (s.sigma**2 - t.sigma**2) / s.sigma**2) ** 0.5
    return torch.minimum(t.sigma, up)  # as in k-diffusion; larger only by rounding


def with_middles(sigmas: Tensor, targets: Tensor) -> Tensor:
    """Return the sigmas of the nodes of a two-stage method: the start of each step, and its middle.

    The middle lies halfway in log sigma between start and target, so a last step whose target is zero has none.

    Args:
        sigmas: N + 1 levels.
        targets: N sigmas that the steps aim at, before noise is added.
    """
    # A last target of zero has log sigma -inf; the node of its middle is dropped below.
    middles = sigmas[:-1].log().lerp(targets.log(), 0.5).exp()
    nodes = torch.cat([torch.stack([sigmas[:-1], middles], dim=1).flatten(), sigmas[-1:]])
    return nodes if bool(targets[-1] > 0) else torch.cat([nodes[:-2], nodes[-1:]])


def ancestral_targets(sigmas: Tensor) -> Tensor:
    """Return the target sigmas of N ancestral steps, before noise is added, from N + 1 levels."""
    s, t = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:])
    # Rounding can make the difference negative.
    return (t.sigma**2 - ancestral_std(s, t) ** 2).clamp(min=0) ** 0.5
