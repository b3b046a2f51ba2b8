"""The linear multistep method: Adams-Bashforth in sigma."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.history import PredictionHistory, check_finite
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class LMS(Solver):
    """The linear multistep method in sigma: Adams-Bashforth on uneven nodes (k-diffusion's `sample_lms`).

    The slope dx / dsigma is extrapolated by the polynomial through the slopes at the preceding nodes. A step from node
    to node is `diffusers.LMSDiscreteScheduler.step`, with that scheduler's own coefficients, which it integrates
    numerically.

    Args:
        scheduler: a LMSDiscreteScheduler, EulerDiscreteScheduler or `Sigmas`; not needed for a coarse solver.
        order: 1 to 4; lower in the first steps.

    Raises:
        ValueError: for another order.
    """

    order: int = 4

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"order must be between 1 and 4, but was {self.order!r}")

    def begin(self, x: Tensor) -> Memory:
        """Return an empty history of slopes."""
        count = max(1, self.order - 1)  # one entry even for order 1, so that there is always a memory
        nodes = torch.full((len(x), count), -1, device=x.device)
        return PredictionHistory(x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row: x + sum over k of weight_k * slope_k; one evaluation."""
        clean, _, _ = yield from interval.predict(x)
        slope = (x - clean) / interval.s.sigma
        weights = look_up_coefficients(interval, self._compute_coefficients, memory.nodes)
        total = per_row(weights[:, 0], x) * slope
        for k in range(1, self.order):
            total = total + per_row(weights[:, k], x) * memory.predictions[:, k - 1]
        latest = torch.cat([slope[:, None], memory.predictions[:, :-1]], dim=1)
        return x + total, PredictionHistory(latest, torch.cat([interval.start[:, None], memory.nodes[:, :-1]], dim=1))

    def _compute_coefficients(self, interval: StepInterval, nodes: Tensor) -> Tensor:
        """Return the weights of the slopes, the latest first, in the states' dtype, shape (R, order)."""
        weights = self._compute_weights(nodes, interval)
        euler = torch.zeros_like(weights)
        euler[:, 0] = (interval.t.sigma - interval.s.sigma).flatten()
        finite = torch.isfinite(weights).all(dim=1, keepdim=True)  # not in jumps over nodes that share a level
        return self._use_upstream_weights(torch.where(finite, weights, euler).to(interval.state.dtype), nodes, interval)

    def _use_upstream_weights(self, weights: Tensor, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Replace the weights of rows that make one of the scheduler's own steps by the scheduler's weights."""
        if self._upstream_weights is None:
            return weights
        full_history = torch.stack([interval.start - 1 - k for k in range(nodes.shape[1])], dim=1).clamp(min=-1)
        # Not for rows whose history is shorter than the scheduler's, because their slice started without one.
        own = (interval.stop == interval.start + 1) & (nodes == full_history).all(dim=1)
        return torch.where(own[:, None], self._upstream_weights.to(weights)[interval.start], weights)

    @cached_property
    def _upstream_weights(self) -> Tensor | None:
        """LMSDiscreteScheduler's weights of every step, float64 of shape (N, order); None for other schedulers."""
        if not hasattr(self.scheduler, "get_lms_coefficient"):
            return None
        # Cached, because the scheduler integrates each coefficient by adaptive quadrature.
        steps = len(self.scheduler.timesteps)
        table = torch.zeros(steps, self.order, dtype=torch.float64)
        for i in range(steps):
            order = min(i + 1, self.order)
            for k in range(order):
                table[i, k] = self.scheduler.get_lms_coefficient(order, i, k)
        return table

    def _compute_weights(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Integrate the Lagrange polynomials on each row's nodes over sigma, from level s to level t.

        The degree is at most 3, for which Gauss-Legendre quadrature with two points is exact.

        Returns:
            Weights of the slopes, the latest first, float64 of shape (R, order); zero for slopes not in the history.
        """
        # Missing slopes have node -1, clamped for the lookup; `available` masks them below.
        at = [interval.s.sigma, *(interval.level(nodes[:, k].clamp(min=0)).sigma for k in range(self.order - 1))]
        sigma = torch.stack([x.flatten().double() for x in at], dim=1)
        available = torch.cat([torch.ones_like(nodes[:, :1]), nodes[:, : self.order - 1] + 1], dim=1) > 0
        middle, half = (
            (interval.t.sigma + interval.s.sigma).flatten() / 2,
            (interval.t.sigma - interval.s.sigma).flatten() / 2,
        )
        weights = torch.zeros_like(sigma)
        for k in range(self.order):
            for point in (-(3**-0.5), 3**-0.5):
                value, tau = torch.ones_like(sigma[:, 0]), middle.double() + point * half.double()
                for j in range(self.order):
                    factor = (tau - sigma[:, j]) / (sigma[:, k] - sigma[:, j]) if j != k else 1.0
                    value = value * torch.where(available[:, j], factor, 1.0)
                weights[:, k] += half.double() * value
        return torch.where(available, weights, 0.0)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Add the increment of the predicted noise, which is the slope dx / dsigma, to the slopes in the history."""
        return PredictionHistory(memory.predictions + shift.noise[:, None], memory.nodes)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` unless states are clean + sigma * noise."""
        if not bool((grid.start.alpha == 1).all()):
            raise ValueError(
                "LMS steps over the nodes of LMSDiscreteScheduler, EulerDiscreteScheduler and Sigmas: with other "
                "schedulers use DEIS, a multistep method of the same kind"
            )

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if a step has a coefficient that is not finite."""
        super().check_fine(grid)
        # The scheduler's own run, with full histories.
        interval = StepInterval.of_steps(grid)
        nodes = torch.stack([interval.start - 1 - k for k in range(max(1, self.order - 1))], dim=1).clamp(min=-1)
        check_finite({"coefficient of its history": self._compute_weights(nodes, interval).sum(dim=1)}, grid)

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps without noise, with the predicted clean sample held fixed."""
        return Linear(interval.t.sigma / interval.s.sigma, torch.zeros_like(interval.t.sigma))
