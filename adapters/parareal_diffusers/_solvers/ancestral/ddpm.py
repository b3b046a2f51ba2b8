"""DDPM, ancestral sampling."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal.driver import Memory, StructureError, one_of
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._noise import Linear, posterior, posterior_variance
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.solver import Solver, StepGenerator, check_variance_preserving
from parareal_diffusers._solvers.step_interval import StepInterval

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


@final
@dataclass(frozen=True)
class DDPM(Solver):
    """Denoising diffusion probabilistic models (Ho, Jain, Abbeel 2020, arXiv 2006.11239, eq. 6 and 7).

    A step from node to node is `diffusers.DDPMScheduler.step`, with the same order of operations.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        variance_type: variance of the added noise: `"fixed_small"` or `"fixed_small_log"` (posterior), `"fixed_large"`
            (beta), or, with a network that has twice the output channels, `"learned"` or `"learned_range"` (Nichol,
            Dhariwal 2021, arXiv 2102.09672, eq. 15).

    Raises:
        ValueError: for another variance type; and at the first step, if the network predicts no learned variance.
    """

    variance_type: str = "fixed_small"

    def __post_init__(self) -> None:
        if self.variance_type == "fixed_large_log":
            raise ValueError(
                "variance_type 'fixed_large_log' is unsupported: DDPMScheduler takes the square root of the variance's "
                "logarithm, which is negative, and returns NaN (docs/reference/upstream.md); use 'fixed_large'"
            )
        one_of("variance_type", self.variance_type, VARIANCES)

    @property
    def stochastic(self) -> bool:
        """True: every variance type adds noise."""
        return True

    @property
    def wants_variance(self) -> bool:
        """Whether the network must predict the variance: for the learned types."""
        return self.variance_type.startswith("learned")

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by eq. 7, with the variance of `variance_type`; one evaluation."""
        clean, _, predicted = yield from interval.predict(x)
        of_clean, of_state, std = look_up_coefficients(interval, self._compute_coefficients)
        std = self._std(interval, predicted) if std is None else std
        return of_clean * clean + of_state * x + interval.noise(std), memory

    def _compute_coefficients(self, interval: StepInterval, _: None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the coefficients of clean sample, state and noise; None for the noise if its variance is learned."""
        s, t = interval.s.alpha_cumprod, interval.t.alpha_cumprod
        alpha = s / t  # alpha_t of the paper, for a step or a jump; eq. 7
        mean = (t**0.5 * (1 - alpha)) / (1 - s), alpha**0.5 * (1 - t) / (1 - s)
        return *mean, None if self.wants_variance else self._std(interval, None)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` for a schedule that is not variance preserving, such as a flow's."""
        check_variance_preserving(self, grid)

    def draws(self, grid: Grid) -> Tensor:
        """Return the steps with noise: those at timesteps above 0, as in DDPMScheduler."""
        return grid.timesteps > 0

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps, with the predicted clean sample held fixed.

        A learned variance is not known before the network is called; the posterior variance stands in for it.
        """
        small = posterior(interval.s, interval.t)
        return small if self.wants_variance else small._replace(std=self._std(interval, None))

    def _std(self, interval: StepInterval, predicted: Tensor | None) -> Tensor:
        """Return the standard deviation of the noise; `predicted` is the network's variance output."""
        beta = 1 - interval.s.alpha_cumprod / interval.t.alpha_cumprod
        match self.variance_type:
            case "fixed_small":
                return _posterior(interval) ** 0.5
            case "fixed_small_log":
                return torch.exp(0.5 * torch.log(_posterior(interval)))
            case "fixed_large":  # beta_t, the other choice of section 3.2
                return beta**0.5
        # The channels are counted after the first evaluation only, so this cannot be refused before.
        if predicted is None:
            raise StructureError(
                f"variance_type '{self.variance_type}' needs a network that predicts the variance in the second half "
                "of its channels, but this one does not: use 'fixed_small'"
            )
        if self.variance_type == "learned":
            return predicted**0.5
        # learned_range: interpolate between the logarithms of posterior variance and beta
        share = (predicted + 1) / 2
        return torch.exp(0.5 * (share * torch.log(beta) + (1 - share) * torch.log(_posterior(interval))))


def _posterior(interval: StepInterval) -> Tensor:
    """Return the posterior variance, clamped as in DDPMScheduler, because its logarithm is taken."""
    return posterior_variance(interval.s, interval.t).clamp(min=1e-20)
