"""What methods that call the network twice a step have in common: their steps go over two nodes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, Levels, per_row
from parareal_diffusers._noise import Linear
from parareal_diffusers._solvers.sigma.churn import Churn, check_churned
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval


class FirstStage(NamedTuple):
    """The step that a row is in the midst of; blank where a step begins."""

    base: Tensor
    """the state where the step began, shape (R, *sample)"""
    clean: Tensor
    """the clean sample predicted there, shape (R, *sample)"""
    node: Tensor
    """the node where the step began, int64 of shape (R,); -1 where there is no step under way"""


@dataclass(frozen=True)
class TwoStage(Solver):
    """A method of order two in sigma: even nodes begin a step, with Euler's step to the odd one after.

    States are clean + sigma * noise, or a flow's (1 - sigma) * clean + sigma * noise. Over several nodes it jumps as
    Euler's method does, and so it does over a last single one.
    """

    @abstractmethod
    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return dx / dsigma for the whole step, from what is known at its first and its second node.

        `memory` and `origin`, a sigma, are of the first node, `x`, `clean` and `sigma` of the second.
        """

    def noise_std(self, s: Levels, t: Levels, completes: Tensor) -> Tensor:
        """Return the standard deviation of the noise added at level t, of shape (R, 1, ..); by default none.

        `completes` says which rows complete a step.
        """
        return torch.zeros_like(t.sigma)

    def target_and_noise(self, s: Levels, interval: StepInterval, completes: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the sigma that each row goes down to from level s, (R, 1, ..), and the noise that is added there."""
        if not self.stochastic:
            return interval.t.sigma, 0.0
        up = interval.std(self.noise_std(s, interval.t, completes))
        return (interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5, interval.noise(up)

    def begin(self, x: Tensor) -> Memory:
        """Remember no step under way."""
        zero = torch.zeros_like(x)
        return FirstStage(zero, zero, torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one stage; one evaluation."""
        kept = interval.as_single_precision(x) if self.rounds_states(interval.grid) else x
        clean, _, _ = yield from interval.predict(x, kept)
        single = interval.stop == interval.start + 1
        completes = per_row((memory.node >= 0) & single, x)
        s = interval.level(torch.where(completes.flatten(), memory.node, interval.start))
        whole = self.slope(memory, s.sigma, kept, clean, interval.s.sigma)
        slope = torch.where(completes, whole, (kept - clean) / interval.s.sigma)
        down, noise = self.target_and_noise(s, interval, completes)
        new = torch.where(completes, memory.base, kept) + slope * (down - s.sigma) + noise
        begins = single & (memory.node < 0) & (interval.start % 2 == 0) & (interval.stop < interval.grid.steps)
        under_way, blank = per_row(begins, x), torch.zeros_like(x)
        base, clean = torch.where(under_way, kept, blank), torch.where(under_way, clean, blank)
        return new, FirstStage(base, clean, torch.where(begins, interval.start, -1))

    def rounds_states(self, grid: Grid) -> bool:
        """Whether the scheduler casts its states to float32, as those of flows do."""
        return not bool((grid.start.alpha == 1).all())

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Change what a step under way began with as it goes with the change of the state."""
        if int(memory.node) < 0:
            return memory
        return FirstStage(memory.base + shift.previous, memory.clean + shift.clean, memory.node)

    def base_nodes(self, grid: Grid) -> Sequence[int]:
        """Return the node from which every step starts: the even one."""
        return [i - i % 2 for i in range(grid.steps)]

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` where states are neither clean + sigma * noise nor, without noise, a flow's."""
        name, (alpha, sigma) = type(self).__name__, grid.start[1:]
        flow = bool((alpha + sigma - 1).abs().max() < 1e-5) and not self.stochastic
        if not bool((alpha == 1).all()) and not flow:
            raise ValueError(
                f"{name} steps over the nodes of Sigmas, of diffusers' schedulers in sigma with two stages a step and, "
                "without noise, over those of flows; on others use DPMSolver"
            )

    def linear(self, interval: StepInterval) -> Linear:
        """Say what a step does to its state, the predicted clean sample held fixed, and how much noise it adds."""
        up = self.noise_std(interval.s, interval.t, interval.rows(interval.stop % 2 == 0))
        return Linear((interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5 / interval.s.sigma, up)


@dataclass(frozen=True)
class Churning(TwoStage):
    """A method of two stages that may churn: noise is added where a step is completed, for the one to come."""

    churn: Churn | None = field(default=None, kw_only=True)

    @property
    def stochastic(self) -> bool:
        """Whether noise is added."""
        return self.churn is not None

    def target_and_noise(self, s: Levels, interval: StepInterval, completes: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return where each row goes down to, and the noise that is added there."""
        if self.churn is None:
            return super().target_and_noise(s, interval, completes)
        return self.churn.down_sigma(interval), interval.noise(self.churn.noise_std(interval))

    def linear(self, interval: StepInterval) -> Linear:
        """Say what a step does to its state, and how much noise it adds."""
        if self.churn is None:
            return super().linear(interval)
        return Linear(self.churn.target_sigma(interval) / interval.s.sigma, self.churn.noise_std(interval))

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` where it cannot churn."""
        super().check_fine(grid)
        if self.churn is not None:
            check_churned(grid)

    def initial_noise_std(self, grid: Grid) -> float | None:
        """Return by how much churn raises the latents."""
        return None if self.churn is None else self.churn.initial_noise_std(self.scheduler.values)

    def draws(self, grid: Grid) -> Tensor:
        """Draw noise where a step is completed and another follows."""
        nodes = torch.arange(1, grid.steps + 1)
        return (nodes % 2 == 0) & (nodes < grid.steps)
