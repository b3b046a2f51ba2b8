"""DEIS: multistep exponential integrators."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, Levels, per_row
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.history import PredictionHistory, check_finite
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


@final
@dataclass(frozen=True)
class DEIS(Solver):
    """Diffusion exponential integrator sampler, log-rho multistep (Zhang, Chen 2023, arXiv 2204.13902, Algorithm 1).

    The predicted noise is extrapolated by a polynomial in log rho, rho = sigma / alpha, through the predictions at the
    preceding nodes, and integrated over rho. A step from node to node is `diffusers.DEISMultistepScheduler.step`.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        order: 1, 2 or 3; lower in the first steps.
        lower_order_final: with fewer than 15 steps, reduce the order to 1 in the last and to 2 in the last but one.

    Raises:
        ValueError: for another order.
    """

    order: int = 2
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, but was {self.order!r}")

    def begin(self, x: Tensor) -> Memory:
        """Return an empty history."""
        count = max(1, self.order - 1)  # one entry even for order 1, so that there is always a memory
        nodes = torch.full((len(x), count), -1, device=x.device)
        return PredictionHistory(x.new_zeros(len(x), count, *x.shape[1:]), nodes)

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row (Algorithm 1); one evaluation."""
        prediction = yield from interval.predict(x)
        # The noise of the clean sample after clipping, as the scheduler's convert_model_output returns it.
        m = (x - interval.s.alpha * prediction.clean) / interval.s.sigma
        first, weights, order = look_up_coefficients(interval, self._compute_coefficients, memory.nodes)
        new = interval.t.alpha / interval.s.alpha * x - per_row(first, x) * m
        if self.order > 1:
            total = x / interval.s.alpha + per_row(weights[:, 0], x) * m
            for k in range(1, self.order):
                total = total + per_row(weights[:, k], x) * memory.predictions[:, k - 1]
            new = torch.where(per_row(order == 1, x), new, interval.t.alpha * total)
        latest = torch.cat([m[:, None], memory.predictions[:, :-1]], dim=1)
        return new, PredictionHistory(latest, torch.cat([interval.start[:, None], memory.nodes[:, :-1]], dim=1))

    def _compute_coefficients(self, interval: StepInterval, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights and orders; the order is 1 in jumps over nodes that share a level."""
        first, weights, order = self._compute_weights(nodes, interval)
        return first, weights, torch.where(torch.isfinite(weights.sum(dim=1)), order, 1)

    def _compute_weights(self, nodes: Tensor, interval: StepInterval) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weight of a first-order step (R,), the weights of higher order (R, order), and the orders (R,)."""
        s, t = (levels.map(torch.flatten) for levels in (interval.s, interval.t))
        h = t.half_log_snr - s.half_log_snr
        first = t.sigma * (torch.exp(h) - 1.0)
        # The limit at zero noise, where h is infinite, for jumps. Single steps keep the scheduler's value, which
        # `check_fine` tests.
        first = torch.where((t.sigma == 0) & (interval.stop != interval.start + 1), t.alpha * s.sigma / s.alpha, first)
        order = self._orders(nodes, interval)
        weights = torch.zeros(len(h), self.order, device=h.device)
        # Missing predictions have node -1, clamped for the lookup; the order excludes them.
        rho = [_rho(s), *(_rho(interval.level(nodes[:, k].clamp(min=0))) for k in range(self.order - 1))]
        for p in range(2, self.order + 1):  # rows of one order have the same number of polynomials
            rows = order == p
            weights[rows, :p] = _integrals([x[rows] for x in rho[:p]], _rho(t)[rows])
        return first, weights, order

    def _orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step, int64 of shape (R,); lower with a short history and near the end."""
        order = (1 + (nodes >= 0).sum(dim=1)).clamp(max=self.order)
        last, last_but_one = interval.stop == interval.grid.steps, interval.stop == interval.grid.steps - 1
        if self.lower_order_final and interval.grid.steps < 15:
            order = torch.where(last_but_one, order.clamp(max=2), torch.where(last, 1, order))
        return torch.where((interval.t.sigma.flatten() == 0) & (interval.stop != interval.start + 1), 1, order)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Add the increment of the coarse solver's predicted noise to the predictions in the history."""
        return PredictionHistory(memory.predictions + shift.noise[:, None], memory.nodes)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` if a step starts at zero signal, where rho is infinite."""
        if bool((grid.start.alpha == 0).any()):
            raise ValueError("DEIS cannot start at zero signal: use UniPC, DPMSolver or another schedule")

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if a step has a coefficient that is not finite."""
        super().check_fine(grid)
        # The scheduler's own run, with full histories.
        interval = StepInterval.of_steps(grid)
        nodes = torch.stack([interval.start - 1 - k for k in range(max(1, self.order - 1))], dim=1).clamp(min=-1)
        first, weights, order = self._compute_weights(nodes, interval)
        plain = torch.where(order == 1, first, 0.0)
        check_finite({"coefficient": plain, "coefficient of its higher order": weights.sum(dim=1)}, grid)

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps without noise, with the predicted clean sample held fixed."""
        return Linear(interval.t.sigma / interval.s.sigma, torch.zeros_like(interval.t.sigma))


def _rho(levels: Levels) -> Tensor:
    """Return rho = sigma / alpha, shape (R,)."""
    return (levels.sigma / levels.alpha).flatten()


def _integrals(rho: list[Tensor], stop: Tensor) -> Tensor:
    """Integrate the p Lagrange polynomials in log rho over rho, from the step's start to `stop`.

    The antiderivatives are those of the scheduler, in its order of operations.

    Args:
        rho: rho at the step's start and at the preceding nodes, p tensors of shape (R,).
        stop: rho at the step's end, shape (R,).

    Returns:
        The integrals, shape (R, p).
    """
    antiderivative = _second if len(rho) == 2 else _third
    integrals = []
    for k in range(len(rho)):
        others = rho[k:] + rho[:k]  # node k first, then the nodes where its polynomial is zero
        integrals.append(antiderivative(stop, *others) - antiderivative(rho[0], *others))
    return torch.stack(integrals, dim=1)


def _log(x: Tensor) -> Tensor:
    """Return NumPy's logarithm, which the scheduler uses and which can differ from torch's in the last bit."""
    return torch.from_numpy(np.log(x.cpu().numpy())).to(x.device)


def _second(t: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return the antiderivative of (log t - log c) / (log b - log c)."""
    return t * (-_log(c) + _log(t) - 1) / (_log(b) - _log(c))


def _third(t: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return the antiderivative of (log t - log c) (log t - log d) / ((log b - log c) (log b - log d))."""
    ts, cs, ds = _log(t), _log(c), _log(d)
    above = t * (cs * (ds - ts + 1) - ds * ts + ds + ts**2 - 2 * ts + 2)
    return above / ((_log(b) - cs) * (_log(b) - ds))
