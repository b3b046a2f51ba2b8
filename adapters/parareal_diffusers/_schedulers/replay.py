"""Random numbers of schedulers that draw them within their own `step`: the states of generators, step by step."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._noise import CACHE_BYTES, Generators, as_list, posterior
from parareal_diffusers._schedulers.snapshot import path_of, takes_generator


@final
class Recording:
    """The generators' states before each step of a scheduler's own loop, and the noise that each step adds.

    One run of the loop on zeros, of the shape of the batch, records the states and leaves the generators where the
    sequential loop leaves them. The output of a step from zeros, the network's output being zero too, is the noise that
    the step adds; it is made again from the states whenever it is needed. Arguments are those of `Replay`.
    """

    def __init__(
        self,
        scheduler: Any,
        latents: Tensor,
        generator: Generators,
        within: range,
        options: Mapping[str, Any],
    ):
        self.scheduler, self.like = scheduler, torch.zeros_like(latents)
        self.within, self.given = within, options
        self.generator, self.generators = generator, as_list(generator, latents.device)

    @cached_property
    def path(self) -> Any:
        """The Brownian path of the whole batch, where the scheduler has one; seeded as in the sequential loop."""
        return path_of(self.scheduler, self.like, self.generator, self.given)

    @cached_property
    def states(self) -> dict[int, list[Tensor]]:
        """The generators' states before each step."""
        states, scheduler = {}, self._begun(self.within.start)
        for node in self.within:
            states[node] = [g.get_state() for g in self.generators]
            self._from_zeros(scheduler, node, self.generators)
        return states

    def noise(self, node: int) -> Tensor:
        """Return the noise that a step adds, of shape (samples, *sample).

        The scheduler begins where the step, or its cycle of calls, begins: noise that others remember of earlier steps
        would be counted again.
        """
        states, order = self.states, int(getattr(self.scheduler, "order", 1))
        first = max(self.within.start, node - node % order)
        scheduler = self._begun(first)
        for i in range(first, node):
            self._from_zeros(scheduler, i, self.again(states[i]))
        return torch.nan_to_num(self._from_zeros(scheduler, node, self.again(states[node])), 0.0, 0.0, 0.0)

    def again(self, states: Sequence[Tensor]) -> list[torch.Generator]:
        """Return generators in these states."""
        return [torch.Generator(g.device).set_state(x) for g, x in zip(self.generators, states, strict=False)]

    def _from_zeros(self, scheduler: Any, node: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the output of a step from zeros."""
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


@final
class Replay:
    """The noise of a scheduler's own loop, again, for one row of one step.

    Coarse jumps get what the noises of their steps add up to, as if the decay between were that of the posterior (see
    `Noise`), which affects speed only.

    Args:
        scheduler: with its timesteps set.
        grid: its grid.
        latents: of the batch, (samples, *sample).
        generator: one, one per sample, or None for the global one.
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
        self.recording = Recording(scheduler, latents, generator, within, options)
        decay = torch.nan_to_num(posterior(grid.start, grid.stop).decay.flatten(), 0.0, 0.0, 0.0).tolist()
        kept = lru_cache(max(1, CACHE_BYTES // max(1, latents.nbytes)))
        self.jump = kept(partial(_jump, self.recording.like, kept(self.recording.noise), decay))

    @property
    def copies(self) -> int:
        """The number of samples that draw from the same generator, side by side."""
        recording = self.recording
        return len(recording.like) if len(recording.generators) == 1 or recording.path is not None else 1

    @property
    def path(self) -> Any:
        """The Brownian path of the whole batch, where the scheduler has one."""
        return self.recording.path

    def finish(self) -> None:
        """Leave the generators where the sequential loop does, also if no noise was needed."""
        _ = self.recording.states

    def options(self, node: int, sample: int) -> dict[str, Any]:
        """Return the keyword argument of `step` by which a row draws what the loop draws for its sample's batch."""
        recording = self.recording
        if recording.path is not None:
            return {}
        states = recording.states[node]
        mine = states if self.copies > 1 or len(recording.generators) == 1 else [states[sample]]
        return {"generator": _one_or_all(recording.again(mine))}

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's jump, of shape (R, *sample), whatever its scale."""
        ends = list(zip(start.tolist(), stop.tolist(), strict=True))
        jumps = {key: self.jump(*key) for key in sorted(set(ends))}  # in order: neighbours share the noise of steps
        return torch.stack([jumps[key][i] for key, i in zip(ends, sample.tolist(), strict=True)])

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, in the shape of `scale`."""
        ends = list(zip(start.tolist(), stop.tolist(), strict=True))
        sizes = {key: float(self.jump(*key).square().mean().sqrt()) for key in sorted(set(ends))}
        return per_row(torch.tensor([sizes[key] for key in ends]).to(scale), scale)


def _jump(like: Tensor, noise: Callable[[int], Tensor], decay: Sequence[float], a: int, b: int) -> Tensor:
    """Return the sum of the noises of the steps a .. b-1 at node b."""
    total = torch.zeros_like(like)
    for i in range(a, b):
        total = decay[i] * total + noise(i)
    return total


def _one_or_all(generators: Sequence[torch.Generator]) -> Any:
    return generators[0] if len(generators) == 1 else list(generators)
