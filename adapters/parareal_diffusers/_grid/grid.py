"""The grid of nodes that a solver steps over: their noise levels, and the timesteps that the network receives."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor


class Levels(NamedTuple):
    """Signal and noise levels of states x = alpha * clean + sigma * noise.

    float32, of shape (N,) in a grid and (R, 1, ...) in a `StepInterval`.
    """

    alpha_cumprod: Tensor
    """the square of alpha, which DDPM calls alpha bar"""
    alpha: Tensor
    """the factor of the clean sample"""
    sigma: Tensor
    """the factor of the noise; the sigma of diffusers' schedulers is sigma / alpha instead"""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Levels":
        """Return the levels with a function applied to each of the three tensors."""
        return Levels(*map(function, self))

    @property
    def half_log_snr(self) -> Tensor:
        """The lambda of DPM-Solver (arXiv 2206.00927), log(alpha) - log(sigma); infinite at zero noise."""
        return torch.log(self.alpha) - torch.log(self.sigma)

    @staticmethod
    def of_alpha_cumprod(alpha_cumprod: Tensor) -> "Levels":
        """Return levels as DDIM and DDPM compute them, with the same operations."""
        return Levels(alpha_cumprod, alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)

    @staticmethod
    def of_sigma(sigma: Tensor, flow: bool = False) -> "Levels":
        """Return levels as diffusers' sigma schedulers compute them: variance preserving, or a flow's straight path."""
        if flow:
            return Levels((1 - sigma) ** 2, 1 - sigma, sigma)
        alpha = 1 / ((sigma**2 + 1) ** 0.5)
        return Levels(alpha**2, alpha, sigma * alpha)

    @staticmethod
    def exploding(sigma: Tensor) -> "Levels":
        """Return variance exploding levels, for states clean + sigma * noise, as Euler's schedulers have them."""
        return Levels(torch.ones_like(sigma), torch.ones_like(sigma), sigma)


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes 0 .. N of a sampler; node 0 is pure noise.

    Step i goes from node i to node i+1. Each step has its own start and stop levels, because a scheduler's step need
    not end where the next one starts: `DDIMScheduler` steps from timestep t to t - T//N, whatever entry of `timesteps`
    comes next. Nothing is looked up by timestep, because timesteps may repeat. Numbers are float32, as in the
    schedulers.
    """

    timesteps: Tensor
    """the network's timestep at the start of each step, shape (N,); int64, or float32 between timesteps"""
    start: Levels
    """levels at the start of each step, each of shape (N,)"""
    stop: Levels
    """levels at the end of each step, each of shape (N,)"""
    prediction_type: str = "epsilon"
    """the kind of the network's output: `"epsilon"`, `"v_prediction"`, `"flow_prediction"` or `"sample"`"""
    clip: float | None = None
    """bound of the predicted clean sample, which is clamped to [-clip, clip]; None for no clipping"""
    threshold: tuple[float, float] | None = None
    """dynamic thresholding of the predicted clean sample: quantile and largest bound (Imagen, arXiv 2205.11487)"""
    input_scale: Tensor | None = None
    """divisor of the states that the network receives, shape (N,); None for 1"""
    sigma_data: float | None = None
    """standard deviation of the data in EDM's preconditioning (arXiv 2206.00364, table 1); None without it"""
    down: Tensor | None = None
    """target sigmas of the steps, shape (N,), where churn then adds noise up to the next start level; None without"""
    casts: bool = True
    """whether the grid is a diffusers scheduler's; then solvers reproduce its rounding and coefficients"""

    @cached_property
    def starts(self) -> Tensor:
        """The levels `start`, stacked: shape (3, N), so that one indexing operation gathers all three for the rows."""
        return torch.stack(list(self.start))

    @cached_property
    def stops(self) -> Tensor:
        """The levels `stop`, stacked: shape (3, N)."""
        return torch.stack(list(self.stop))

    @cached_property
    def tables(self) -> dict[Any, Any]:
        """Cache of the coefficients of solvers' steps over this grid (`_solvers/coefficient_table.py`)."""
        return {}

    @property
    def steps(self) -> int:
        """The number of steps N; schedulers may take another number than `num_inference_steps`."""
        return len(self.timesteps)

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha^2 + sigma^2 = 1 at all nodes. Flows and Euler's schedules are the exceptions."""
        # Levels are float32: equal up to rounding.
        total = self.start.alpha**2 + self.start.sigma**2
        return bool((total - 1).abs().max() < 1e-5)

    @property
    def chained(self) -> bool:
        """Whether each step starts where the one before ended: the differences are at most 5 % of the steps in log-SNR.

        Otherwise steps and jumps are not two discretisations of one ODE, and the difference of two solvers' jumps says
        nothing about the error of the steps.
        """
        # Zero noise, at the end of many schedules, has infinite log-SNR: the mask below leaves such steps out.
        lengths = (self.stop.half_log_snr - self.start.half_log_snr).abs()
        gaps = (self.start.half_log_snr[1:] - self.stop.half_log_snr[:-1]).abs()
        total, missing = (x[torch.isfinite(x)].sum() for x in (lengths, gaps))
        return bool(missing <= 0.05 * total)

    def to(self, device: torch.device) -> "Grid":
        """Return the grid with its tensors on a device."""
        # The copy has empty caches: cached tensors would be on the old device.
        start, stop = (levels.map(lambda x: x.to(device)) for levels in (self.start, self.stop))
        scale = None if self.input_scale is None else self.input_scale.to(device)
        down = None if self.down is None else self.down.to(device)
        return replace(self, timesteps=self.timesteps.to(device), start=start, stop=stop, input_scale=scale, down=down)

    def scale_input(self, x: Tensor, node: Tensor) -> Tensor:
        """Return states (R, *sample) at nodes (R,) scaled as the network receives them (`scale_model_input`)."""
        return x if self.input_scale is None else x / per_row(self.input_scale[node], x)

    def constrain(self, clean: Tensor) -> Tensor:
        """Return predicted clean samples (R, *sample), clamped or thresholded per row as the schedulers do."""
        if self.threshold is not None:
            ratio, largest = self.threshold
            # The quantile of |x0| per sample, at least 1: small samples are clamped to [-1, 1], not stretched.
            flat = clean.flatten(1)
            bound = torch.quantile(flat.abs(), ratio, dim=1).clamp(min=1, max=largest)[:, None]
            return (flat.clamp(-bound, bound) / bound).reshape(clean.shape)
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def check(self) -> None:
        """Raise `ValueError` if the network's output cannot be converted to a clean sample at some node."""
        if not all(bool(torch.isfinite(x).all()) for x in (*self.start, *self.stop)):
            raise ValueError(
                "the scheduler's noise levels are not finite, so neither is the result of its own loop: use more steps "
                "or other options"
            )
        if bool((self.start.sigma == 0).any()):
            raise ValueError(
                "a step starts at zero noise, where the scheduler's own loop divides by zero: use betas above zero"
            )
        if self.prediction_type == "epsilon" and self.clip is None and bool((self.start.alpha == 0).any()):
            raise ValueError(
                "the grid starts at zero signal (rescale_betas_zero_snr), where a noise prediction determines no clean "
                "sample and the scheduler's own loop divides by zero: use a network with prediction_type "
                "'v_prediction' or 'sample', or timestep_spacing='leading'"
            )


def prediction_type_of(scheduler: Any, default: str = "epsilon") -> str:
    """Return the kind of network output that a scheduler expects, with diffusers' synonyms unified."""
    kind = scheduler.config.get("prediction_type", default)  # "original_sample" is a synonym of Euler's schedulers
    return "sample" if kind == "original_sample" else kind


def per_row(values: Any, state: Tensor) -> Any:
    """Reshape one number per row, (R,), to (R, 1, ...), so that it multiplies the rows of `state`."""
    return values.reshape(-1, *[1] * (state.ndim - 1))
