"""DPM-Solver-fast: steps of order three, and lower orders at the end; order p costs p evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory, whole_number
from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._grid.sigmas import Sigmas, log_spaced
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


class StepStart(NamedTuple):
    """The start of a step of several stages, as memory between them; zero and -1 between steps."""

    base: Tensor
    """state at the start of the step, shape (R, *sample)"""
    noise: Tensor
    """noise predicted there, shape (R, *sample)"""
    node: Tensor
    """node where the step started, int64 of shape (R,); -1 if no step is in progress"""


@final
@dataclass(frozen=True)
class DPMFast(Solver):
    """DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927, Section 3.4), in sigma: k-diffusion's `sample_dpm_fast`.

    Steps between levels have order 3 (Algorithm 2 of the paper, r1 = 1/3 and r2 = 2/3), and the last ones lower orders
    (order 2 is Algorithm 1, r1 = 1/2). A step of order p has p nodes, evenly spaced in log sigma. No noise is added, as
    in `sample_dpm_fast` with its default eta = 0.

    Args:
        scheduler: `Sigmas`, which must end above zero unless the last step has order 1; not needed for a coarse solver,
            which makes Euler's step.
        ending: orders of the last steps; all steps before have order 3.

    Raises:
        ValueError: for orders other than 1, 2 and 3.
    """

    ending: Sequence[int] = (2, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ending", tuple(self.ending))
        if any(order not in (1, 2, 3) for order in self.ending):
            raise ValueError(f"ending must be orders 1, 2 or 3, as in (2, 1), but was {self.ending!r}")

    @staticmethod
    def evenly(evaluations: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> "DPMFast":
        """Return the solver with the paper's steps for a number of evaluations (Section 3.4), even in log sigma.

        Args:
            evaluations: total number of network evaluations.
            sigma_min: the last level.
            sigma_max: the first level.

        Raises:
            ValueError: unless 0 < sigma_min < sigma_max and evaluations >= 1.
        """
        whole_number("evaluations", evaluations, 1)
        levels = Sigmas(log_spaced(evaluations // 3 + 2, sigma_min, sigma_max))
        return DPMFast(levels, (evaluations % 3,) if evaluations % 3 else (2, 1))

    def begin(self, x: Tensor) -> Memory:
        """Return a memory without a step in progress."""
        zero = torch.zeros_like(x)
        return StepStart(zero, zero, torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one stage; one evaluation."""
        _, noise, _ = yield from interval.predict(x)
        single = interval.stop == interval.start + 1
        # A jump over several nodes abandons the step in progress and is one Euler step from where the row is.
        continues = (memory.node >= 0) & single
        in_progress = per_row(continues, x)
        base, first = torch.where(in_progress, memory.base, x), torch.where(in_progress, memory.noise, noise)
        origin = torch.where(continues, memory.node, interval.start)
        s, t = interval.level(origin).sigma, interval.t.sigma
        straight, curved, last = (
            x.to(interval.start.device)[interval.start] for x in _stages(self.orders(interval.grid.steps))
        )
        straight, curved = interval.rows(straight), interval.rows(curved)
        # dx / dsigma is the noise: Euler's step with the noise at the step's start, minus the correction by its change.
        bend = torch.where(curved > 0, curved * ((s - t) / (s / t).log() - t), straight * (s - t))
        new = base + (t - s) * first - torch.where(in_progress, bend, 0.0) * (noise - first)
        node = torch.where(single & ~last, origin, -1)
        unfinished = per_row(node >= 0, x)
        return new, StepStart(torch.where(unfinished, base, 0.0), torch.where(unfinished, first, 0.0), node)

    def orders(self, evaluations: int) -> tuple[int, ...]:
        """Return the orders of the solver's steps on a grid of N = `evaluations` steps, which are their stages.

        The grid may belong to another fine solver; then the orders need not add up, and all are 1.
        """
        ending = tuple(self.ending)
        threes, remainder = divmod(evaluations - sum(ending), 3)
        if threes >= 0 and not remainder:
            return (3,) * threes + ending
        # A grid with fewer steps than `ending` has only the last of its orders.
        cut = next((ending[i:] for i in range(1, len(ending)) if sum(ending[i:]) == evaluations), None)
        return (1,) * evaluations if cut is None else cut

    def base_nodes(self, grid: Grid) -> list[int]:
        """Return the node whose state each node's stage starts from: the first node of its step."""
        orders = self.orders(grid.steps)
        return [sum(orders[:i]) for i, order in enumerate(orders) for _ in range(order)]

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the nodes: starts and intermediate stages of the steps, and the last level."""
        count = len(sigmas) - 1
        orders = ((3,) * count + tuple(self.ending))[-count:] if len(self.ending) < count else self.ending[-count:]
        if float(sigmas[-1]) == 0 and orders[-1] > 1:
            raise ValueError(
                f"DPMFast cannot end at zero with a step of order {orders[-1]}, whose stages are spaced in log sigma: "
                "end above zero, as DPMFast.evenly does, or with a step of order 1, as in ending=(2, 1)"
            )
        parts = [
            torch.exp(torch.lerp(s.log(), t.log(), torch.arange(order) / order)) if order > 1 else s[None]
            for s, t, order in zip(sigmas, sigmas[1:], orders)
        ]
        return torch.cat([*parts, sigmas[-1:]])

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Correct the first state and noise of a step in progress with the increments that go with `change`."""
        if int(memory.node) < 0:  # no step is in progress; the memory has a single row here
            return memory
        return StepStart(memory.base + shift.previous, memory.noise + shift.noise, memory.node)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` unless states are clean + sigma * noise."""
        if not bool((grid.start.alpha == 1).all()):
            raise ValueError("DPMFast steps over the nodes of Sigmas only: with a scheduler use DPMSolverSinglestep")


@lru_cache
def _stages(orders: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return three tensors with one entry per stage: two weights, and whether the stage is the last of its step.

    The weights multiply the change in the predicted noise since the step's start. The first is the factor of s - t, the
    length of the step; the second, of (s - t) / log(s / t) - t. Both are those of DPM-Solver (arXiv 2206.00927, eq. 3.8
    and Algorithms 1 and 2), written in sigma.
    """
    # keys: (order of the step, number of the stage); all other stages are plain Euler steps
    straight = {(2, 1): 1.0}
    curved = {(3, 1): 2.0, (3, 2): 1.5}
    stages = [(order, i) for order in orders for i in range(order)]
    values = [[table.get(stage, 0.0) for stage in stages] for table in (straight, curved)]
    return torch.tensor(values[0]), torch.tensor(values[1]), torch.tensor([i == order - 1 for order, i in stages])
