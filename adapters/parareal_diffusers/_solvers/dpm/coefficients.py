"""What the multistep and the singlestep DPM-Solvers have in common: options, and the coefficients of their steps."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from parareal.driver import one_of
from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.solver import Shift, Solver
from parareal_diffusers._solvers.step_interval import Prediction, StepInterval

ALGORITHMS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
TYPES = ("midpoint", "heun")


class Coefficients(NamedTuple):
    """A step over h in lambda: state * x + d0 * D0 + (midpoint or heun) * D1 + d2 * D2 + noise * z.

    D0 is the prediction, D1 approximates h times its first derivative by lambda and D2 h^2 times its second one, the
    multistep solver's half of it (docs/reference/upstream.md); sources: DPM-Solver, arXiv 2206.00927, and DPM-Solver++, arXiv
    2211.01095, and for the third order the code of diffusers. All in the schedulers' order of operations, for with many
    steps the differences in them are mostly rounding. Each has shape (R, 1, ..), float32.
    """

    state: Tensor
    d0: Tensor
    midpoint: Tensor
    heun: Tensor
    d2: Tensor
    noise: Tensor

    @staticmethod
    def of(algorithm: str, s: Levels, t: Levels, as_scheduler: bool = True) -> "Coefficients":
        """Compute them for steps from level s to level t.

        `as_scheduler`, the third order of the SDE is the scheduler's, whose last 1/2 has the other sign than in the
        expansion of the exact solution (docs/reference/upstream.md), else that of k-diffusion's `sample_dpmpp_3m_sde`.
        """
        h = t.half_log_snr - s.half_log_snr
        zero = torch.zeros_like(h)
        if algorithm == "dpmsolver++":
            grown = torch.exp(-h) - 1.0
            d2 = -(t.alpha * ((grown + h) / h**2 - 0.5))
            first = t.alpha * grown
            return Coefficients(t.sigma / s.sigma, -first, -0.5 * first, t.alpha * (grown / h + 1.0), d2, zero)
        if algorithm == "dpmsolver":
            grown = torch.exp(h) - 1.0
            d2 = -(t.sigma * ((grown - h) / h**2 - 0.5))
            first = _gain(t.sigma * grown, s, t)
            return Coefficients(t.alpha / s.alpha, -first, -0.5 * first, -(t.sigma * (grown / h - 1.0)), d2, zero)
        if algorithm == "sde-dpmsolver++":
            shrunk = 1.0 - torch.exp(-2.0 * h)
            first = t.alpha * shrunk
            heun = t.alpha * (shrunk / (-2.0 * h) + 1.0)
            d2 = t.alpha * ((shrunk - 2.0 * h) / (2.0 * h) ** 2 + (-0.5 if as_scheduler else 0.5))
            state = t.sigma / s.sigma * torch.exp(-h)
            return Coefficients(state, first, 0.5 * first, heun, d2, t.sigma * torch.sqrt(shrunk))
        grown = torch.exp(h) - 1.0
        first = _gain(t.sigma * grown, s, t)
        heun = -2.0 * (t.sigma * (grown / h - 1.0))
        noise = _gain(t.sigma * torch.sqrt(torch.exp(2 * h) - 1.0), s, t)
        return Coefficients(t.alpha / s.alpha, -2.0 * first, -first, heun, zero, noise)


def _gain(value: Tensor, s: Levels, t: Levels) -> Tensor:
    """Return what tends to sigma_t exp(h) where there is no noise at t and h is infinite, and else the value."""
    return torch.where(t.sigma == 0, t.alpha * s.sigma / s.alpha, value)


@dataclass(frozen=True)
class DPM(Solver):
    """Options that the multistep and the singlestep solver share; see there."""

    order: int = 2
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {self.order!r}")
        one_of("algorithm_type", self.algorithm_type, ALGORITHMS)
        one_of("solver_type", self.solver_type, TYPES)

    @property
    def stochastic(self) -> bool:
        """Whether this is an SDE variant."""
        return self.algorithm_type.startswith("sde")

    @property
    def plus(self) -> bool:
        """Whether the method integrates the predicted clean sample (DPM-Solver++), not the predicted noise."""
        return self.algorithm_type.endswith("++")

    def convert_model_output(self, x: Tensor, prediction: Prediction, interval: StepInterval) -> Tensor:
        """Return what the method integrates; a clean sample that is clipped or thresholded implies another noise."""
        if self.plus or (interval.grid.threshold is None and interval.grid.clip is None):
            return self.integrand(prediction)
        clean = interval.grid.constrain((x - interval.s.sigma * prediction.noise) / interval.s.alpha)
        return (x - interval.s.alpha * clean) / interval.s.sigma

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` where there is no signal, from which the noise predicting forms cannot start."""
        if not self.plus and bool((grid.start.alpha == 0).any()):
            raise ValueError(
                f"{self.algorithm_type} cannot start at zero signal, where the scheduler's own loop divides by zero: "
                f"use '{self.algorithm_type}++'"
            )

    def integrand(self, prediction: Prediction | Shift) -> Tensor:
        """Return the part of a prediction, or of its change, that the method integrates."""
        return prediction.clean if self.plus else prediction.noise

    def linear(self, interval: StepInterval) -> Linear:
        """Say what a step does to its state, the predicted clean sample held fixed, and how much noise it adds."""
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t)
        return Linear(c.state if self.plus else c.state + c.d0 / interval.s.sigma, c.noise)
