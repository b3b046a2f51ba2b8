"""ParaTAA: triangular nonlinear equations of order k, by triangular Anderson acceleration in a sliding window."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import per_row
from parareal_diffusers.bench.baselines.window import Window, slide
from parareal_diffusers.bench.cases.problems import Parts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

RIDGE = 1e-3
"""added to the diagonal of the normal equations (the published code's default)"""


class Equations:
    """The equations of order k: each state from the one k steps before and the predictions in between.

    With a step written as x' = a x + d, a the ratio of signal levels, F_n = a_r .. a_{n-1} x_r + sum over j = r .. n-1
    of a_{j+1} .. a_{n-1} d_j, where r = max(n - k, front) (arXiv 2402.09970, sec. 3.1). Order 1 is the step itself,
    order N Picard iteration in x / (a_0 .. a_{n-1}).
    """

    def __init__(self, parts: Parts, order: int):
        start, stop = parts.grid.start.alpha.double(), parts.grid.stop.alpha.double()
        self.ratio, self.order = stop / start, order
        self.scale = torch.cat([torch.ones(1).to(self.ratio), self.ratio.cumprod(0)])

    def __call__(self, seen: Window) -> Tensor:
        """Return F at the nodes front + 1 .. end."""
        scale = self.scale[seen.front : seen.end + 1]
        x = seen.x / per_row(scale, seen.x)
        drift = seen.stepped - per_row(self.ratio[seen.front : seen.end], seen.x) * seen.x[:-1]
        drift = drift / per_row(scale[1:], drift)
        total = torch.cat([torch.zeros_like(drift[:1]), drift.cumsum(0)])
        n = torch.arange(1, len(total), device=total.device)
        r = (n - self.order).clamp(min=0)
        return (x[r] + total[n] - total[r]) * per_row(scale[n], x)


class Seen(NamedTuple):
    """The states at the nodes front + 1 .. end of an iteration, and their residuals, each (states, *sample)."""

    front: int
    end: int
    x: Tensor
    residual: Tensor


class Anderson:
    """Triangular Anderson acceleration (arXiv 2402.09970, sec. 3.2).

    The update of a state x_n with residual R_n is x_n + R_n - (dX_n + dR_n) g_n, where the columns of dX and dR are
    changes of states and residuals over the last iterations, and g_n minimises |R - dR g|^2 + ridge |g|^2 over the
    residuals of the states up to n, those closer to the noise. States that were not in the window then have columns of
    zeros, and so a plain update.
    """

    def __init__(self, memory: int):
        self.memory = memory
        self.kept: list[Seen] = []

    def __call__(self, now: Seen) -> Tensor:
        """Return the correction (dX + dR) g of an iteration's states, and remember them."""
        self.kept = [*self.kept, now][-self.memory :]
        if len(self.kept) < 2:
            return torch.zeros_like(now.residual)
        columns = [_changes(*pair, now) for pair in pairwise(self.kept)]
        moved, turned = (torch.stack([c[i] for c in columns], dim=1) for i in (0, 1))  # (states, columns, *sample)
        rows = turned.flatten(2)
        gram = (rows @ rows.mT).cumsum(0) + RIDGE * torch.eye(rows.shape[1]).to(rows)
        right = (rows @ now.residual.flatten(1)[:, :, None]).cumsum(0)
        weights = torch.linalg.solve(gram, right)
        return ((moved + turned) * weights.reshape(*weights.shape[:2], *[1] * (now.x.ndim - 1))).sum(1)


def _changes(before: Seen, after: Seen, now: Seen) -> tuple[Tensor, Tensor]:
    """Return how the states of now, and their residuals, changed between two iterations; zero where not in both."""
    moved, turned = torch.zeros_like(now.x), torch.zeros_like(now.residual)
    first, last = max(x.front for x in (before, after, now)), min(x.end for x in (before, after, now))
    if first < last:
        a, b, c = (slice(first - x.front, last - x.front) for x in (before, after, now))
        moved[c] = after.x[b] - before.x[a]
        turned[c] = after.residual[b] - before.residual[a]
    return moved, turned


def parataa(parts: Parts, target: Target, stop: Stop, window: int, order: int, memory: int = 2) -> Sequence[Iterate]:
    """Run ParaTAA (Tang et al. 2024, arXiv 2402.09970, Algorithm 1).

    Args:
        parts: what to sample, of one sample.
        target: its sequential final state.
        stop: when states leave the window; the published code's own rule asks the RMS of the residual of the
            first-order equations to be below the tolerance.
        window: steps in it, at most; more than there are for all.
        order: k of the equations; more than there are steps for all.
        memory: iterates that the acceleration remembers, the current one included; 1 for plain fixed-point iteration.
    """
    equations, anderson = Equations(parts, order), Anderson(memory)

    def update(seen: Window, done: int) -> Tensor:
        residual = equations(seen) - seen.x[1:]
        correction = anderson(Seen(seen.front, seen.end, seen.x[1:], residual))
        correction[: done + 1] = 0  # the safeguard: what is final after this iteration is a plain update
        return seen.x[1:] + residual - correction

    def settled(seen: Window) -> Tensor:
        residual = (seen.stepped - seen.x[1:]).flatten(1)
        return residual.norm(dim=1) / residual.shape[1] ** 0.5 <= stop.tolerance

    return list(slide(parts, target, window, update, stop, settled))
