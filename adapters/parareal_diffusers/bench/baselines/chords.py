"""CHORDS: a hierarchy of cores, each corrected by the slower one behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from parareal_diffusers.bench.baselines.window import Counted, relative_change
from parareal_diffusers.bench.cases.problems import Parts
from parareal_diffusers.bench.cases.record import Iterate, Stop, Target

STARTS = {4: (0.0, 0.16, 0.32, 0.64), 8: (0.0, 0.04, 0.08, 0.16, 0.32, 0.48, 0.64, 0.8)}
"""where cores begin, as fractions of the steps: eight as published for 50 steps (0, 2, 4, 8, 16, 24, 32, 40), and four
of these (0, 8, 16, 32)"""


@final
@dataclass
class Core:
    """A solver on its way from its first node to the last."""

    node: int
    x: Tensor
    """the state there, shape (1, *sample)"""
    output: Tensor
    """what the network said of it"""
    origin: tuple[int, Tensor, Tensor]
    """where it was last put: node, state, output"""


class _Hierarchy:
    """The cores under way, slowest first, on a clock of one evaluation each a tick."""

    def __init__(self, parts: Parts, starts: Sequence[int]):
        self.counted, self.steps, self.starts = Counted(parts), parts.grid.steps, list(starts)
        nothing = torch.empty(0)
        self.cores = [Core(0, parts.latents, nothing, (0, parts.latents, nothing))]

    def tick(self) -> Tensor | None:
        """Make one call, and return a result if there is one: the fastest core's state at the end, or a jump to it."""
        self._evaluate()
        last = self.cores[-1]
        complete = len(self.cores) == len(self.starts) and last.node == self.starts[-1]
        sketch = self._jump(last.x, last.output, last.node, self.steps) if complete else None
        self._advance()
        return self.cores.pop().x if self.cores[-1].node == self.steps else sketch

    def _evaluate(self) -> None:
        """Ask the network about every core's state, in one call."""
        x = torch.cat([core.x for core in self.cores])
        nodes = torch.tensor([core.node for core in self.cores], device=x.device)
        outputs = self.counted.evaluate(x, nodes)
        for core, output in zip(self.cores, outputs.split(1), strict=True):
            core.output = output
            if core.origin[0] == core.node:
                core.origin = (core.node, core.x, output)

    def _jump(self, x: Tensor, output: Tensor, start: int, stop: int) -> Tensor:
        """Return a jump that makes do with an output there is."""
        ends = torch.tensor([[start], [stop]], device=x.device)
        return self.counted.step(x, ends[0], ends[1], output)

    def _advance(self) -> None:
        """Step all cores; correct those whose origin the slower core has come to; start the next core by a jump."""
        seen = [Core(core.node, core.x, core.output, core.origin) for core in self.cores]
        for i, (core, now) in enumerate(zip(self.cores, seen, strict=True)):
            core.node, core.x = now.node + 1, self._jump(now.x, now.output, now.node, now.node + 1)
            slower = seen[i - 1] if i else None
            if slower is not None and slower.node == now.origin[0]:
                old = self._jump(now.origin[1], now.origin[2], now.origin[0], core.node)
                core.x = core.x + self._jump(slower.x, slower.output, slower.node, core.node) - old
                core.origin = (core.node, core.x, core.output)
        last = seen[-1]
        if len(seen) < len(self.starts) and last.node == self.starts[len(seen) - 1]:
            node = self.starts[len(seen)]
            x = self._jump(last.x, last.output, last.node, node)
            self.cores.append(Core(node, x, last.output, (node, x, last.output)))


def chords(parts: Parts, target: Target, stop: Stop, fractions: Sequence[float]) -> Sequence[Iterate]:
    """Run CHORDS (Han et al., ICCV 2025), a hierarchy of cores that start further and further on.

    Core i starts from a jump of core i - 1's first state. Wherever core i - 1 comes to where core i was last put, core
    i's state becomes F - G + G', with G and G' jumps from there that use the network's outputs again, and there it
    counts as put. The fastest core's result comes first; the slowest core is the sequential solver.

    Args:
        parts: what to sample, of one sample.
        target: its sequential final state.
        stop: the increment is that of one core's result to the next one's.
        fractions: where cores start, as fractions of the steps, rising from 0; less than two nodes after the one before
            a core would have nothing to gain, and is left out.

    Returns:
        Iterate 0, a jump from the fastest core's first state to the end, and the cores' results, fastest first.
    """
    if list(fractions) != sorted(set(fractions)) or fractions[0] != 0 or fractions[-1] >= 1:
        raise ValueError(f"fractions must rise from 0 and stay below 1, got {list(fractions)}")
    run, found, before = _Hierarchy(parts, _starts(parts.grid.steps, fractions)), [], None
    while run.cores:
        x = run.tick()
        if x is None:
            continue
        counted = run.counted
        found.append(target.iterate(x, len(found), counted.calls, counted.work, counted.calls, counted.peak))
        still = before is not None and float(relative_change(before, x)) <= stop.tolerance
        if still if stop.rule == "increment" else found[-1].error <= stop.tolerance:
            break
        before = x
    return found


def _starts(steps: int, fractions: Sequence[float]) -> list[int]:
    starts = [0]
    for node in (round(f * steps) for f in fractions):
        if node >= starts[-1] + 2:
            starts.append(node)
    return starts
