"""Coarse jumps that make the fine solver's own steps with an extrapolated prediction."""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory, one_of
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._solvers.history import PredictionHistory
from parareal_diffusers._solvers.solver import Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class Extrapolated(Solver):
    """All fine steps of DDIM, Euler or a flow in one jump, with the prediction extrapolated from the last two jumps.

    A first-order step without noise, as DDIM, Euler and flows have it, is x' = a x + b v. Here v is the velocity that
    the network predicts: alpha * noise - sigma * clean for a variance preserving schedule (Salimans, Ho 2022, arXiv
    2202.00512), noise - clean for a flow, and noise for Euler's schedules. All steps of a jump together are

        x' = A x + W v(s) + D (v(s) - v(r)),                              (docs/explained/history-and-noise.md, eq. 20)

    if v is linear in the node number, through its values at s, the start of the jump, and r, the start of the preceding
    one. A, W and D are sums over the fine solver's steps with their own start and stop levels. So a jump has the
    discretisation error of the fine steps too, whereas other coarse solvers approximate the ODE, from which the result
    of few fine steps is far. It is an Adams-Bashforth method whose quadrature is the fine solver, with one evaluation
    per jump.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        order: 1 for a constant v, 2 for linear extrapolation.
        of: the extrapolated quantity v: `"velocity"`, the smoothest one on trained networks, or `"clean"`, the clean
            sample, the smoothest one on the exact score of a Gaussian mixture (docs/results/solvers.md).

    Raises:
        ValueError: for another order, or another `of`.
    """

    order: int = 2
    of: str = "velocity"

    def __post_init__(self) -> None:
        one_of("of", self.of, ["velocity", "clean"])
        if self.order not in (1, 2):
            raise ValueError(f"Extrapolated: order must be 1 or 2, but was {self.order}")

    def begin(self, x: Tensor) -> Memory:
        """Return a memory without v; None for order 1."""
        if self.order == 1:
            return None
        return PredictionHistory(x.new_zeros(len(x), 1, *x.shape[1:]), torch.full((len(x), 1), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by all fine steps of its interval; one evaluation."""
        prediction = yield from interval.predict(x)
        sums = _look_up_sums(interval.grid, self.of)
        of_clean, of_noise = (interval.rows(c[interval.start].to(x)) for c in (sums.of_clean, sums.of_noise))
        v = of_clean * prediction.clean + of_noise * prediction.noise
        factor, constant, linear = (interval.rows(c.to(x)) for c in sums.between(interval.start, interval.stop))
        new = factor * x + constant * v
        if memory is None:
            return new, None
        previous = memory.nodes[:, 0]
        # Without a preceding jump v is constant, and a distance of 1 avoids a division by zero.
        distance = torch.where(previous >= 0, interval.start - previous, 1)
        difference = torch.where(interval.rows(previous >= 0), v - memory.predictions[:, 0], 0.0)
        slope = difference / interval.rows(distance).to(x)
        return new + linear * slope, PredictionHistory(v[:, None], interval.start[:, None])

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` if `of="velocity"` and the schedule has no known velocity."""
        if self.of == "velocity" and not has_velocity(grid):
            raise ValueError(
                "coarse='extrapolated' is supported for variance preserving schedules, flows and Euler's only: "
                "use coarse='dpmpp_2m'"
            )


class _PrefixSums(NamedTuple):
    """Prefix sums over the steps x' = a x + b v before each node, from which those between two nodes follow.

    float64, of shape (N + 1,) except where another shape is stated.
    """

    of_clean: Tensor
    """coefficient of the clean sample in v, at each step's start, shape (N,)"""
    of_noise: Tensor
    """coefficient of the noise in v, shape (N,)"""
    product: Tensor
    """the product of all a"""
    constant: Tensor
    """the sum of each b over the product of a up to and including its step"""
    linear: Tensor
    """the same sum with each term times the number of its node"""

    def between(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the coefficients of a state, of v and of its slope per node, for all steps between two nodes (R,)."""
        constant = self.constant[stop] - self.constant[start]
        linear = self.linear[stop] - self.linear[start] - start * constant
        return self.product[stop] / self.product[start], self.product[stop] * constant, self.product[stop] * linear


def has_velocity(grid: Grid) -> bool:
    """Return whether the velocity of a grid's schedule is known."""
    alpha, sigma = grid.start.alpha, grid.start.sigma
    return grid.variance_preserving or _is_flow(alpha, sigma) or bool((alpha == 1).all())


def _is_flow(alpha: Tensor, sigma: Tensor) -> bool:
    return bool((alpha + sigma - 1).abs().max() < 1e-5)


def _look_up_sums(grid: Grid, of: str) -> _PrefixSums:
    """Return the prefix sums of a grid, from the cache that the grid keeps."""
    key = (_compute_sums, of)
    if key not in grid.tables:
        grid.tables[key] = _compute_sums(grid, of)
    return grid.tables[key]


def _compute_sums(grid: Grid, of: str) -> _PrefixSums:
    """Compute the prefix sums of a grid, on its device; see `Extrapolated` for `of`."""
    levels = (grid.start.alpha, grid.start.sigma, grid.stop.alpha, grid.stop.sigma)
    alpha, sigma, to_alpha, to_sigma = (x.cpu().double() for x in levels)
    if of == "clean":
        of_clean, of_noise = torch.ones_like(alpha), torch.zeros_like(alpha)
    elif grid.variance_preserving:
        of_clean, of_noise = -sigma, alpha
    elif _is_flow(alpha, sigma):
        of_clean, of_noise = -torch.ones_like(alpha), torch.ones_like(alpha)
    else:
        of_clean, of_noise = torch.zeros_like(alpha), torch.ones_like(alpha)
    # x = alpha * clean + sigma * noise and v are solved for clean and noise; DDIM's step combines these at the stop
    # level. That gives a and b; `determinant` is that of the 2 x 2 system.
    determinant = alpha * of_noise - sigma * of_clean
    a = (to_alpha * of_noise - to_sigma * of_clean) / determinant
    # For `of="clean"` a last step to zero noise has a = 0. The sums below divide by a, so it is replaced by a number
    # below the rounding of float32.
    a = torch.where(a == 0, 1e-8, a)
    b = (to_sigma * alpha - to_alpha * sigma) / determinant
    product = torch.cat([torch.ones(1, dtype=torch.float64), a.cumprod(0)])
    term = b / product[1:]
    node = torch.arange(grid.steps, dtype=torch.float64)
    sums = (torch.cat([torch.zeros(1, dtype=torch.float64), x.cumsum(0)]) for x in (term, node * term))
    device = grid.start.alpha.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision
    return _PrefixSums(*(x.to(device, dtype) for x in (of_clean, of_noise, product, *sums)))
