"""UniPC: a predictor and a corrector of any order with one evaluation per step."""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory, one_of
from parareal_diffusers._grid.grid import Grid, Levels, per_row
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.coefficient_table import look_up_coefficients
from parareal_diffusers._solvers.history import check_finite
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


class UniPCMemory(NamedTuple):
    """The memory of UniPC: the last step's start, which the corrector starts from again, and earlier predictions."""

    state: Tensor
    """corrected state one step earlier, shape (R, *sample)"""
    predictions: Tensor
    """predictions at earlier nodes, the latest first, shape (R, order, *sample)"""
    nodes: Tensor
    """nodes of the predictions, int64 of shape (R, order); -1 for no prediction yet"""
    order: Tensor
    """order of the last step, which its correction has too, int64 of shape (R,)"""


class UniPCWeights(NamedTuple):
    """Weights of UniP and UniC (arXiv 2302.04867, Algorithms 1 and 2), each of shape (R, ...).

    x_t = state * x - first * m0 - gain * (sum over k of rho_k (m_k - m0) / ratio_k + last * (m_t - m0)), with the
    predictions m0 at the step's start, m_k at preceding nodes and m_t at its end.
    """

    state: Tensor
    first: Tensor
    gain: Tensor
    ratios: Tensor
    """(lambda_k - lambda_s) / h, shape (R, order - 1); 1 if there is no m_k"""
    rhos: Tensor
    """coefficients of the paper's eq. 9, shape (R, order - 1); zero if there is no m_k"""
    last: Tensor
    """coefficient of the prediction at the step's end, shape (R,); used by the corrector only"""

    def apply(self, x: Tensor, predictions: Tensor, end: Tensor | None = None) -> Tensor:
        """Return the state at the end of the step.

        Args:
            x: states at the start, shape (R, *sample).
            predictions: at the start and at preceding nodes, shape (R, order or more, *sample).
            end: for the corrector, the predictions at the end of the step, shape (R, *sample).
        """
        m0, slopes = predictions[:, 0], torch.zeros_like(x)
        for k in range(self.rhos.shape[1]):
            difference = (predictions[:, k + 1] - m0) / per_row(self.ratios[:, k], x)
            slopes = slopes + per_row(self.rhos[:, k], x) * difference
        if end is not None:
            slopes = slopes + per_row(self.last, x) * (end - m0)
        state, first, gain = (per_row(c, x) for c in (self.state, self.first, self.gain))
        return state * x - first * m0 - gain * slopes

    def finite(self) -> Tensor:
        """Return which rows have finite weights, booleans of shape (R,)."""
        return torch.isfinite(self.gain + self.last + (self.rhos / self.ratios).sum(dim=1))


