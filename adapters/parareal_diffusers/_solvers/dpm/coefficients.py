"""Options and step coefficients that the multistep and the singlestep DPM-Solver share."""

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
    """Coefficients of a step over h in lambda: state * x + d0 * D0 + (midpoint or heun) * D1 + d2 * D2 + noise * z.

    D0 is the predicted noise or clean sample. D1 approximates h times its first derivative in lambda. D2 approximates
    h^2 times its second derivative, and in the multistep solver half of that (docs/reference/upstream.md). Sources:
    DPM-Solver (Lu et al. 2022, arXiv 2206.00927, Algorithms 1 and 2), DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095,
    Algorithms 1 and 2), and for the third order the code of diffusers.

    The operations have the schedulers' order, because with many steps the coefficients are small differences, of which
    rounding is a large part. Each has shape (R, 1, ...), float32.
    """

    state: Tensor
    d0: Tensor
    midpoint: Tensor
    heun: Tensor
    d2: Tensor
    noise: Tensor

    @staticmethod
    def of(algorithm: str, s: Levels, t: Levels, as_scheduler: bool = True) -> "Coefficients":
        """Compute the coefficients of steps from level s to level t.

        Args:
            algorithm: one of `ALGORITHMS`.
            s: levels at the starts.
            t: levels at the ends.
            as_scheduler: if true, the third order of SDE-DPM-Solver++ is diffusers', whose last 1/2 has the opposite
                sign from the expansion of the exact solution (docs/reference/upstream.md); else it is k-diffusion's
                `sample_dpmpp_3m_sde`.
        """
        h = t.half_log_snr - s.half_log_snr
        zero = torch.zeros_like(h)
        # expm1 would be more accurate than exp(x) - 1, but it is not what the schedulers compute.
        if algorithm == "dpmsolver++":  # arXiv 2211.01095, Algorithm 2
            factor = torch.exp(-h) - 1.0
            d2 = -(t.alpha * ((factor + h) / h**2 - 0.5))
            first = t.alpha * factor
            return Coefficients(t.sigma / s.sigma, -first, -0.5 * first, t.alpha * (factor / h + 1.0), d2, zero)
        if algorithm == "dpmsolver":  # arXiv 2206.00927, eq. 3.7
            factor = torch.exp(h) - 1.0
            d2 = -(t.sigma * ((factor - h) / h**2 - 0.5))
            first = _finite_at_zero_noise(t.sigma * factor, s, t)
            return Coefficients(t.alpha / s.alpha, -first, -0.5 * first, -(t.sigma * (factor / h - 1.0)), d2, zero)
        if algorithm == "sde-dpmsolver++":
            factor = 1.0 - torch.exp(-2.0 * h)
            first = t.alpha * factor
            heun = t.alpha * (factor / (-2.0 * h) + 1.0)
            d2 = t.alpha * ((factor - 2.0 * h) / (2.0 * h) ** 2 + (-0.5 if as_scheduler else 0.5))
            state = t.sigma / s.sigma * torch.exp(-h)
            return Coefficients(state, first, 0.5 * first, heun, d2, t.sigma * torch.sqrt(factor))
        # sde-dpmsolver
        factor = torch.exp(h) - 1.0
        first = _finite_at_zero_noise(t.sigma * factor, s, t)
        heun = -2.0 * (t.sigma * (factor / h - 1.0))
        noise = _finite_at_zero_noise(t.sigma * torch.sqrt(torch.exp(2 * h) - 1.0), s, t)
        return Coefficients(t.alpha / s.alpha, -2.0 * first, -first, heun, zero, noise)


def _finite_at_zero_noise(value: Tensor, s: Levels, t: Levels) -> Tensor:
    """Replace values by their limit where a step or jump ends at zero noise.

    There sigma_t is 0 and h infinite. The limit is that of sigma_t exp(h), which is alpha_t sigma_s / alpha_s.
    """
    return torch.where(t.sigma == 0, t.alpha * s.sigma / s.alpha, value)


@dataclass(frozen=True)
class DPM(Solver):
    """Base class of `DPMSolver` (multistep) and `DPMSolverSinglestep`: their common options and formulas."""

    order: int = 2
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, but was {self.order!r}")
        one_of("algorithm_type", self.algorithm_type, ALGORITHMS)
        one_of("solver_type", self.solver_type, TYPES)

    @property
    def stochastic(self) -> bool:
        """Whether the method is an SDE variant, which adds noise."""
        return self.algorithm_type.startswith("sde")

    @property
    def plus(self) -> bool:
        """Whether the method integrates the predicted clean sample (DPM-Solver++), not the predicted noise."""
        return self.algorithm_type.endswith("++")

    def convert_model_output(self, x: Tensor, prediction: Prediction, interval: StepInterval) -> Tensor:
        """Return the prediction that the method integrates, as the scheduler's method of this name does."""
        # A clipped or thresholded clean sample implies another noise than the network's, which `Prediction` keeps.
        if self.plus or (interval.grid.threshold is None and interval.grid.clip is None):
            return self.integrand(prediction)
        clean = interval.grid.constrain((x - interval.s.sigma * prediction.noise) / interval.s.alpha)
        return (x - interval.s.alpha * clean) / interval.s.sigma

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` if a noise-predicting form would start at zero signal, where it divides by alpha = 0."""
        if not self.plus and bool((grid.start.alpha == 0).any()):
            raise ValueError(
                f"{self.algorithm_type} cannot start at zero signal, where the scheduler's own loop divides by zero: "
                f"use '{self.algorithm_type}++'"
            )

    def integrand(self, prediction: Prediction | Shift) -> Tensor:
        """Return the clean sample (DPM-Solver++) or the noise (DPM-Solver) of a prediction or of its increment."""
        return prediction.clean if self.plus else prediction.noise

    def linear(self, interval: StepInterval) -> Linear:
        """Return the linear map of first-order steps, with the predicted clean sample held fixed."""
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t)
        # At a fixed clean sample the noise is (x - alpha_s * clean) / sigma_s, so its coefficient acts on the state.
        return Linear(c.state if self.plus else c.state + c.d0 / interval.s.sigma, c.noise)
