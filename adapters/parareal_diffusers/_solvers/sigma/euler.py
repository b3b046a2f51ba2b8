"""Euler's method in sigma: deterministic, ancestral or with churn."""

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
    2209.03003); in both cases dx / dsigma = (x - clean) / sigma. A step from node to node is that of
    `diffusers.EulerDiscreteScheduler`, `FlowMatchEulerDiscreteScheduler` or, with ancestral noise,
    `EulerAncestralDiscreteScheduler`, with the same order of operations. On `Sigmas` it is k-diffusion's `sample_euler`
    or `sample_euler_ancestral`.

    Args:
        scheduler: one of these schedulers, or `Sigmas`; not needed for a coarse solver.
        ancestral: step to a level below the next node's and add noise up to it; unsupported for flows.
        churn: add noise before each step; on `Sigmas` only.

    Raises:
        ValueError: for `ancestral` together with `churn`.
    """

    ancestral: bool = False
    churn: Churn | None = None

    def __post_init__(self) -> None:
        if self.ancestral and self.churn is not None:
            raise ValueError("Euler adds ancestral noise or churn, not both: leave one of them out")

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.ancestral or self.churn is not None

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one Euler step; one evaluation."""
        # The schedulers cast states to float32, but give the network the state as it is.
        state = interval.as_single_precision(x)
        clean, _, _ = yield from interval.predict(x, state)
        slope = (state - clean) / interval.s.sigma
        # Steps with noise aim at a sigma below t, and the noise raises the state to t again.
        if self.churn is not None:
            down = self.churn.down_sigma(interval)
            return state + slope * (down - interval.s.sigma) + interval.noise(self.churn.noise_std(interval)), memory
        if not self.ancestral:
            return state + slope * (interval.t.sigma - interval.s.sigma), memory
        # `std` is the scale itself for single steps; for jumps it is the deviation of the sum of their steps' noises.
        up = interval.std(self._ancestral_std(interval.s, interval.t))
        down = (interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5
        return state + slope * (down - interval.s.sigma) + interval.noise(up), memory

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps, with the predicted clean sample held fixed."""
        if self.churn is not None:
            return Linear(self.churn.target_sigma(interval) / interval.s.sigma, self.churn.noise_std(interval))
        up = self._ancestral_std(interval.s, interval.t)
        return Linear((interval.t.sigma**2 - up**2) ** 0.5 / interval.s.sigma, up)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` unless states are clean + sigma * noise or, without ancestral noise, a flow's."""
        # The ancestral noise formula does not hold for flows, whose signal shrinks as noise is added.
        alpha, sigma = grid.start.alpha, grid.start.sigma
        flow = bool((alpha + sigma - 1).abs().max() < 1e-5)
        if not bool((alpha == 1).all()) and not (flow and not self.ancestral):
            raise ValueError(
                "Euler steps over the nodes of EulerDiscreteScheduler, EulerAncestralDiscreteScheduler and, without "
                "noise, flows. With other schedulers use the same method by another name: DDIM, or DDPM for ancestral "
                "noise"
            )

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` for churn on a grid that does not come from `Sigmas`."""
        super().check_fine(grid)
        if self.churn is not None:
            check_churned(grid)

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the levels, with churn the raised ones, and the sigmas that steps with churn aim at."""
        return (sigmas, None) if self.churn is None else (self.churn.raise_levels(sigmas), sigmas[1:])

    def initial_noise_std(self, grid: Grid) -> float | None:
        """Return the standard deviation of the noise by which churn raises the latents; None without churn."""
        return None if self.churn is None else self.churn.initial_noise_std(self.scheduler.values)

    def draws(self, grid: Grid) -> Tensor:
        """Return the steps with noise: those that end above zero; with churn, all but the last."""
        return super().draws(grid) if self.churn is None else torch.arange(1, grid.steps + 1) < grid.steps

    def _ancestral_std(self, s: Levels, t: Levels) -> Tensor:
        """Return the standard deviation of ancestral noise, in EulerAncestralDiscreteScheduler's operations."""
        return (t.sigma**2 * (s.sigma**2 - t.sigma**2) / s.sigma**2) ** 0.5
