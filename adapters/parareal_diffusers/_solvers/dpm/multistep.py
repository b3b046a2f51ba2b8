"""DPM-Solver and DPM-Solver++, multistep."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.dpm.coefficients import DPM, Coefficients
from parareal_diffusers._solvers.history import PredictionHistory, check_finite
from parareal_diffusers._solvers.solver import Shift, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class DPMSolver(DPM):
    """DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022, arXiv 2206.00927 and 2211.01095, Algorithm 2).

    From node to next node it is `diffusers.DPMSolverMultistepScheduler.step`. As a coarse solver it costs one
    evaluation a jump, like DDIM, and remembers what was predicted at the starts of the jumps before.

    Args:
        scheduler: a diffusers scheduler whose nodes to step over; not needed for a coarse solver.
        order: 1, 2 or 3; lower in the first steps, and 1 where a step ends at zero noise.
        algorithm_type: `"dpmsolver"`, `"dpmsolver++"`, or one of their SDE variants `"sde-dpmsolver"` and
            `"sde-dpmsolver++"`.
        solver_type: `"midpoint"` or `"heun"`, for steps of second order.
        lower_order_final: with fewer than 15 steps, take the last one with order 1 and the one before with order 2.
        euler_at_final: take the last step with order 1.
    """

    lower_order_final: bool = True
    euler_at_final: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == 3 and self.algorithm_type == "sde-dpmsolver":
            raise ValueError(
                "sde-dpmsolver has no third order (in diffusers its third step raises UnboundLocalError): use order=2"
            )

    def begin(self, x: Tensor) -> Memory:
        """Remember no prediction."""
        if self.order == 1:
            return None
        count = self.order - 1
        nodes = torch.full((len(x), count), -1, device=x.device)
        return PredictionHistory(x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row; one evaluation."""
        prediction = yield from interval.predict(x)
        m0 = self.convert_model_output(x, prediction, interval)
        state, d0, noise, weights = look_up_coefficients(
            interval, self._coefficients, None if memory is None else memory.nodes
        )
        new = self._scale_state(state, x, interval) + d0 * m0
        if memory is not None:
            new = self._add_higher_order(new, weights, m0, memory)
            latest = torch.cat([m0[:, None], memory.predictions[:, :-1]], dim=1)
            memory = PredictionHistory(latest, torch.cat([interval.start[:, None], memory.nodes[:, :-1]], dim=1))
        return (new + interval.noise(noise) if self.stochastic else new), memory

    def _coefficients(self, interval: StepInterval, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return what the state, the prediction and the noise are multiplied by, and the weights of higher order."""
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t, interval.grid.casts)
        return c.state, c.d0, c.noise, None if nodes is None else self._weights(c, nodes, interval)

    def _scale_state(self, factor: Tensor, x: Tensor, interval: StepInterval) -> Tensor:
        """Return what a step keeps of its state; the scheduler casts it to float32, whatever the states are."""
        if x.dtype is not torch.float64 or not interval.grid.casts:
            return factor * x
        return torch.where(
            interval.rows(interval.stop == interval.start + 1), (factor * x.float()).double(), factor * x
        )

    def _add_higher_order(
        self, new: Tensor, weights: "_HigherOrderWeights", m0: Tensor, memory: PredictionHistory
    ) -> Tensor:
        """Add the terms of second and third order, for rows that have them."""
        d1 = weights.inverse_r0 * (m0 - memory.predictions[:, 0])
        if self.order == 2:
            return new + weights.d1 * d1
        difference = d1 - weights.inverse_r1 * (memory.predictions[:, 0] - memory.predictions[:, 1])
        return new + weights.d1 * (d1 + weights.share * difference) + weights.d2 * (weights.inverse_r * difference)

    def _weights(
        self, c: Coefficients, nodes: Tensor, interval: StepInterval, guarded: bool = True
    ) -> "_HigherOrderWeights":
        """Return the weights; `guarded`, rows whose step or history has no length take a step of first order."""
        order = self.orders(nodes, interval).reshape(c.d0.shape)
        h = interval.t.half_log_snr - interval.s.half_log_snr
        then = [interval.level(nodes[:, i].clamp(min=0)).half_log_snr for i in range(self.order - 1)]
        if guarded:
            no_length = (h == 0) | (interval.s.half_log_snr == then[0])
            if self.order == 3:
                no_length |= (then[0] == then[1]) & (order == 3)
            order = torch.where(no_length, 1, order)
        second, third = order >= 2, order >= 3
        r0 = torch.where(second, (interval.s.half_log_snr - then[0]) / h, 1.0)
        plain = c.midpoint if self.solver_type == "midpoint" else c.heun
        d1 = torch.where(third, c.heun, torch.where(second, plain, 0.0))
        if self.order == 2:
            return _HigherOrderWeights(1.0 / r0, d1)
        r1 = torch.where(third, (then[0] - then[1]) / h, 1.0)
        d2, share = torch.where(third, c.d2, 0.0), torch.where(third, r0 / (r0 + r1), 0.0)
        return _HigherOrderWeights(1.0 / r0, d1, d2, share, 1.0 / r1, 1.0 / (r0 + r1))

    def orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step: what the history allows, less at the end of the grid."""
        order = 1 + (nodes >= 0).sum(dim=1)
        few = self.lower_order_final and interval.grid.steps < 15
        last, before = interval.stop == interval.grid.steps, interval.stop == interval.grid.steps - 1
        if few:
            order = torch.where(before, order.clamp(max=2), order)
        lower = last if few or self.euler_at_final else torch.zeros_like(last)
        return torch.where(lower | (interval.t.sigma.flatten() == 0), 1, order)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Change the remembered predictions as the coarse solver's have changed."""
        return PredictionHistory(memory.predictions + self.integrand(shift)[:, None], memory.nodes)

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` where a step's coefficients are not finite."""
        super().check_fine(grid)
        interval = StepInterval.of_steps(grid)
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t, interval.grid.casts)
        coefficients = {"coefficient": c.state + c.d0 + c.noise}
        if self.order > 1:
            nodes = torch.stack([interval.start - 1 - i for i in range(self.order - 1)], dim=1).clamp(min=-1)
            weights = self._weights(c, nodes, interval, guarded=False)
            coefficients |= {f"coefficient {name} of its higher order": x for name, x in weights._asdict().items()}
        check_finite({name: x.flatten() for name, x in coefficients.items() if x is not None}, grid)

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return float32: the scheduler draws noise in it whatever the states are; in theirs on `Sigmas`."""
        return dtype if isinstance(self.scheduler, Sigmas) else torch.float32


class _HigherOrderWeights(NamedTuple):
    """What the terms of second and third order are made with; zero for rows of lower order."""

    inverse_r0: Tensor
    d1: Tensor
    d2: Any = None
    share: Any = None
    inverse_r1: Any = None
    inverse_r: Any = None
