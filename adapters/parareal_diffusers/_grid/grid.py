"""The grid of nodes that a solver steps over: levels of signal and noise, and what the network is told."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor


class Levels(NamedTuple):
    """How much signal and noise there is at some places of the process: x = alpha * clean + sigma * noise.

    float32, of shape (N,) in a grid and (R, 1, ..) in a leg.
    """

    alpha_cumprod: Tensor
    """what DDPM calls alpha bar: the square of alpha"""
    alpha: Tensor
    """the factor of the clean sample"""
    sigma: Tensor
    """the factor of the noise; not the sigma of the schedulers, which is sigma / alpha"""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Levels":
        """Return levels of which each number has gone through a function."""
        return Levels(*map(function, self))

    @property
    def half_log_snr(self) -> Tensor:
        """Lambda, log(alpha) - log(sigma) (DPM-Solver, arXiv 2206.00927); infinite where there is no noise."""
        return torch.log(self.alpha) - torch.log(self.sigma)

    @staticmethod
    def of_alpha_cumprod(alpha_cumprod: Tensor) -> "Levels":
        """Return levels as DDIM and DDPM compute them."""
        return Levels(alpha_cumprod, alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)

    @staticmethod
    def of_sigma(sigma: Tensor, flow: bool = False) -> "Levels":
        """Return levels as the sigma schedulers compute them: variance preserving, or a straight `flow`."""
        if flow:
            return Levels((1 - sigma) ** 2, 1 - sigma, sigma)
        alpha = 1 / ((sigma**2 + 1) ** 0.5)
        return Levels(alpha**2, alpha, sigma * alpha)

    @staticmethod
    def exploding(sigma: Tensor) -> "Levels":
        """Return levels of states clean + sigma * noise, as Euler's schedulers have them."""
        return Levels(torch.ones_like(sigma), torch.ones_like(sigma), sigma)


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes 0 .. N of a sampler, node 0 being pure noise.

    Step i goes from node i to node i+1. It has its own "from" and "to" levels, because a scheduler's step need not
    land where the next one starts: `DDIMScheduler` steps from timestep t to t - T//N, whatever entry of `timesteps`
    comes next. Nothing is looked up by timestep; timesteps may repeat. Numbers are float32, as schedulers keep them.
    """

    timesteps: Tensor
    """what the network is told at the start of each step, int64, or float32 between timesteps, of shape (N,)"""
    start: Levels
    """at the start of each step, each of shape (N,)"""
    stop: Levels
    """at the end of each step, each of shape (N,)"""
    prediction_type: str = "epsilon"
    """what the network predicts: `"epsilon"`, `"v_prediction"`, `"flow_prediction"` or `"sample"`"""
    clip: float | None = None
    """the predicted clean sample is clamped to [-clip, clip]"""
    threshold: tuple[float, float] | None = None
    """dynamic thresholding of the predicted clean sample: the ratio, and the largest value (arXiv 2205.11487)"""
    input_scale: Tensor | None = None
    """states are divided by it on their way to the network, of shape (N,)"""
    sigma_data: float | None = None
    """of the preconditioning by which a network's output becomes the clean sample (EDM, arXiv 2206.00364, table 1)"""
    down: Tensor | None = None
    """sigmas that steps go down to before noise takes them up to where the next starts (churn), of shape (N,)"""
    casts: bool = True
    """whether solvers may round states to float32 within a step, as the schedulers do that they reproduce"""

    @cached_property
    def starts(self) -> Tensor:
        """The levels `start`, stacked: shape (3, N), from which those of rows are taken together."""
        return torch.stack(list(self.start))

    @cached_property
    def stops(self) -> Tensor:
        """The levels `stop`, stacked."""
        return torch.stack(list(self.stop))

    @cached_property
    def tables(self) -> dict[Any, Any]:
        """Coefficients of solvers' steps over this grid, as far as they were made (`_solvers/coefficient_table.py`)."""
        return {}

    @property
    def steps(self) -> int:
        """The number of steps N that are really taken; it can differ from what was asked for."""
        return len(self.timesteps)

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha^2 + sigma^2 is one at all nodes, as it is for most schedules, but not for flows and Euler's."""
        total = self.start.alpha**2 + self.start.sigma**2
        return bool((total - 1).abs().max() < 1e-5)

    @property
    def chained(self) -> bool:
        """Whether steps start where the ones before ended, up to a twentieth of their way in log-SNR.

        Where they do not, steps and jumps are not two discretisations of one flow, and what two solvers' jumps disagree
        by says nothing about the steps.
        """
        ways = (self.stop.half_log_snr - self.start.half_log_snr).abs()
        gaps = (self.start.half_log_snr[1:] - self.stop.half_log_snr[:-1]).abs()
        total, lost = (x[torch.isfinite(x)].sum() for x in (ways, gaps))
        return bool(lost <= 0.05 * total)

    def to(self, device: torch.device) -> "Grid":
        """Return the grid on a device."""
        start, stop = (levels.map(lambda x: x.to(device)) for levels in (self.start, self.stop))
        scale = None if self.input_scale is None else self.input_scale.to(device)
        down = None if self.down is None else self.down.to(device)
        return replace(self, timesteps=self.timesteps.to(device), start=start, stop=stop, input_scale=scale, down=down)

    def scaled(self, x: Tensor, node: Tensor) -> Tensor:
        """Return states of shape (R, *sample) at nodes of shape (R,) as the network is given them."""
        return x if self.input_scale is None else x / per_row(self.input_scale[node], x)

    def constrained(self, clean: Tensor) -> Tensor:
        """Clamp or threshold predicted clean samples, a row each, as the schedulers do."""
        if self.threshold is not None:
            ratio, largest = self.threshold
            flat = clean.flatten(1)
            bound = torch.quantile(flat.abs(), ratio, dim=1).clamp(min=1, max=largest)[:, None]
            return (flat.clamp(-bound, bound) / bound).reshape(clean.shape)
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def check(self) -> None:
        """Raise `ValueError` where the network's prediction cannot be turned into a clean sample."""
        if not all(bool(torch.isfinite(x).all()) for x in (*self.start, *self.stop)):
            raise ValueError(
                "the scheduler's levels are not finite, nor is its own loop: take more steps, or other options"
            )
        if bool((self.start.sigma == 0).any()):
            raise ValueError(
                "a step starts at zero noise, where the scheduler's own loop divides by zero: use betas above zero"
            )
        if self.prediction_type == "epsilon" and self.clip is None and bool((self.start.alpha == 0).any()):
            raise ValueError(
                "the grid starts at zero signal (rescale_betas_zero_snr), from which a noise prediction says nothing "
                "about the sample: the scheduler's own loop divides by zero. Use a network with prediction_type "
                "'v_prediction' or 'sample', or timestep_spacing='leading'"
            )


def predicted_kind(scheduler: Any, default: str = "epsilon") -> str:
    """Return what a scheduler takes the network's output for, by one name each."""
    kind = scheduler.config.get("prediction_type", default)
    return "sample" if kind == "original_sample" else kind


def per_row(values: Any, state: Tensor) -> Any:
    """Reshape one number a row so that it multiplies the rows of `state`."""
    return values.reshape(-1, *[1] * (state.ndim - 1))
