"""DPM-Solver-fast: steps of order three, and at the end of order two or one, each of as many evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory, whole_number
from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._grid.sigmas import Sigmas, even
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


class StepStart(NamedTuple):
    """The step that a row is in the midst of; blank where a step begins."""

    base: Tensor
    """the state where the step began, shape (R, *sample)"""
    noise: Tensor
    """the noise predicted there, shape (R, *sample)"""
    node: Tensor
    """the node where the step began, int64 of shape (R,); -1 where there is no step under way"""


@final
@dataclass(frozen=True)
class DPMFast(Solver):
    """DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927, Section 3.4), in sigma: k-diffusion's `sample_dpm_fast`.

    Steps of order 3 (Algorithm 2 there, r1 = 1/3 and r2 = 2/3) from level to level, the last ones of lower order
    (order 2 is Algorithm 1 there, r1 = 1/2). A step of order p has p nodes, even in log sigma. It adds no noise, as
    `sample_dpm_fast` with eta = 0, its default.

    Args:
        scheduler: `Sigmas` that end above zero, unless the last step has order 1; not needed for a coarse solver, which
            makes Euler's step.
        ending: the orders of the last steps; those before have order 3.

    Raises:
        ValueError: for other orders.
    """

    ending: Sequence[int] = (2, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ending", tuple(self.ending))
        if any(order not in (1, 2, 3) for order in self.ending):
            raise ValueError(f"ending must be orders 1, 2 or 3, as in (2, 1), got {self.ending!r}")

    @staticmethod
    def evenly(evaluations: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> "DPMFast":
        """Return the solver of so many evaluations, its steps even in log sigma, as the paper plans them.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max and evaluations >= 1.
        """
        whole_number("evaluations", evaluations, 1)
        levels = Sigmas(even(evaluations // 3 + 2, sigma_min, sigma_max))
        return DPMFast(levels, (evaluations % 3,) if evaluations % 3 else (2, 1))

    def begin(self, x: Tensor) -> Memory:
        """Remember no step under way."""
        zero = torch.zeros_like(x)
        return StepStart(zero, zero, torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one stage; one evaluation."""
        _, noise, _ = yield from interval.predict(x)
        single = interval.stop == interval.start + 1
        goes_on = (memory.node >= 0) & single
        under_way = per_row(goes_on, x)
        base, first = torch.where(under_way, memory.base, x), torch.where(under_way, memory.noise, noise)
        origin = torch.where(goes_on, memory.node, interval.start)
        s, t = interval.level(origin).sigma, interval.t.sigma
        straight, curved, last = (
            x.to(interval.start.device)[interval.start] for x in _stages(self.orders(interval.grid.steps))
        )
        straight, curved = interval.rows(straight), interval.rows(curved)
        bend = torch.where(curved > 0, curved * ((s - t) / (s / t).log() - t), straight * (s - t))
        new = base + (t - s) * first - torch.where(under_way, bend, 0.0) * (noise - first)
        node = torch.where(single & ~last, origin, -1)
        kept = per_row(node >= 0, x)
        return new, StepStart(torch.where(kept, base, 0.0), torch.where(kept, first, 0.0), node)

    def orders(self, evaluations: int) -> tuple[int, ...]:
        """Return the order of each step of a grid of so many nodes; 1 for all where they do not add up."""
        ending = tuple(self.ending)
        threes, over = divmod(evaluations - sum(ending), 3)
        if threes >= 0 and not over:
            return (3,) * threes + ending
        cut = next((ending[i:] for i in range(1, len(ending)) if sum(ending[i:]) == evaluations), None)
        return (1,) * evaluations if cut is None else cut

    def base_nodes(self, grid: Grid) -> list[int]:
        """Return the node from which every step starts: the first of its own."""
        orders = self.orders(grid.steps)
        return [sum(orders[:i]) for i, order in enumerate(orders) for _ in range(order)]

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the nodes of steps: from N + 1 levels, those where they begin, their middles and the end."""
        count = len(sigmas) - 1
        orders = ((3,) * count + tuple(self.ending))[-count:] if len(self.ending) < count else self.ending[-count:]
        if float(sigmas[-1]) == 0 and orders[-1] > 1:
            raise ValueError(
                f"DPMFast cannot end at zero with a step of order {orders[-1]}, whose middle is taken in log sigma: "
                "end above zero, as DPMFast.evenly does, or with a step of order 1, as in ending=(2, 1)"
            )
        parts = [
            torch.exp(torch.lerp(s.log(), t.log(), torch.arange(order) / order)) if order > 1 else s[None]
            for s, t, order in zip(sigmas, sigmas[1:], orders)
        ]
        return torch.cat([*parts, sigmas[-1:]])

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Change what a step under way began with as it goes with the change of the state."""
        if int(memory.node) < 0:
            return memory
        return StepStart(memory.base + shift.previous, memory.noise + shift.noise, memory.node)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` where states are not clean + sigma * noise."""
        if not bool((grid.start.alpha == 1).all()):
            raise ValueError("DPMFast steps over the nodes of Sigmas; on a scheduler's use DPMSolverSinglestep")


@lru_cache
def _stages(orders: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each node, by what the change of the predicted noise enters, and whether it is a step's last.

    The first is of the length of the step, s - t; the second, of (s - t) / log(s / t) - t (DPM-Solver, eq. 3.8 and
    Algorithms 1 and 2, in sigma).
    """
    straight = {(2, 1): 1.0}
    curved = {(3, 1): 2.0, (3, 2): 1.5}
    places = [(order, i) for order in orders for i in range(order)]
    values = [[table.get(place, 0.0) for place in places] for table in (straight, curved)]
    return torch.tensor(values[0]), torch.tensor(values[1]), torch.tensor([i == order - 1 for order, i in places])
