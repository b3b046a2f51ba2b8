"""DPM-Solver and DPM-Solver++, singlestep."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._grid.sigmas import with_middles
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.dpm.coefficients import DPM, Coefficients
from parareal_diffusers._solvers.history import check_finite
from parareal_diffusers._solvers.solver import Shift, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


class Cycle(NamedTuple):
    """The cycle of steps that a row is in: where it began, and the predictions made since."""

    base: Tensor
    """the state at the cycle's first node, shape (R, *sample)"""
    predictions: Tensor
    """at the cycle's first and second node, shape (R, order - 1, *sample)"""
    nodes: Tensor
    """where they were made, int64 of shape (R, order - 1); -1 where there is none"""


@final
@dataclass(frozen=True)
class DPMSolverSinglestep(DPM):
    """DPM-Solver and DPM-Solver++, singlestep (Lu et al. 2022, arXiv 2206.00927 and 2211.01095, Algorithm 1).

    Steps come in cycles of orders 1, 2 or 1, 2, 3, each from the state at which its cycle began. From node to next node
    it is `diffusers.DPMSolverSinglestepScheduler.step`; over several nodes it jumps with order 1.

    Args:
        scheduler: a diffusers scheduler whose nodes to step over; not needed for a coarse solver.
        order: 1, 2 or 3, the length of a cycle.
        algorithm_type: `"dpmsolver"`, `"dpmsolver++"` or `"sde-dpmsolver++"`.
        solver_type: `"midpoint"` or `"heun"`.
        lower_order_final: end a last cycle that is full with order 1.
    """

    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm_type == "sde-dpmsolver":
            raise ValueError("sde-dpmsolver has no singlestep form: use 'sde-dpmsolver++', or the multistep DPMSolver")

    def begin(self, x: Tensor) -> Memory:
        """Remember no cycle."""
        if self.order == 1:
            return None
        count = self.order - 1
        nodes = torch.full((len(x), count), -1, device=x.device)
        return Cycle(x.new_zeros(x.shape), x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row; one evaluation."""
        prediction = yield from interval.predict(x)
        m = self.convert_model_output(x, prediction, interval)
        c = look_up_coefficients(interval, self._coefficients, None if memory is None else memory.nodes)
        if memory is None:
            new = c.state * x + c.d0 * m
            return (new + interval.noise(c.noise) if self.stochastic else new), None
        base = torch.where(per_row(c.order == 1, x), x, memory.base)
        new = self._update(m, base, memory, c)
        return (new + interval.noise(c.noise) if self.stochastic else new), self._advance_cycle(
            m, base, memory, c, interval
        )

    def _advance_cycle(
        self, m: Tensor, base: Tensor, memory: Cycle, c: "_StageWeights", interval: StepInterval
    ) -> Cycle:
        """Add a prediction to each row's cycle, or begin a new one; at a cycle's end there is nothing to remember."""
        predictions, nodes, order = memory.predictions.clone(), memory.nodes.clone(), c.order
        nodes[order == 1] = -1
        rows, place = torch.arange(len(m), device=m.device), (order - 1).clamp(max=self.order - 2)
        predictions[rows, place], nodes[rows, place] = m, interval.start
        ended, blank = c.ends, self.begin(m)
        return Cycle(
            torch.where(per_row(ended, base), blank.base, base),
            torch.where(per_row(ended, predictions), blank.predictions, predictions),
            torch.where(ended[:, None], blank.nodes, nodes),
        )

    def _update(self, m: Tensor, base: Tensor, memory: Cycle, c: "_StageWeights") -> Tensor:
        """Step from the base to level t, without noise."""
        d0 = torch.where(per_row(c.order == 1, m), m, memory.predictions[:, 0])
        d1 = c.inverse_r0 * (m - d0)
        if self.order < 3 or self.solver_type == "midpoint":
            return c.state * base + c.d0 * d0 + c.d1 * d1
        before = c.inverse_r1 * (memory.predictions[:, 1] - d0)
        d2 = 2.0 * (d1 - before) / c.gap
        d1 = torch.where(per_row(c.order >= 3, m), (c.r0 * before - c.r1 * d1) / c.gap, d1)
        return c.state * base + c.d0 * d0 + c.d1 * d1 + c.d2 * d2

    def _coefficients(self, interval: StepInterval, nodes: Tensor | None) -> "_StageWeights":
        """Return the weights of steps from the bases to level t."""
        if nodes is None:
            c = Coefficients.of(self.algorithm_type, interval.s, interval.t)
            return _StageWeights(c.state, c.d0, c.noise)
        order = self._orders(nodes, interval)
        begins = torch.cat([self.step_orders(interval.grid) == 1, torch.tensor([True])]).to(interval.stop.device)
        at_base = interval.level(interval.start - (order - 1))
        h = interval.t.half_log_snr - at_base.half_log_snr
        c = Coefficients.of(self.algorithm_type, at_base, interval.t)
        second, third = (order >= 2).reshape(h.shape), (order >= 3).reshape(h.shape)
        r0 = torch.where(second, (interval.s.half_log_snr - at_base.half_log_snr) / h, 1.0)
        plain = c.midpoint if self.solver_type == "midpoint" else c.heun
        d1 = torch.where(third, c.heun, torch.where(second, plain, 0.0))
        weights = _StageWeights(c.state, c.d0, c.noise, order, begins[interval.stop], d1, 1.0 / r0)
        if self.order < 3 or self.solver_type == "midpoint":
            return weights
        between = interval.level((interval.start - 1).clamp(min=0)).half_log_snr
        r1 = torch.where(third, (between - at_base.half_log_snr) / h, 1.0)
        gap, d2 = torch.where(third, r0 - r1, 1.0), torch.where(third, c.d2, 0.0)
        return weights._replace(r0=r0, r1=r1, inverse_r1=1.0 / r1, gap=gap, d2=d2)

    def _orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step: as the cycle says, less where its beginning is not known."""
        table = self.step_orders(interval.grid).to(interval.start.device)
        known = 1 + (nodes >= 0).sum(dim=1)
        order = torch.minimum(table[interval.start], known)
        return torch.where((interval.stop != interval.start + 1) | (interval.t.sigma.flatten() == 0), 1, order)

    def step_orders(self, grid: Grid) -> Tensor:
        """Return the order of every step, int64 of shape (N,)."""
        orders = torch.arange(grid.steps) % self.order + 1
        if self.lower_order_final and grid.steps % self.order == 0:
            orders[-1] = 1
        return orders

    def base_nodes(self, grid: Grid) -> list[int]:
        """Return the node from which every step starts: the first of its cycle."""
        return [i - (order - 1) for i, order in enumerate(self.step_orders(grid).tolist())]

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the nodes of cycles that end at the levels, each as long as `order`, even in log sigma; order 1, 2."""
        if self.order == 3:
            raise ValueError("on Sigmas, DPMSolverSinglestep has orders 1 and 2 only: use DPMSolver(order=3)")
        return sigmas if self.order == 1 else with_middles(sigmas, sigmas[1:])

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Move the cycle's first state with the state, and the predictions as the coarse solver's have changed."""
        if bool((memory.nodes < 0).all()):  # no cycle is under way
            return memory
        return Cycle(memory.base + change, memory.predictions + self.integrand(shift)[:, None], memory.nodes)

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` where a step's coefficients are not finite."""
        super().check_fine(grid)
        start, interval = torch.arange(grid.steps), StepInterval.of_steps(grid, self.base_nodes(grid))
        h = interval.t.half_log_snr - interval.s.half_log_snr
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t)
        coefficients: dict[str, Tensor] = {"coefficient": c.state + c.d0 + c.noise}
        higher = (self.step_orders(grid) >= 2) & (interval.t.sigma.flatten() > 0)
        r0 = (interval.level(start).half_log_snr - interval.s.half_log_snr) / h
        coefficients["coefficient of its second order"] = torch.where(higher[:, None], c.heun / r0, 0.0)
        third = (self.step_orders(grid) == 3)[:, None] & (self.solver_type == "heun")
        r1 = (interval.level((start - 1).clamp(min=0)).half_log_snr - interval.s.half_log_snr) / h
        coefficients["coefficient of its third order"] = torch.where(third, c.d2 / r1 / (r0 - r1), 0.0)
        check_finite({name: x.flatten() for name, x in coefficients.items()}, grid)


class _StageWeights(NamedTuple):
    """What a step is made with; of each row's `order`, int64 of shape (R,), and whether its cycle `ends` with it."""

    state: Tensor
    d0: Tensor
    noise: Tensor
    order: Any = None
    ends: Any = None
    d1: Any = None
    inverse_r0: Any = None
    r0: Any = None
    r1: Any = None
    inverse_r1: Any = None
    gap: Any = None
    d2: Any = None
