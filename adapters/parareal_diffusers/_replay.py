"""Random numbers of schedulers that draw them within their own `step`: the states of generators, step by step."""

import copy
from collections.abc import Sequence
from functools import cached_property, lru_cache
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._grid import Grid, per_row
from parareal_diffusers._noise import Generators, as_list, posterior


@final
class Replay:
    """What a scheduler's own loop draws, again, for one row of one step.

    One run of the loop on zeros, of the shape of the batch, records the generators' states before each step and leaves
    the generators where the sequential loop leaves them. What comes out of each of its steps, from zeros, is the noise
    that the step adds; coarse jumps get what these noises add up to, as if the decay between were that of the
    posterior (see `Noise`), which affects speed only.

    Args:
        scheduler: with its timesteps set.
        grid: its grid.
        latents: of the batch, (samples, *sample).
        generator: one, one a sample, or None for the global one.
    """

    def __init__(self, scheduler: Any, grid: Grid, latents: Tensor, generator: Generators):
        self.scheduler, self.like = scheduler, torch.zeros_like(latents)
        self.generators = as_list(generator, latents.device)
        self.decay = torch.nan_to_num(posterior(grid.start, grid.stop).decay.flatten(), 0.0, 0.0, 0.0).tolist()
        self.noise = lru_cache(64)(self._noise)
        self.jump = lru_cache(64)(self._jump)

    @property
    def copies(self) -> int:
        """How many samples draw from the same generator, side by side."""
        return len(self.like) if len(self.generators) == 1 else 1

    @cached_property
    def states(self) -> list[list[Tensor]]:
        """The generators' states before each step."""
        kept, scheduler = [], _begun(self.scheduler)
        for node in range(len(scheduler.timesteps)):
            kept.append([g.get_state() for g in self.generators])
            _zero_step(scheduler, node, self.like, self.generators)
        return kept

    def finish(self) -> None:
        """Leave the generators where the sequential loop does, also if no noise was needed."""
        _ = self.states

    def options(self, node: int, sample: int) -> dict[str, Any]:
        """Return the keyword argument of `step` by which a row draws what the loop draws for its sample's batch."""
        mine = self.states[node] if self.copies > 1 or len(self.generators) == 1 else [self.states[node][sample]]
        return {"generator": self._again(mine)}

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's jump, of shape (R, *sample), whatever its scale."""
        rows = zip(start.tolist(), stop.tolist(), sample.tolist(), strict=True)
        return torch.stack([self.jump(a, b)[i] for a, b, i in rows])

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, in the shape of `scale`."""
        found = [float(self.jump(a, b).square().mean().sqrt()) for a, b in zip(start.tolist(), stop.tolist())]
        return per_row(torch.tensor(found).to(scale), scale)

    def _jump(self, a: int, b: int) -> Tensor:
        total = torch.zeros_like(self.like)
        for i in range(a, b):
            total = self.decay[i] * total + self.noise(i)
        return total

    def _noise(self, node: int) -> Tensor:
        """Return what a step makes of zeros."""
        scheduler = _begun(self.scheduler, node)
        noise = _zero_step(scheduler, node, self.like, self._again(self.states[node]))
        return torch.nan_to_num(noise, 0.0, 0.0, 0.0)

    def _again(self, states: Sequence[Tensor]) -> Any:
        found = [torch.Generator(g.device).set_state(x) for g, x in zip(self.generators, states, strict=False)]
        return found[0] if len(found) == 1 else found


def takes_generator(scheduler: Any) -> bool:
    """Return whether a scheduler's step can be given a generator to draw from."""
    return "generator" in signature(scheduler.step).parameters


def _begun(scheduler: Any, node: int = 0) -> Any:
    """Return a copy that begins at a node."""
    scheduler = copy.deepcopy(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(node)
    return scheduler


def _zero_step(scheduler: Any, node: int, zeros: Tensor, generators: Any) -> Tensor:
    """Make one step from zeros, the network's output zero, too."""
    t = scheduler.timesteps[node]
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(zeros, t)
    if isinstance(generators, list) and len(generators) == 1:
        generators = generators[0]
    return scheduler.step(zeros, t, zeros, return_dict=False, generator=generators)[0]