@final
@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC-p, with B(h) (Zhao et al. 2023, arXiv 2302.04867, Algorithms 1 and 2).

    A step from node to node is `diffusers.UniPCMultistepScheduler.step`: the prediction at the state first corrects the
    preceding step, and then advances the corrected state. So predictor and corrector share one evaluation. As a coarse
    solver it makes one evaluation per jump.

    Args:
        scheduler: a diffusers scheduler that defines the nodes; not needed for a coarse solver.
        order: p, at least 1; lower in the first steps.
        predict_x0: integrate the predicted clean sample, not the predicted noise.
        solver_type: the function B(h): `"bh1"` is h, `"bh2"` is exp(h) - 1.
        lower_order_final: reduce the order to p - 1, p - 2, ... in the last steps.
        disable_corrector: numbers of the steps whose result is not corrected.

    Raises:
        ValueError: for an order below 1, or another `solver_type`.
    """

    order: int = 2
    predict_x0: bool = True
    solver_type: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.order < 1:
            raise ValueError(f"order must be at least 1, but was {self.order!r}")
        one_of("solver_type", self.solver_type, ("bh1", "bh2"))

    def begin(self, x: Tensor) -> Memory:
        """Return a memory without predictions, so that the first step corrects nothing."""
        nodes = torch.full((len(x), self.order), -1, device=x.device)
        return UniPCMemory(x, x.new_zeros(len(x), self.order, *x.shape[1:]), nodes, torch.ones_like(nodes[:, 0]))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Correct (UniC) and advance (UniP) every row; one evaluation."""
        prediction = yield from interval.predict(x)
        m = prediction.clean if self.predict_x0 else prediction.noise
        corrector, predictor, corrects, order = look_up_coefficients(
            interval, self._compute_coefficients, memory.nodes, memory.order
        )
        # The scheduler's order: the corrector redoes the preceding step from its start, with the prediction m at its
        # end. m was evaluated at the uncorrected x; the predictor starts from the corrected x with the same m.
        x = torch.where(per_row(corrects, x), corrector.apply(memory.state, memory.predictions, m), x)
        predictions = torch.cat([m[:, None], memory.predictions[:, :-1]], dim=1)
        nodes = torch.cat([interval.start[:, None], memory.nodes[:, :-1]], dim=1)
        return predictor.apply(x, predictions), UniPCMemory(x, predictions, nodes, order)

    def _compute_coefficients(
        self, interval: StepInterval, nodes: Tensor, order: Tensor
    ) -> tuple[UniPCWeights, UniPCWeights, Tensor, Tensor]:
        """Return the weights of corrector and predictor, which rows are corrected, and the orders of the steps."""
        # The corrector redoes the preceding step with that step's order; the predictor's history includes this node.
        corrector, corrects = self._compute_corrector(nodes, order, interval)
        corrects = corrects & corrector.finite()
        nodes = torch.cat([interval.start[:, None], nodes[:, :-1]], dim=1)
        order = self._orders(nodes, interval)
        predictor = self._compute_predictor(nodes, order, interval)
        first = ~predictor.finite()  # jumps over nodes that share a level, or to zero noise: order 1
        predictor = predictor._replace(
            gain=torch.where(first, 0.0, predictor.gain),
            ratios=torch.where(first[:, None], 1.0, predictor.ratios),
            rhos=torch.where(first[:, None], 0.0, predictor.rhos),
        )
        return corrector, predictor, corrects, torch.where(first, 1, order)

    def _orders(self, nodes: Tensor, interval: StepInterval) -> Tensor:
        """Return the order of each row's step, int64 of shape (R,); lower with a short history and near the end."""
        order = (nodes >= 0).sum(dim=1)
        return torch.minimum(order, interval.grid.steps - interval.stop + 1) if self.lower_order_final else order

    def _compute_predictor(self, nodes: Tensor, order: Tensor, interval: StepInterval) -> UniPCWeights:
        """Return the weights of UniP; `nodes` are the nodes of the predictions, the step's start first."""
        return self._compute_weights(nodes, order, interval.s, interval.t, interval, corrects=False)

    def _compute_corrector(self, nodes: Tensor, order: Tensor, interval: StepInterval) -> tuple[UniPCWeights, Tensor]:
        """Return the weights of UniC for the preceding step, at whose end the rows are, and which rows it corrects."""
        weights = self._compute_weights(
            nodes, order, interval.level(nodes[:, 0].clamp(min=0)), interval.s, interval, corrects=True
        )
        # -1 is the node of a missing prediction: a first step has nothing to correct.
        disabled = torch.tensor([-1, *self.disable_corrector], device=nodes.device)
        return weights, ~torch.isin(nodes[:, 0], disabled)

    def _compute_weights(
        self, nodes: Tensor, order: Tensor, s: Levels, t: Levels, interval: StepInterval, corrects: bool
    ) -> UniPCWeights:
        """Return the weights of steps from level s to level t, in the scheduler's order of operations."""
        start = s.half_log_snr.flatten()
        h = t.half_log_snr.flatten() - start
        # Missing predictions have node -1, clamped for the lookup; `available` masks their ratios below.
        past = [interval.level(nodes[:, k].clamp(min=0)).half_log_snr.flatten() for k in range(1, self.order)]
        ratios = torch.stack([*((x - start) / h for x in past), torch.ones_like(h)], dim=1)
        hh = -h if self.predict_x0 else h
        expm1 = torch.expm1(hh)
        b = hh if self.solver_type == "bh1" else expm1
        rhos = torch.zeros_like(ratios)  # the last column is the coefficient of the prediction at the step's end
        for p in order.unique().tolist():  # rows of one order share the size of the linear system
            rows = order == p
            own_ratios = torch.cat([ratios[rows, : p - 1], ratios[rows, -1:]], dim=1)
            solution = _solve_rhos(own_ratios, hh[rows], b[rows], corrects)
            rhos[rows, : p - 1] = solution[:, : p - 1]
            if corrects:
                rhos[rows, -1] = solution[:, -1]
        available = torch.arange(1, self.order, device=order.device) < order[:, None]
        s, t = (levels.map(torch.flatten) for levels in (s, t))
        outer, state = (t.alpha, t.sigma / s.sigma) if self.predict_x0 else (t.sigma, t.alpha / s.alpha)
        first = outer * expm1
        if not self.predict_x0:  # the limit at zero noise, where h is infinite; only jumps end there
            first = torch.where(t.sigma == 0, t.alpha * s.sigma / s.alpha, first)
        ratios = torch.where(available, ratios[:, :-1], 1.0)
        return UniPCWeights(state, first, outer * b, ratios, rhos[:, :-1], rhos[:, -1])

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Add the increment of the coarse prediction to the history, and `shift.previous` to the earlier state."""
        increment = shift.clean if self.predict_x0 else shift.noise
        return memory._replace(state=memory.state + shift.previous, predictions=memory.predictions + increment[:, None])

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` if the noise-predicting form would start at zero signal."""
        if not self.predict_x0 and bool((grid.start.alpha == 0).any()):
            raise ValueError("UniPC with predict_x0=False cannot start at zero signal: use predict_x0=True")

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if a step has a coefficient that is not finite."""
        super().check_fine(grid)
        if not self.predict_x0 and bool((grid.stop.sigma == 0).any()):
            raise ValueError(
                "UniPC with predict_x0=False cannot step to zero noise, where the scheduler's own loop returns NaN: "
                "use final_sigmas_type='sigma_min', or predict_x0=True"
            )
        # The scheduler's own run: full histories, and the corrector of step i with the history of step i - 1.
        interval = StepInterval.of_steps(grid)
        nodes = torch.stack([interval.start - k for k in range(self.order)], dim=1).clamp(min=-1)
        order = self._orders(nodes, interval)
        predictor = self._compute_predictor(nodes, order, interval)
        previous_nodes = torch.cat([torch.full_like(nodes[:1], -1), nodes[:-1]])
        corrector, corrects = self._compute_corrector(previous_nodes, torch.cat([order[:1], order[:-1]]), interval)
        check_finite(
            {
                "coefficient": predictor.state + predictor.first + predictor.gain,
                "coefficient of its higher order": (predictor.rhos / predictor.ratios).sum(dim=1),
                "coefficient of its correction": torch.where(
                    corrects, corrector.gain + corrector.last + (corrector.rhos / corrector.ratios).sum(dim=1), 0.0
                ),
            },
            grid,
        )

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps without noise, with the predicted clean sample held fixed."""
        return Linear(interval.t.sigma / interval.s.sigma, torch.zeros_like(interval.t.sigma))


