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
    """The cycle of steps in progress: its first state and its predictions so far; a singlestep solver's memory."""

    base: Tensor
    """the state at the cycle's first node, shape (R, *sample)"""
    predictions: Tensor
    """predictions at the cycle's first and second node, shape (R, order - 1, *sample)"""
    nodes: Tensor
    """nodes of the predictions, int64 of shape (R, order - 1); -1 for no prediction yet"""


@final
@dataclass(frozen=True)
class DPMSolverSinglestep(DPM):
    """DPM-Solver and DPM-Solver++, singlestep (Lu et al. 2022, arXiv 2206.00927 and 2211.01095, Algorithm 1).

    Steps come in cycles of orders 1, 2 or 1, 2, 3. Each step of a cycle starts from the cycle's first state; the
    earlier steps are the stages of the last one. A step from node to node is
    `diffusers.DPMSolverSinglestepScheduler.step`; a jump over several nodes has order 1.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        order: 1, 2 or 3, the length of a cycle.
        algorithm_type: `"dpmsolver"`, `"dpmsolver++"` or `"sde-dpmsolver++"`.
        solver_type: `"midpoint"` or `"heun"`.
        lower_order_final: reduce the order of the last step to 1 if the last cycle is complete.

    Raises:
        ValueError: for an unsupported option.
    """

    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm_type == "sde-dpmsolver":
            raise ValueError("sde-dpmsolver has no singlestep form: use 'sde-dpmsolver++', or the multistep DPMSolver")

    def begin(self, x: Tensor) -> Memory:
        """Return an empty cycle; None for order 1, whose cycles have one step."""
        if self.order == 1:
            return None
        count = self.order - 1
        nodes = torch.full((len(x), count), -1, device=x.device)
        return Cycle(x.new_zeros(x.shape), x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one step of its cycle; one evaluation."""
        prediction = yield from interval.predict(x)
        m = self.convert_model_output(x, prediction, interval)
        c = look_up_coefficients(interval, self._compute_coefficients, None if memory is None else memory.nodes)
        if memory is None:
            new = c.state * x + c.d0 * m
            return (new + interval.noise(c.noise) if self.stochastic else new), None
        # A step of order 1 begins a cycle from the row's own state: also a jump, and a step with an empty memory.
        base = torch.where(per_row(c.order == 1, x), x, memory.base)
        new = self._update(m, base, memory, c)
        return (new + interval.noise(c.noise) if self.stochastic else new), self._advance_cycle(
            m, base, memory, c, interval
        )

    def _advance_cycle(
        self, m: Tensor, base: Tensor, memory: Cycle, c: "_StageWeights", interval: StepInterval
    ) -> Cycle:
        """Return the memory after a step: the prediction is added, and rows whose cycle ends get an empty one."""
        predictions, nodes, order = memory.predictions.clone(), memory.nodes.clone(), c.order
        nodes[order == 1] = -1
        # The last stage of a complete cycle has no entry of its own. It overwrites one, and the cycle is emptied below.
        rows, stage = torch.arange(len(m), device=m.device), (order - 1).clamp(max=self.order - 2)
        predictions[rows, stage], nodes[rows, stage] = m, interval.start
        # The next cycle reads nothing of the last one. Values left over would be compared by the stop criterion.
        ends, empty = c.ends, self.begin(m)
        return Cycle(
            torch.where(per_row(ends, base), empty.base, base),
            torch.where(per_row(ends, predictions), empty.predictions, predictions),
            torch.where(ends[:, None], empty.nodes, nodes),
        )

    def _update(self, m: Tensor, base: Tensor, memory: Cycle, c: "_StageWeights") -> Tensor:
        """Return the state at level t from the cycle's first state, without noise (Algorithm 1)."""
        # d0 is the prediction at the cycle's first node, also for a row that is there now. The differences are those of
        # the scheduler's second and third order updates; rows of lower order have zero weights.
        d0 = torch.where(per_row(c.order == 1, m), m, memory.predictions[:, 0])
        d1 = c.inverse_r0 * (m - d0)
        if self.order < 3 or self.solver_type == "midpoint":
            return c.state * base + c.d0 * d0 + c.d1 * d1
        difference = c.inverse_r1 * (memory.predictions[:, 1] - d0)
        d2 = 2.0 * (d1 - difference) / c.r0_minus_r1
        d1 = torch.where(per_row(c.order >= 3, m), (c.r0 * difference - c.r1 * d1) / c.r0_minus_r1, d1)
        return c.state * base + c.d0 * d0 + c.d1 * d1 + c.d2 * d2

    def _compute_coefficients(self, interval: StepInterval, nodes: Tensor | None) -> "_StageWeights":
        """Return the weights of steps from the cycles' first states to level t."""
        if nodes is None:
            c = Coefficients.of(self.algorithm_type, interval.s, interval.t)
            return _StageWeights(c.state, c.d0, c.noise)
        order = self._orders(nodes, interval)
        # The end of the grid counts as the start of a cycle.
        begins_cycle = torch.cat([self.step_orders(interval.grid) == 1, torch.tensor([True])]).to(interval.stop.device)
        # A step of order p starts from the state p - 1 nodes earlier.
        at_base = interval.level(interval.start - (order - 1))
        h = interval.t.half_log_snr - at_base.half_log_snr
        c = Coefficients.of(self.algorithm_type, at_base, interval.t)
        second, third = (order >= 2).reshape(h.shape), (order >= 3).reshape(h.shape)
        r0 = torch.where(second, (interval.s.half_log_snr - at_base.half_log_snr) / h, 1.0)
        plain = c.midpoint if self.solver_type == "midpoint" else c.heun
        d1 = torch.where(third, c.heun, torch.where(second, plain, 0.0))
        weights = _StageWeights(c.state, c.d0, c.noise, order, begins_cycle[interval.stop], d1, 1.0 / r0)
        if self.order < 3 or self.solver_type == "midpoint":
            return weights
        between = interval.level((interval.start - 1).clamp(min=0)).half_log_snr
        r1 = torch.where(third, (between - at_base.half_log_snr) / h, 1.0)
        r0_minus_r1, d2 = torch.where(third, r0 - r1, 1.0), torch.where(third, c.d2, 0.0)
        return weights._replace(r0=r0, r1=r1, inverse_r1=1.0 / r1, r0_minus_r1=r0_minus_r1, d2=d2)

    def _orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step: its place in the cycle, or less if the memory lacks predictions."""
        table = self.step_orders(interval.grid).to(interval.start.device)
        available = 1 + (nodes >= 0).sum(dim=1)
        order = torch.minimum(table[interval.start], available)
        return torch.where((interval.stop != interval.start + 1) | (interval.t.sigma.flatten() == 0), 1, order)

    def step_orders(self, grid: Grid) -> Tensor:
        """Return the order of every step of the grid, int64 of shape (N,)."""
        orders = torch.arange(grid.steps) % self.order + 1
        if self.lower_order_final and grid.steps % self.order == 0:
            orders[-1] = 1
        return orders

    def base_nodes(self, grid: Grid) -> list[int]:
        """Return the node whose state every step starts from: the first of its cycle."""
        return [i - (order - 1) for i, order in enumerate(self.step_orders(grid).tolist())]

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the nodes: a cycle per step between levels, its middle in log sigma for order 2."""
        if self.order == 3:
            raise ValueError(
                "on Sigmas, DPMSolverSinglestep has orders 1 and 2 only, but order is 3: use DPMSolver(order=3)"
            )
        return sigmas if self.order == 1 else with_middles(sigmas, sigmas[1:])

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Add `change` to the cycle's first state and the increment of the coarse prediction to its predictions."""
        if bool((memory.nodes < 0).all()):  # no cycle is in progress
            return memory
        # `change` is the increment at the boundary. That at the cycle's first node is not known, and is approximated by
        # it. This affects only how fast the iteration converges.
        return Cycle(memory.base + change, memory.predictions + self.integrand(shift)[:, None], memory.nodes)

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if a step has a coefficient that is not finite: the scheduler's own loop gives NaN."""
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
    """Weights of a step from its cycle's first state; None for weights that the solver's order does not need."""

    state: Tensor
    d0: Tensor
    noise: Tensor
    order: Any = None
    """order of each row's step, int64 of shape (R,)"""
    ends: Any = None
    """whether each row's cycle ends with this step, booleans of shape (R,)"""
    d1: Any = None
    inverse_r0: Any = None
    r0: Any = None
    r1: Any = None
    inverse_r1: Any = None
    r0_minus_r1: Any = None
    d2: Any = None
