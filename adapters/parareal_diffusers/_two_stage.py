"""What Heun's method and the midpoint method have in common: a step in two calls of the network, at two nodes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal_diffusers._grid import Grid, per_row
from parareal_diffusers._leg import Leg
from parareal_diffusers._noise import Linear
from parareal_diffusers._solver import Shift, Solver


class Stage(NamedTuple):
    """The step that a row is in the midst of; blank where a step begins."""

    base: Tensor
    """the state where the step began, shape (R, *sample)"""
    clean: Tensor
    """the clean sample predicted there, shape (R, *sample)"""
    node: Tensor
    """the node where the step began, int64 of shape (R,); -1 where there is no step under way"""


@dataclass(frozen=True)
class TwoStage(Solver):
    """A method of order two in sigma, whose steps go over two nodes: nodes with even numbers begin a step.

    States are clean + sigma * noise, or a flow's (1 - sigma) * clean + sigma * noise. Over several nodes it jumps with
    order 1, and so it does over a last single one.
    """

    @abstractmethod
    def whole(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the slope of a whole step from those at its two nodes."""

    def begin(self, x: Tensor) -> Any:
        """Remember no step under way."""
        zero = torch.zeros_like(x)
        return Stage(zero, zero, torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Any, leg: Leg) -> Any:
        """Advance every row by one stage; one evaluation."""
        kept = leg.as_single_precision(x) if self.rounds(leg.grid) else x
        clean, _, _ = yield from leg.predict(x, kept)
        slope = (kept - clean) / leg.s.sigma
        single = leg.stop == leg.start + 1
        completes = per_row((memory.node >= 0) & single, x)
        origin = leg.level(torch.where(completes.flatten(), memory.node, leg.start)).sigma
        slope = torch.where(completes, self.whole((memory.base - memory.clean) / origin, slope), slope)
        new = torch.where(completes, memory.base, kept) + slope * (leg.t.sigma - origin)
        begins = single & (memory.node < 0) & (leg.start % 2 == 0) & (leg.stop < leg.grid.steps)
        under_way, blank = per_row(begins, x), torch.zeros_like(x)
        base, clean = torch.where(under_way, kept, blank), torch.where(under_way, clean, blank)
        return new, Stage(base, clean, torch.where(begins, leg.start, -1))

    def rounds(self, grid: Grid) -> bool:
        """Whether the scheduler casts its states to float32, as those of flows do."""
        return not bool((grid.start.alpha == 1).all())

    def correct(self, memory: Any, change: Tensor, shift: Shift) -> Any:
        """Change what a step under way began with as it goes with the change of the state."""
        if int(memory.node) < 0:
            return memory
        return Stage(memory.base + shift.previous, memory.clean + shift.clean, memory.node)

    def bases(self, grid: Grid) -> Sequence[int]:
        """Return the node from which every step starts: the even one."""
        return [i - i % 2 for i in range(grid.steps)]

    def suits(self, grid: Grid) -> None:
        """Raise `ValueError` where states are neither clean + sigma * noise nor a flow's."""
        name, (alpha, sigma) = type(self).__name__, grid.start[1:]
        if not bool((alpha == 1).all()) and not bool((alpha + sigma - 1).abs().max() < 1e-5):
            raise ValueError(
                f"{name} steps over the nodes of the {name} schedulers, of Sigmas, or of flows; on others use DPMSolver"
            )

    def linear(self, leg: Leg) -> Linear:
        """Say what a step does to its state, the predicted clean sample held fixed: it adds no noise."""
        return Linear(leg.t.sigma / leg.s.sigma, torch.zeros_like(leg.t.sigma))

