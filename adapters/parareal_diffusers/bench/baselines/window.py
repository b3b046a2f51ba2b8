"""Refinement of a trajectory in a sliding window of steps: the loop that ParaDiGMS and ParaTAA share.

States are float64, because the updates sum over many steps; the network gets its own dtype.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers._noise import posterior_variance
from parareal_diffusers._solvers.solver import start_step
from parareal_diffusers._solvers.step_interval import StepInterval
from parareal_diffusers.bench.cases.problems import SamplerParts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target


class CountingSampler:
    """The network and the solver's step on rows of one sample, with counts of calls, rows and the largest call."""

    def __init__(self, parts: SamplerParts):
        self.parts = parts
        self.calls = self.work = self.peak = 0

    def evaluate(self, x: Tensor, node: Tensor) -> Tensor:
        """Return the network's output for states of shape (R, *sample) at nodes of shape (R,)."""
        self.calls, self.work, self.peak = self.calls + 1, self.work + len(x), max(self.peak, len(x))
        with torch.no_grad():
            # The last argument is the sample of each row; the baselines run one sample at a time.
            return self.parts.denoiser(x, node, torch.zeros_like(node))

    def step(self, x: Tensor, start: Tensor, stop: Tensor, output: Tensor) -> Tensor:
        """Return the solver's steps, or jumps, between nodes of shape (R,), from the network's output for x.

        Raises:
            ValueError: if the solver makes more than one evaluation per step.
        """
        # The solver's step is a generator that yields its evaluation. The baselines have the output already, because
        # they evaluate a whole window before they step, so it is sent in.
        step = start_step(
            self.parts.solver, x, None, StepInterval(self.parts.grid, start, stop, torch.zeros_like(start), x)
        )
        next(step)
        try:
            step.send(output)
        except StopIteration as end:
            return end.value[0]
        raise ValueError(
            f"the solver {type(self.parts.solver).__name__} makes more than one evaluation per step: use DDIM"
        )


@final
@dataclass(frozen=True)
class Window:
    """States in the window, and one step from each, after the network's call for the nodes `head` to `end` - 1."""

    head: int
    """the first node of the window, whose state is final"""
    end: int
    """the last node of the window"""
    x: Tensor
    """states at the nodes head .. end, shape (steps + 1, *sample)"""
    next_states: Tensor
    """one step of the solver from each state but the last, shape (steps, *sample)"""


Update = Callable[[Window, int], Tensor]
"""returns new states at the nodes head + 1 .. end; the number is that of settled states from the head on"""
FindSettled = Callable[[Window], Tensor]
"""returns for each state at the nodes head + 1 .. end whether it is settled; booleans"""


def relative_change(old: Tensor, new: Tensor) -> Tensor:
    """Return the RMS of the difference over the RMS of the new state, per row."""
    return (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)


def slide(
    parts: SamplerParts, target: Target, window: int, update: Update, stop: Stop, find_settled: FindSettled
) -> Iterator[Iterate]:
    """Yield the iterates of the state at the window's end, until the window's head is at the end of the grid.

    Every state starts as a copy of its left neighbour. After an iteration the state next to the head is final, and so
    are the settled states that follow it. With the method's own rule the first state that is not settled is final, too,
    because the states from which it was computed are settled (ParaDiGMS, arXiv 2305.16317, Algorithm 1).
    """
    counter, steps = CountingSampler(parts), parts.grid.steps
    # Nothing is evaluated for the initial guess: all states are the initial noise.
    x = parts.latents.double().repeat(steps + 1, *[1] * (parts.latents.ndim - 1))
    head, iteration = 0, 0
    yield target.record(x[-1:], 0, 0, 0, 0, 0)
    while head < steps:
        end = min(head + window, steps)
        nodes = torch.arange(head, end, device=x.device)
        output = counter.evaluate(x[head:end], nodes)
        # x is overwritten below, and accelerations store the window's states, so the window gets a copy.
        current = Window(head, end, x[head : end + 1].clone(), counter.step(x[head:end], nodes, nodes + 1, output))
        iteration += 1
        if stop.rule == "own":
            # The papers judge the states before the update and move on by one more.
            num_settled = _count_leading(find_settled(current))
            new = update(current, num_settled)
            advance = min(1 + num_settled, end - head)
        else:
            new = update(current, 0)
            # An oracle needs no state to settle: only states that repeat exactly leave the window early.
            unchanged = relative_change(current.x[1:], new) <= (stop.tolerance if stop.rule == "increment" else 0)
            advance = max(1, _count_leading(unchanged))
        x[head + 1 : end + 1] = new
        x[end + 1 :] = x[end]  # states that enter the window later start from the newest state
        head += advance
        iterate = target.record(x[-1:], iteration, counter.calls, counter.work, counter.calls, counter.peak)
        yield iterate
        if stop.rule == "oracle" and iterate.error <= stop.tolerance:
            return


def _count_leading(flags: Tensor) -> int:
    """Return the number of set flags before the first that is not set."""
    return int(flags.long().cumprod(0).sum())


def posterior_deviations(parts: SamplerParts) -> Tensor:
    """Return the standard deviation of DDPM's posterior for every step but the first, then 0, shape (N,), float64.

    ParaDiGMS compares the change of the state after each step with it, for solvers of ODEs, too.
    """
    variance = posterior_variance(parts.grid.start, parts.grid.stop).double()
    return torch.cat([variance[1:], torch.zeros(1).to(variance)]).sqrt()
