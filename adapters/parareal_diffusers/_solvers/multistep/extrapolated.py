"""Coarse jumps that make the fine solver's own steps, what the network says being extrapolated."""

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
    """DDIM's or Euler's own steps in one jump, what the network says extrapolated from where the last two jumps began.

    A step of first order without noise, which DDIM's, Euler's and a flow's are, is x' = a x + b v, where v may be the
    velocity that the network predicts: for a variance preserving schedule alpha * noise - sigma * clean (Salimans, Ho
    2022, arXiv 2202.00512), for a flow noise - clean, for Euler's schedules noise. So all steps of a jump together are

        x' = A x + W v(s) + D (v(s) - v(r)),

    where v is a straight line over nodes through its values at s, where the jump starts, and r, where the one before
    did. A, W and D are sums over the very steps that the fine solver makes, where they start and land, so that a jump
    has their discretisation error, too; other coarse solvers approximate the ODE instead, from which few steps are far.
    One evaluation a jump. It is an Adams-Bashforth method whose quadrature is the fine solver (docs/explained/theory.md, eq. 20).

    Args:
        scheduler: as for any solver; not needed for a coarse one.
        order: 1 holds v constant, 2 extrapolates it.
        of: what v is: `"velocity"`, which is smoothest on trained networks, or `"clean"`, the clean sample, which was
            on the exact score of a Gaussian mixture (docs/reference/solvers.md).

    Raises:
        ValueError: for another order, or another `of`.
    """

    order: int = 2
    of: str = "velocity"

    def __post_init__(self) -> None:
        one_of("of", self.of, ["velocity", "clean"])
        if self.order not in (1, 2):
            raise ValueError(f"Extrapolated: order must be 1 or 2, got {self.order}")

    def begin(self, x: Tensor) -> Memory:
        """Remember nothing of v."""
        if self.order == 1:
            return None
        return PredictionHistory(x.new_zeros(len(x), 1, *x.shape[1:]), torch.full((len(x), 1), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row; one evaluation."""
        prediction = yield from interval.predict(x)
        sums = _sums_of(interval.grid, self.of)
        of_clean, of_noise = (interval.rows(c[interval.start].to(x)) for c in (sums.of_clean, sums.of_noise))
        v = of_clean * prediction.clean + of_noise * prediction.noise
        kept, constant, linear = (interval.rows(c.to(x)) for c in sums.between(interval.start, interval.stop))
        new = kept * x + constant * v
        if memory is None:
            return new, None
        before = memory.nodes[:, 0]
        way = torch.where(before >= 0, interval.start - before, 1)
        slope = torch.where(interval.rows(before >= 0), v - memory.predictions[:, 0], 0.0) / interval.rows(way).to(x)
        return new + linear * slope, PredictionHistory(v[:, None], interval.start[:, None])

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` where it is not known what the velocity is."""
        if self.of == "velocity" and not has_velocity(grid):
            raise ValueError(
                "coarse='extrapolated' knows the velocity of variance preserving schedules, flows and Euler's only: "
                "use coarse='dpmpp_2m'"
            )


class _Sums(NamedTuple):
    """Sums over the steps before a node, by which those between two nodes are found; float64 of shape (N + 1,)."""

    of_clean: Tensor
    """what v at a node has of the clean sample, shape (N,)"""
    of_noise: Tensor
    """and of the noise, shape (N,)"""
    kept: Tensor
    """the product of all a"""
    constant: Tensor
    """the sum of b over the products up to and with each step"""
    linear: Tensor
    """the same, times the node"""

    def between(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what steps between nodes, of shape (R,), make of a state, of v and of its slope over nodes."""
        constant = self.constant[stop] - self.constant[start]
        linear = self.linear[stop] - self.linear[start] - start * constant
        return self.kept[stop] / self.kept[start], self.kept[stop] * constant, self.kept[stop] * linear


def has_velocity(grid: Grid) -> bool:
    """Return whether it is known what the velocity is on a grid."""
    alpha, sigma = grid.start.alpha, grid.start.sigma
    return grid.variance_preserving or _flows(alpha, sigma) or bool((alpha == 1).all())


def _flows(alpha: Tensor, sigma: Tensor) -> bool:
    return bool((alpha + sigma - 1).abs().max() < 1e-5)


def _sums_of(grid: Grid, of: str) -> _Sums:
    """Return the sums for a grid, made once and kept with it."""
    key = (_sums, of)
    if key not in grid.tables:
        grid.tables[key] = _sums(grid, of)
    return grid.tables[key]


def _sums(grid: Grid, of: str) -> _Sums:
    """Return the sums for a grid, on its device; `of` is as of `Extrapolated`."""
    places = (grid.start.alpha, grid.start.sigma, grid.stop.alpha, grid.stop.sigma)
    alpha, sigma, to_alpha, to_sigma = (x.cpu().double() for x in places)
    if of == "clean":
        of_clean, of_noise = torch.ones_like(alpha), torch.zeros_like(alpha)
    elif grid.variance_preserving:
        of_clean, of_noise = -sigma, alpha
    elif _flows(alpha, sigma):
        of_clean, of_noise = -torch.ones_like(alpha), torch.ones_like(alpha)
    else:
        of_clean, of_noise = torch.zeros_like(alpha), torch.ones_like(alpha)
    # clean and noise are linear in x and v: those go to the levels where the step lands
    area = alpha * of_noise - sigma * of_clean
    a = (to_alpha * of_noise - to_sigma * of_clean) / area
    a = torch.where(a == 0, 1e-8, a)  # the last step may keep nothing; its share below is divided by it
    b = (to_sigma * alpha - to_alpha * sigma) / area
    kept = torch.cat([torch.ones(1, dtype=torch.float64), a.cumprod(0)])
    share = b / kept[1:]
    node = torch.arange(grid.steps, dtype=torch.float64)
    sums = (torch.cat([torch.zeros(1, dtype=torch.float64), x.cumsum(0)]) for x in (share, node * share))
    device = grid.start.alpha.device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # which has no double precision
    return _Sums(*(x.to(device, dtype) for x in (of_clean, of_noise, kept, *sums)))
