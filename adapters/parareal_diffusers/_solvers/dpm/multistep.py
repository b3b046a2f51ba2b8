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

    A step from node to node is `diffusers.DPMSolverMultistepScheduler.step`. As a coarse solver it makes one evaluation
    per jump, like DDIM, and its memory holds the predictions at the starts of the preceding jumps.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        order: 1, 2 or 3; lower in the first steps, and 1 in a step that ends at zero noise.
        algorithm_type: `"dpmsolver"`, `"dpmsolver++"`, or one of their SDE variants `"sde-dpmsolver"` and
            `"sde-dpmsolver++"`.
        solver_type: `"midpoint"` or `"heun"`, for steps of second order.
        lower_order_final: with fewer than 15 steps, reduce the order to 1 in the last and to 2 in the last but one.
        euler_at_final: reduce the order of the last step to 1.

    Raises:
        ValueError: for an unsupported option, or `"sde-dpmsolver"` with order 3.
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
        """Return an empty history; None for order 1."""
        if self.order == 1:
            return None
        count = self.order - 1
        nodes = torch.full((len(x), count), -1, device=x.device)
        return PredictionHistory(x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one step of its order (Algorithm 2); one evaluation."""
        prediction = yield from interval.predict(x)
        m0 = self.convert_model_output(x, prediction, interval)
        state, d0, noise, weights = look_up_coefficients(
            interval, self._compute_coefficients, None if memory is None else memory.nodes
        )
        new = self._scale_state(state, x, interval) + d0 * m0
        if memory is not None:
            new = self._add_higher_order(new, weights, m0, memory)
            latest = torch.cat([m0[:, None], memory.predictions[:, :-1]], dim=1)
            memory = PredictionHistory(latest, torch.cat([interval.start[:, None], memory.nodes[:, :-1]], dim=1))
        return (new + interval.noise(noise) if self.stochastic else new), memory

    def _compute_coefficients(self, interval: StepInterval, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return the coefficients of state, prediction and noise, and the weights of the terms of higher order."""
        # On `Sigmas` k-diffusion's samplers are reproduced, whose third-order SDE term has the other sign.
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t, interval.grid.casts)
        return c.state, c.d0, c.noise, None if nodes is None else self._compute_weights(c, nodes, interval)

    def _scale_state(self, factor: Tensor, x: Tensor, interval: StepInterval) -> Tensor:
        """Return the term of the state, in single steps with the scheduler's cast of the state to float32."""
        if x.dtype is not torch.float64 or not interval.grid.casts:
            return factor * x
        return torch.where(
            interval.rows(interval.stop == interval.start + 1), (factor * x.float()).double(), factor * x
        )

    def _add_higher_order(
        self, new: Tensor, weights: "_HigherOrderWeights", m0: Tensor, memory: PredictionHistory
    ) -> Tensor:
        """Add the terms of second and third order; their weights are zero in rows of lower order."""
        # Divided differences in lambda times h, as in the scheduler: D1_0 = (m0 - m1) / r0, D1_1 = (m1 - m2) / r1, and
        # of third order D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1), D2 = (D1_0 - D1_1) / (r0 + r1).
        d1 = weights.inverse_r0 * (m0 - memory.predictions[:, 0])
        if self.order == 2:
            return new + weights.d1 * d1
        difference = d1 - weights.inverse_r1 * (memory.predictions[:, 0] - memory.predictions[:, 1])
        return new + weights.d1 * (d1 + weights.share * difference) + weights.d2 * (weights.inverse_r * difference)

    def _compute_weights(
        self, c: Coefficients, nodes: Tensor, interval: StepInterval, guarded: bool = True
    ) -> "_HigherOrderWeights":
        """Return the weights of the terms of higher order, zero in rows of lower order.

        Args:
            c: coefficients of the steps.
            nodes: nodes of the history, int64 of shape (R, order - 1).
            interval: the steps.
            guarded: reduce the order to 1 where the step or the history has zero length in lambda. Jumps can have that,
                on grids that repeat a level; the scheduler's own steps are checked without the guard.
        """
        order = self.orders(nodes, interval).reshape(c.d0.shape)
        h = interval.t.half_log_snr - interval.s.half_log_snr
        past = [interval.level(nodes[:, i].clamp(min=0)).half_log_snr for i in range(self.order - 1)]
        if guarded:
            no_length = (h == 0) | (interval.s.half_log_snr == past[0])
            if self.order == 3:
                no_length |= (past[0] == past[1]) & (order == 3)
            order = torch.where(no_length, 1, order)
        second, third = order >= 2, order >= 3
        # Ones and zeros in rows of lower order keep the unused terms finite.
        r0 = torch.where(second, (interval.s.half_log_snr - past[0]) / h, 1.0)
        plain = c.midpoint if self.solver_type == "midpoint" else c.heun
        d1 = torch.where(third, c.heun, torch.where(second, plain, 0.0))
        if self.order == 2:
            return _HigherOrderWeights(1.0 / r0, d1)
        r1 = torch.where(third, (past[0] - past[1]) / h, 1.0)
        d2, share = torch.where(third, c.d2, 0.0), torch.where(third, r0 / (r0 + r1), 0.0)
        return _HigherOrderWeights(1.0 / r0, d1, d2, share, 1.0 / r1, 1.0 / (r0 + r1))

    def orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step, int64 of shape (R,); lower with a short history and near the end."""
        # The scheduler's rules: the history is short in the first steps, and in the first steps of a slice that starts
        # without one. At the end a low order avoids oscillations with few steps; at zero noise h is infinite.
        order = 1 + (nodes >= 0).sum(dim=1)
        few = self.lower_order_final and interval.grid.steps < 15
        last, last_but_one = interval.stop == interval.grid.steps, interval.stop == interval.grid.steps - 1
        if few:
            order = torch.where(last_but_one, order.clamp(max=2), order)
        lower = last if few or self.euler_at_final else torch.zeros_like(last)
        return torch.where(lower | (interval.t.sigma.flatten() == 0), 1, order)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Add the increment of the coarse solver's prediction to the predictions in the history."""
        return PredictionHistory(memory.predictions + self.integrand(shift)[:, None], memory.nodes)

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if a step has a coefficient that is not finite: the scheduler's own loop gives NaN."""
        super().check_fine(grid)
        interval = StepInterval.of_steps(grid)
        c = Coefficients.of(self.algorithm_type, interval.s, interval.t, interval.grid.casts)
        coefficients = {"coefficient": c.state + c.d0 + c.noise}
        if self.order > 1:
            # The scheduler's own run, with full histories.
            nodes = torch.stack([interval.start - 1 - i for i in range(self.order - 1)], dim=1).clamp(min=-1)
            weights = self._compute_weights(c, nodes, interval, guarded=False)
            second = ("inverse_r0", "d1")
            coefficients |= {
                f"{'second' if name in second else 'third'}-order coefficient {name}": x
                for name, x in weights._asdict().items()
            }
        check_finite({name: x.flatten() for name, x in coefficients.items() if x is not None}, grid)

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return float32, in which the scheduler draws noise for states of any dtype; the states' dtype on `Sigmas`."""
        return dtype if isinstance(self.scheduler, Sigmas) else torch.float32


class _HigherOrderWeights(NamedTuple):
    """Weights of the terms of second and third order; the last four are None if the solver's order is 2.

    In rows of lower order d1, d2 and share are zero. r0 and r1 are the lengths of the last two steps over h; `share` is
    r0 / (r0 + r1), `inverse_r` is 1 / (r0 + r1).
    """

    inverse_r0: Tensor
    d1: Tensor
    d2: Any = None
    share: Any = None
    inverse_r1: Any = None
    inverse_r: Any = None
