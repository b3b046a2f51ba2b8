"""CHORDS: a hierarchy of cores, each corrected by the slower core behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers.bench.baselines.window import CountingSampler, relative_change
from parareal_diffusers.bench.cases.problems import SamplerParts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

START_FRACTIONS = {4: (0.0, 0.16, 0.32, 0.64), 8: (0.0, 0.04, 0.08, 0.16, 0.32, 0.48, 0.64, 0.8)}
"""start nodes of the cores as fractions of the steps, by number of cores: eight as published for 50 steps (nodes 0, 2,
4, 8, 16, 24, 32 and 40), and four of these (0, 8, 16 and 32)"""


@final
@dataclass
class Core:
    """A solver on its way from its start node to the last node."""

    node: int
    x: Tensor
    """the state at `node`, shape (1, *sample)"""
    output: Tensor
    """the network's output for that state"""
    origin: tuple[int, Tensor, Tensor]
    """the point from which the next correction is computed: node, state, output. Set at the core's start and after each
    correction"""


class _Hierarchy:
    """The active cores, slowest first. In one tick every active core makes one evaluation and one step."""

    def __init__(self, parts: SamplerParts, starts: Sequence[int]):
        self.counter, self.steps, self.starts = CountingSampler(parts), parts.grid.steps, list(starts)
        nothing = torch.empty(0)  # replaced by the first evaluation
        self.cores = [Core(0, parts.latents, nothing, (0, parts.latents, nothing))]

    def tick(self) -> Tensor | None:
        """Advance all cores by one step, with one batched call.

        Returns:
            A result if this tick has one: the final state of the fastest core, or in the tick in which the last core
            starts to step, its jump to the end. None otherwise.
        """
        self._evaluate()
        last = self.cores[-1]
        all_started = len(self.cores) == len(self.starts) and last.node == self.starts[-1]
        # The jump reads the output at the start node, so it comes before `_advance` moves the core on.
        prediction = self._jump(last.x, last.output, last.node, self.steps) if all_started else None
        self._advance()
        return self.cores.pop().x if self.cores[-1].node == self.steps else prediction

    def _evaluate(self) -> None:
        """Evaluate the network on every core's state, in one call."""
        x = torch.cat([core.x for core in self.cores])
        nodes = torch.tensor([core.node for core in self.cores], device=x.device)
        outputs = self.counter.evaluate(x, nodes)
        for core, output in zip(self.cores, outputs.split(1), strict=True):
            core.output = output
            # A core that has just started or been corrected had only a borrowed output at its origin.
            if core.origin[0] == core.node:
                core.origin = (core.node, core.x, output)

    def _jump(self, x: Tensor, output: Tensor, start: int, stop: int) -> Tensor:
        """Return the solver's jump between two nodes with an output at hand, without an evaluation."""
        ends = torch.tensor([[start], [stop]], device=x.device)
        return self.counter.step(x, ends[0], ends[1], output)

    def _advance(self) -> None:
        """Step all cores, correct each core whose slower neighbour is at its origin, and start the next core."""
        # Every core must see its neighbour as it was before this tick, whatever the order of the updates.
        previous = [Core(core.node, core.x, core.output, core.origin) for core in self.cores]
        for i, (core, before) in enumerate(zip(self.cores, previous, strict=True)):
            core.node, core.x = before.node + 1, self._jump(before.x, before.output, before.node, before.node + 1)
            slower = previous[i - 1] if i else None
            if slower is not None and slower.node == before.origin[0]:
                # F - G + G', both jumps from the origin to the node that the core has just reached.
                old = self._jump(before.origin[1], before.origin[2], before.origin[0], core.node)
                core.x = core.x + self._jump(slower.x, slower.output, slower.node, core.node) - old
                core.origin = (core.node, core.x, core.output)
        last = previous[-1]
        if len(previous) < len(self.starts) and last.node == self.starts[len(previous) - 1]:
            node = self.starts[len(previous)]
            x = self._jump(last.x, last.output, last.node, node)
            self.cores.append(Core(node, x, last.output, (node, x, last.output)))


def chords(parts: SamplerParts, target: Target, stop: Stop, fractions: Sequence[float]) -> Sequence[Iterate]:
    """Run CHORDS (Han et al., ICCV 2025), a hierarchy of cores with later and later start nodes.

    Core i starts from a jump of the first state of core i - 1. When core i - 1 reaches the origin of core i, the state
    of core i becomes F - G + G', where G and G' are jumps from the old and the new state at the origin that reuse the
    network's outputs. The corrected state is the core's new origin. The fastest core's result comes first; the slowest
    core is the sequential solver.

    Args:
        parts: the problem, of one sample.
        target: its sequential final state.
        stop: the stop rule. The increment is the difference between the results of consecutive cores.
        fractions: start nodes of the cores as fractions of the steps, rising from 0. A core that would start less than
            two nodes after the one before has nothing to gain and is left out.

    Returns:
        The iterates: iterate 0, the jump from the fastest core's first state to the end, then the cores' results,
        fastest first.

    Raises:
        ValueError: if `fractions` do not rise from 0 to a number below 1.
    """
    if list(fractions) != sorted(set(fractions)) or fractions[0] != 0 or fractions[-1] >= 1:
        raise ValueError(f"fractions must rise from 0 and stay below 1, but were {list(fractions)}")
    hierarchy, iterates, previous = _Hierarchy(parts, _start_nodes(parts.grid.steps, fractions)), [], None
    while hierarchy.cores:
        x = hierarchy.tick()
        if x is None:
            continue
        counter = hierarchy.counter
        # A call holds each active core once, so calls are also the evaluations on the critical path.
        iterates.append(target.record(x, len(iterates), counter.calls, counter.work, counter.calls, counter.peak))
        unchanged = previous is not None and float(relative_change(previous, x)) <= stop.tolerance
        if unchanged if stop.rule == "increment" else iterates[-1].error <= stop.tolerance:
            break
        previous = x
    return iterates


def _start_nodes(steps: int, fractions: Sequence[float]) -> list[int]:
    """Return the cores' start nodes, without those closer than two nodes to the one before."""
    starts = [0]
    for node in (round(f * steps) for f in fractions):
        if node >= starts[-1] + 2:
            starts.append(node)
    return starts
