"""Euler's method in sigma, with and without ancestral noise."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.sigma.churn import Churn, check_churned
from parareal_diffusers._solvers.solver import Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class Euler(Solver):
    """Euler's method in sigma (Karras et al. 2022, arXiv 2206.00364, Algorithm 1 without its correction).

    States are clean + sigma * noise, or a flow's (1 - sigma) * clean + sigma * noise (Liu, Gong, Liu 2023, arXiv
    2209.03003); in both the slope is (x - clean) / sigma. From node to next node it is the step of
    `diffusers.EulerDiscreteScheduler`, `FlowMatchEulerDiscreteScheduler` or, with noise,
    `EulerAncestralDiscreteScheduler`, in their order of operations; on `Sigmas` it is k-diffusion's `sample_euler` or
    `sample_euler_ancestral`.

    Args:
        scheduler: one of these, or `Sigmas`; not needed for a coarse solver.
        ancestral: step to a lower level, and add noise up to the next; not along a flow.
        churn: add noise before each step, on `Sigmas` only.

    Raises:
        ValueError: for both kinds of noise.
    """

    ancestral: bool = False
    churn: Churn | None = None

    def __post_init__(self) -> None:
        if self.ancestral and self.churn is not None:
            raise ValueError("Euler adds ancestral noise or churns, not both: leave one of them out")

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.ancestral or self.churn is not None

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row; one evaluation."""
        kept = interval.as_single_precision(x)
        clean, _, _ = yield from interval.predict(x, kept)
        slope = (kept - clean) / interval.s.sigma
        if self.churn is not None:
            return kept + slope * (self.churn.down_sigma(interval) - interval.s.sigma) + interval.noise(
                self.churn.noise_std(interval)
            ), memory
        if not self.ancestral:
            return kept + slope * (interval.t.sigma - interval.s.sigma), memory
        up = interval.std(self._up(interval.s, interval.t))
        down = (interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5
        return kept + slope * (down - interval.s.sigma) + interval.noise(up), memory

    def linear(self, interval: StepInterval) -> Linear:
        """Say what a step does to its state, and how much noise it adds."""
        if self.churn is not None:
            return Linear(self.churn.target_sigma(interval) / interval.s.sigma, self.churn.noise_std(interval))
        up = self._up(interval.s, interval.t)
        return Linear((interval.t.sigma**2 - up**2) ** 0.5 / interval.s.sigma, up)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` where states are not clean + sigma * noise."""
        alpha, sigma = grid.start.alpha, grid.start.sigma
        flow = bool((alpha + sigma - 1).abs().max() < 1e-5)
        if not bool((alpha == 1).all()) and not (flow and not self.ancestral):
            raise ValueError(
                "Euler steps over the nodes of EulerDiscreteScheduler, EulerAncestralDiscreteScheduler and, without "
                "noise, flows; on others DDIM is the same method, and DDPM with ancestral noise"
            )

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` where it cannot churn."""
        super().check_fine(grid)
        if self.churn is not None:
            check_churned(grid)

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return where steps start, and where they end before noise is added."""
        return (sigmas, None) if self.churn is None else (self.churn.raise_levels(sigmas), sigmas[1:])

    def initial_noise_std(self, grid: Grid) -> float | None:
        """Return by how much churn raises the latents."""
        return None if self.churn is None else self.churn.initial_noise_std(self.scheduler.values)

    def draws(self, grid: Grid) -> Tensor:
        """Draw noise where a step ends above zero, or another one follows."""
        return super().draws(grid) if self.churn is None else torch.arange(1, grid.steps + 1) < grid.steps

    def _up(self, s: Levels, t: Levels) -> Tensor:
        return (t.sigma**2 * (s.sigma**2 - t.sigma**2) / s.sigma**2) ** 0.5