def _solve_rhos(ratios: Tensor, hh: Tensor, b: Tensor, corrects: bool) -> Tensor:
    """Solve the linear system for the coefficients rho of order p (eq. 9 of the paper, divided by B(h)).

    The predictor's system lacks the last row and column. As in the scheduler, its solution of order 2 is set to 1/2,
    and so is the corrector's of order 1.

    Args:
        ratios: (lambda_k - lambda_s) / h of the preceding nodes, and 1 for the step's end, shape (R, p).
        hh: -h if the clean sample is integrated, else h; shape (R,).
        b: B(h), shape (R,).
        corrects: whether to solve for the corrector.

    Returns:
        The coefficients, shape (R, p).
    """
    p = ratios.shape[1]
    if p == 1 or (p == 2 and not corrects):
        return torch.full_like(ratios, 0.5)
    rows, right, factorial, phi = [], [], 1, torch.expm1(hh) / hh - 1
    for i in range(1, p + 1):
        rows.append(torch.pow(ratios, i - 1))
        right.append(phi * factorial / b)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    matrix, vector = torch.stack(rows, dim=1), torch.stack(right, dim=1)
    if not corrects:
        matrix, vector = matrix[:, :-1, :-1], vector[:, :-1]
    # solve_ex does not raise for singular systems, as of jumps over nodes that share a level. Callers test the result.
    solution = torch.linalg.solve_ex(matrix, vector)[0]
    return solution if corrects else torch.cat([solution, torch.zeros_like(hh)[:, None]], dim=1)
