"""Base classes of methods with two evaluations per step, whose steps span two nodes."""

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
    """The first stage of a step, as memory for the second; zero and -1 between steps."""

    base: Tensor
    """state at the start of the step, shape (R, *sample)"""
    clean: Tensor
    """clean sample predicted there, shape (R, *sample)"""
    node: Tensor
    """node where the step started, int64 of shape (R,); -1 if no step is in progress"""


@dataclass(frozen=True)
class TwoStage(Solver):
    """A second-order method in sigma with two stages per step.

    The first stage, from an even node to the next, is an Euler step. The second starts from the step's first state
    again, with the method's own slope. States are clean + sigma * noise, or a flow's (1 - sigma) * clean +
    sigma * noise. A jump over several nodes is an Euler step, and so is a last step of a single node.
    """

    @abstractmethod
    def slope(self, memory: FirstStage, origin: Tensor, x: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Return the slope dx / dsigma for the whole step.

        Args:
            memory: state and predicted clean sample at the step's first node.
            origin: sigma at the first node, shape (R, 1, ...).
            x: states at the second node, shape (R, *sample).
            clean: clean samples predicted there, shape (R, *sample).
            sigma: sigma there, shape (R, 1, ...).
        """

    def noise_std(self, s: Levels, t: Levels, completes: Tensor) -> Tensor:
        """Return the standard deviation of the noise added at level t, shape (R, 1, ...); zero by default.

        Args:
            s: levels at the starts of the steps.
            t: levels where the rows arrive.
            completes: whether a row completes a step, rather than its first stage.
        """
        return torch.zeros_like(t.sigma)

    def target_and_noise(self, s: Levels, interval: StepInterval, completes: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the sigma that each row aims at from level s, shape (R, 1, ...), and the noise that is added there."""
        if not self.stochastic:
            return interval.t.sigma, 0.0
        up = interval.std(self.noise_std(s, interval.t, completes))
        return (interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5, interval.noise(up)

    def begin(self, x: Tensor) -> Memory:
        """Return a memory without a step in progress."""
        zero = torch.zeros_like(x)
        return FirstStage(zero, zero, torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one stage; one evaluation."""
        # Schedulers of flows cast states to float32, but give the network the state as it is.
        state = interval.as_single_precision(x) if self.rounds_states(interval.grid) else x
        clean, _, _ = yield from interval.predict(x, state)
        # A jump over several nodes abandons the step in progress.
        single = interval.stop == interval.start + 1
        # The second stage follows its own first stage only, not after a jump or in a slice that starts without memory.
        completes = per_row((memory.node >= 0) & single, x)
        s = interval.level(torch.where(completes.flatten(), memory.node, interval.start))
        whole = self.slope(memory, s.sigma, state, clean, interval.s.sigma)
        slope = torch.where(completes, whole, (state - clean) / interval.s.sigma)
        down, noise = self.target_and_noise(s, interval, completes)
        new = torch.where(completes, memory.base, state) + slope * (down - s.sigma) + noise
        # A last stage that no second stage follows is a plain Euler step, so nothing is stored for it.
        begins = single & (memory.node < 0) & (interval.start % 2 == 0) & (interval.stop < interval.grid.steps)
        in_progress, zero = per_row(begins, x), torch.zeros_like(x)
        base, clean = torch.where(in_progress, state, zero), torch.where(in_progress, clean, zero)
        return new, FirstStage(base, clean, torch.where(begins, interval.start, -1))

    def rounds_states(self, grid: Grid) -> bool:
        """Return whether the scheduler casts states to float32, as the schedulers of flows do."""
        return not bool((grid.start.alpha == 1).all())

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Correct the first state and prediction of a step in progress with the increments that go with `change`."""
        if int(memory.node) < 0:  # no step is in progress; the memory has a single row here
            return memory
        return FirstStage(memory.base + shift.previous, memory.clean + shift.clean, memory.node)

    def base_nodes(self, grid: Grid) -> Sequence[int]:
        """Return the node whose state each node's stage starts from: the even one."""
        return [i - i % 2 for i in range(grid.steps)]

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` unless states are clean + sigma * noise or, without added noise, a flow's."""
        name, (alpha, sigma) = type(self).__name__, grid.start[1:]
        # The ancestral noise formula holds for states clean + sigma * noise only.
        flow = bool((alpha + sigma - 1).abs().max() < 1e-5) and not self.stochastic
        if not bool((alpha == 1).all()) and not flow:
            raise ValueError(
                f"{name} steps over the nodes of Sigmas, of diffusers' schedulers in sigma with two stages per step "
                "and, without noise, of flows: with other schedulers use DPMSolver"
            )

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps, with the predicted clean sample held fixed."""
        # Here an interval is a whole step, or its first stage, which ends at an odd node.
        up = self.noise_std(interval.s, interval.t, interval.rows(interval.stop % 2 == 0))
        return Linear((interval.t.sigma**2 - up**2).clamp(min=0) ** 0.5 / interval.s.sigma, up)


@dataclass(frozen=True)
class TwoStageChurn(TwoStage):
    """A two-stage method with optional churn: noise for the next step is added at the end of each step."""

    churn: Churn | None = field(default=None, kw_only=True)

    @property
    def stochastic(self) -> bool:
        """Whether noise is added: with churn."""
        return self.churn is not None

    def target_and_noise(self, s: Levels, interval: StepInterval, completes: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the sigma that each row aims at, and the noise that is added there."""
        if self.churn is None:
            return super().target_and_noise(s, interval, completes)
        return self.churn.down_sigma(interval), interval.noise(self.churn.noise_std(interval))

    def linear(self, interval: StepInterval) -> Linear:
        """Return the steps as linear maps, with the predicted clean sample held fixed."""
        if self.churn is None:
            return super().linear(interval)
        return Linear(self.churn.target_sigma(interval) / interval.s.sigma, self.churn.noise_std(interval))

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` for churn on a grid that does not come from `Sigmas`."""
        super().check_fine(grid)
        if self.churn is not None:
            check_churned(grid)

    def initial_noise_std(self, grid: Grid) -> float | None:
        """Return the standard deviation of the noise by which churn raises the latents; None without churn."""
        return None if self.churn is None else self.churn.initial_noise_std(self.scheduler.values)

    def draws(self, grid: Grid) -> Tensor:
        """Return for each node whether the stage from there adds noise: it ends a step, and not the last one."""
        nodes = torch.arange(1, grid.steps + 1)
        return (nodes % 2 == 0) & (nodes < grid.steps)
