"""ParaTAA: triangular nonlinear equations of order k, by triangular Anderson acceleration in a sliding window."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import per_row
from parareal_diffusers.bench.baselines.window import Window, slide
from parareal_diffusers.bench.cases.problems import SamplerParts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

RIDGE = 1e-3
"""added to the diagonal of the normal equations (the published code's default)"""


class Equations:
    """Fixed-point equations of order k: each state from the one k steps before and the predictions in between.

    With a step written as x' = a x + d, a the ratio of signal levels, F_n = a_r .. a_{n-1} x_r + sum over j = r .. n-1
    of a_{j+1} .. a_{n-1} d_j, where r = max(n - k, head) (arXiv 2402.09970, sec. 3.1). Order 1 is the step itself,
    order N is Picard iteration in x / (a_0 .. a_{n-1}).
    """

    def __init__(self, parts: SamplerParts, order: int):
        start, stop = parts.grid.start.alpha.double(), parts.grid.stop.alpha.double()
        self.ratio, self.order = stop / start, order
        self.scale = torch.cat([torch.ones(1).to(self.ratio), self.ratio.cumprod(0)])

    def __call__(self, current: Window) -> Tensor:
        """Return F at the nodes head + 1 .. end, shape (steps, *sample)."""
        # Divided by the product of ratios a step is an addition, so the sums of all equations are one cumulative sum.
        scale = self.scale[current.head : current.end + 1]
        x = current.x / per_row(scale, current.x)
        offsets = current.next_states - per_row(self.ratio[current.head : current.end], current.x) * current.x[:-1]
        offsets = offsets / per_row(scale[1:], offsets)
        total = torch.cat([torch.zeros_like(offsets[:1]), offsets.cumsum(0)])
        n = torch.arange(1, len(total), device=total.device)
        r = (n - self.order).clamp(min=0)  # relative to the head: an equation does not reach beyond the window
        return (x[r] + total[n] - total[r]) * per_row(scale[n], x)


class WindowIterate(NamedTuple):
    """States at the nodes head + 1 .. end in one iteration, and their residuals, each of shape (states, *sample)."""

    head: int
    end: int
    x: Tensor
    residual: Tensor


class Anderson:
    """Triangular Anderson acceleration (arXiv 2402.09970, sec. 3.2).

    The update of a state x_n with residual R_n is x_n + R_n - (dX_n + dR_n) g_n, where the columns of dX and dR are the
    changes of states and residuals over the last iterations, and g_n minimises |R - dR g|^2 + ridge |g|^2 over the
    residuals of the states up to n, those closer to the noise. A state that was not in the window in those iterations
    has columns of zeros, and therefore a plain update.
    """

    def __init__(self, memory: int):
        self.memory = memory
        self.iterates: list[WindowIterate] = []

    def __call__(self, current: WindowIterate) -> Tensor:
        """Store an iteration's states and return their correction (dX + dR) g."""
        # The window's x is a copy (`slide`), so stored iterates do not change.
        self.iterates = [*self.iterates, current][-self.memory :]
        if len(self.iterates) < 2:
            return torch.zeros_like(current.residual)
        columns = [_changes(*pair, current) for pair in pairwise(self.iterates)]
        # each of shape (states, columns, *sample)
        state_changes, residual_changes = (torch.stack([c[i] for c in columns], dim=1) for i in (0, 1))
        rows = residual_changes.flatten(2)
        # The cumulative sums over states make the least squares problems triangular: state n uses residuals up to n.
        gram = (rows @ rows.mT).cumsum(0) + RIDGE * torch.eye(rows.shape[1]).to(rows)
        right = (rows @ current.residual.flatten(1)[:, :, None]).cumsum(0)
        weights = torch.linalg.solve(gram, right)
        weights = weights.reshape(*weights.shape[:2], *[1] * (current.x.ndim - 1))
        return ((state_changes + residual_changes) * weights).sum(1)


def _changes(before: WindowIterate, after: WindowIterate, current: WindowIterate) -> tuple[Tensor, Tensor]:
    """Return the changes of states and residuals between two iterations, for the states of `current`.

    A state that was outside the window in one of the two iterations has changes of zero.
    """
    state_changes, residual_changes = torch.zeros_like(current.x), torch.zeros_like(current.residual)
    first, last = max(x.head for x in (before, after, current)), min(x.end for x in (before, after, current))
    if first < last:
        # The window moves between iterations, so the same nodes have another position in each of the three.
        a, b, c = (slice(first - x.head, last - x.head) for x in (before, after, current))
        state_changes[c] = after.x[b] - before.x[a]
        residual_changes[c] = after.residual[b] - before.residual[a]
    return state_changes, residual_changes


def parataa(
    parts: SamplerParts, target: Target, stop: Stop, window: int, order: int, memory: int = 2
) -> Sequence[Iterate]:
    """Run ParaTAA (Tang et al. 2024, arXiv 2402.09970, Algorithm 1).

    Args:
        parts: the problem, of one sample.
        target: its sequential final state.
        stop: the rule by which states leave the window. The published code's own rule compares the RMS of the residual
            of the first-order equations with the tolerance.
        window: the largest number of steps in the window; the number of steps or more for all of them.
        order: k of the equations; the number of steps or more for all of them.
        memory: iterates stored for the acceleration, the current one included; 1 for plain fixed-point iteration.
    """
    equations, anderson = Equations(parts, order), Anderson(memory)

    def update(current: Window, num_settled: int) -> Tensor:
        residual = equations(current) - current.x[1:]
        correction = anderson(WindowIterate(current.head, current.end, current.x[1:], residual))
        # The paper's safeguard: states that are final after this iteration get the plain update, so that the exact
        # solution is reached after at most N iterations.
        correction[: num_settled + 1] = 0
        return current.x[1:] + residual - correction

    def find_settled(current: Window) -> Tensor:
        residual = (current.next_states - current.x[1:]).flatten(1)
        return residual.norm(dim=1) / residual.shape[1] ** 0.5 <= stop.tolerance

    return list(slide(parts, target, window, update, stop, find_settled))
