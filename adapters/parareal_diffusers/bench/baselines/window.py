"""A trajectory that is refined in a sliding window of steps: what ParaDiGMS and ParaTAA have in common.

States are kept in float64, as sums over many steps ask for; the network is given its own dtype.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._noise import posterior_variance
from parareal_diffusers._solvers.solver import start_step
from parareal_diffusers._solvers.step_interval import StepInterval
from parareal_diffusers.bench.cases.problems import Parts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target


class Counted:
    """The network and the solver's step on rows of one sample; counts calls, rows and the largest call."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.calls = self.work = self.peak = 0

    def evaluate(self, x: Tensor, node: Tensor) -> Tensor:
        """Return the network's output for states of shape (R, *sample) at nodes of shape (R,)."""
        self.calls, self.work, self.peak = self.calls + 1, self.work + len(x), max(self.peak, len(x))
        with torch.no_grad():
            return self.parts.denoiser(x, node, torch.zeros_like(node))

    def step(self, x: Tensor, start: Tensor, stop: Tensor, output: Tensor) -> Tensor:
        """Return the solver's steps, or jumps, between nodes of shape (R,), given what the network said of x."""
        step = start_step(
            self.parts.solver, x, None, StepInterval(self.parts.grid, start, stop, torch.zeros_like(start), x)
        )
        next(step)
        try:
            step.send(output)
        except StopIteration as end:
            return end.value[0]
        raise ValueError(f"{type(self.parts.solver).__name__} makes more than one evaluation a step: use DDIM")


@final
@dataclass(frozen=True)
class Window:
    """What is known when the network has been called for the steps from node `front` to node `end`."""

    front: int
    """the first node whose state is final"""
    end: int
    x: Tensor
    """states at the nodes front .. end, shape (steps + 1, *sample)"""
    stepped: Tensor
    """one step of the solver from all but the last of them, shape (steps, *sample)"""


Update = Callable[[Window, int], Tensor]
"""makes the states at the nodes front + 1 .. end anew; the number is how many steps from the front have settled"""
Settled = Callable[[Window], Tensor]
"""says which of the states at the nodes front + 1 .. end need no more; booleans"""


def relative_change(old: Tensor, new: Tensor) -> Tensor:
    """Return the RMS of the change over the RMS of the new state, row by row."""
    return (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)


def slide(parts: Parts, target: Target, window: int, update: Update, stop: Stop, settled: Settled) -> Iterator[Iterate]:
    """Yield the iterates of the state at the window's end, until the window has come to the end of the grid.

    All states begin as copies of the one to the left. The state after the front is final after each iteration, and so
    are the states after it that have settled; by its own rule also the first that has not, for what it was made from
    has (ParaDiGMS, arXiv 2305.16317, Algorithm 1).
    """
    counted, steps = Counted(parts), parts.grid.steps
    x = parts.latents.double().repeat(steps + 1, *[1] * (parts.latents.ndim - 1))
    front, iteration = 0, 0
    yield target.iterate(x[-1:], 0, 0, 0, 0, 0)
    while front < steps:
        end = min(front + window, steps)
        nodes = torch.arange(front, end, device=x.device)
        output = counted.evaluate(x[front:end], nodes)
        seen = Window(front, end, x[front : end + 1].clone(), counted.step(x[front:end], nodes, nodes + 1, output))
        iteration += 1
        if stop.rule == "own":
            done = _leading(settled(seen))
            new = update(seen, done)
            front_moves = min(1 + done, end - front)
        else:
            new = update(seen, 0)
            still = relative_change(seen.x[1:], new) <= (stop.tolerance if stop.rule == "increment" else 0)
            front_moves = max(1, _leading(still))
        x[front + 1 : end + 1] = new
        x[end + 1 :] = x[end]
        front += front_moves
        found = target.iterate(x[-1:], iteration, counted.calls, counted.work, counted.calls, counted.peak)
        yield found
        if stop.rule == "oracle" and found.error <= stop.tolerance:
            return


def _leading(flags: Tensor) -> int:
    """Return how many flags from the first on are set."""
    return int(flags.long().cumprod(0).sum())


def posterior_deviations(parts: Parts) -> Tensor:
    """Return DDPM's posterior standard deviation of every step but the first, then 0, shape (N,), float64.

    It is what ParaDiGMS holds the errors of the states after each step against, those of ODE solvers too.
    """
    variance = posterior_variance(parts.grid.start, parts.grid.stop).double()
    return torch.cat([variance[1:], torch.zeros(1).to(variance)]).sqrt()
