"""Random numbers of schedulers that draw them within their own `step`: the states of generators, step by step."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._noise import Generators, as_list, posterior
from parareal_diffusers._schedulers.snapshot import path_of, takes_generator


@final
class Replay:
    """What a scheduler's own loop draws, again, for one row of one step.

    One run of the loop on zeros, of the shape of the batch, records the generators' states before each step and leaves
    the generators where the sequential loop leaves them. What comes out of each of its steps, from zeros, is the noise
    that the step adds, and is kept; coarse jumps get what these noises add up to, as if the decay between were that of
    the posterior (see `Noise`), which affects speed only.

    Args:
        scheduler: with its timesteps set.
        grid: its grid.
        latents: of the batch, (samples, *sample).
        generator: one, one a sample, or None for the global one.
        within: the steps that the loop makes.
        options: further arguments of its step.
    """

    def __init__(
        self,
        scheduler: Any,
        grid: Grid,
        latents: Tensor,
        generator: Generators,
        within: range,
        options: Mapping[str, Any],
    ):
        self.scheduler, self.like = scheduler, torch.zeros_like(latents)
        self.within, self.given = within, options
        self.generator, self.generators = generator, as_list(generator, latents.device)
        self.decay = torch.nan_to_num(posterior(grid.start, grid.stop).decay.flatten(), 0.0, 0.0, 0.0).tolist()
        self.jump = lru_cache(64)(self._jump)

    @property
    def copies(self) -> int:
        """How many samples draw from the same generator, side by side."""
        return len(self.like) if len(self.generators) == 1 or self.path is not None else 1

    @cached_property
    def path(self) -> Any:
        """The Brownian path of the whole batch, where the scheduler has one; seeded as in the sequential loop."""
        return path_of(self.scheduler, self.like, self.generator, self.given)

    @cached_property
    def states(self) -> dict[int, list[Tensor]]:
        """The generators' states before each step."""
        return {node: states for node, (states, _) in self._recorded.items()}

    @cached_property
    def _recorded(self) -> dict[int, tuple[list[Tensor], Tensor]]:
        """The generators' states before each step, and the noise that the step adds.

        That is measured with a scheduler that begins where the step, or its cycle of calls, begins: what others
        remember of earlier noise would be counted again.
        """
        kept, order = {}, int(getattr(self.scheduler, "order", 1))
        scheduler = self._begun(self.within.start)
        fresh = scheduler
        for node in self.within:
            states = [g.get_state() for g in self.generators]
            self._from_zeros(scheduler, node, self.generators)
            if node % order == 0:
                fresh = self._begun(node)
            noise = self._from_zeros(fresh, node, self._again(states))
            kept[node] = states, torch.nan_to_num(noise, 0.0, 0.0, 0.0)
        return kept

    def _from_zeros(self, scheduler: Any, node: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Return what a step makes of zeros, the network's output being zero, too."""
        t = scheduler.timesteps[node]
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(self.like, t)
        given = {"generator": _one_or_all(generators)} if takes_generator(scheduler) else {}
        return scheduler.step(self.like, t, self.like, return_dict=False, **given, **self.given)[0]

    def _begun(self, node: int) -> Any:
        """Return a copy of the scheduler that begins at a node."""
        path, scheduler = self.path, copy.deepcopy(self.scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(node)
        if path is not None:
            scheduler.noise_sampler = path
        return scheduler

    def finish(self) -> None:
        """Leave the generators where the sequential loop does, also if no noise was needed."""
        _ = self._recorded

    def options(self, node: int, sample: int) -> dict[str, Any]:
        """Return the keyword argument of `step` by which a row draws what the loop draws for its sample's batch."""
        if self.path is not None:
            return {}
        mine = self.states[node] if self.copies > 1 or len(self.generators) == 1 else [self.states[node][sample]]
        return {"generator": _one_or_all(self._again(mine))}

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
            total = self.decay[i] * total + self._recorded[i][1]
        return total

    def _again(self, states: Sequence[Tensor]) -> list[torch.Generator]:
        return [torch.Generator(g.device).set_state(x) for g, x in zip(self.generators, states, strict=False)]


def _one_or_all(generators: Sequence[torch.Generator]) -> Any:
    return generators[0] if len(generators) == 1 else list(generators)
