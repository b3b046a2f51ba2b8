"""Noise of schedulers that draw it within their own `step`, reproduced from recorded generator states."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._grid.grid import Grid, per_row
from parareal_diffusers._noise import CACHE_BYTES, Generators, as_list, posterior
from parareal_diffusers._schedulers.snapshot import brownian_path_of, takes_generator


@final
class SchedulerRecord:
    """The generators' states before each step of a scheduler's own loop, and the noise that each step adds.

    One run of the loop on zeros, of the shape of the batch, records the states and leaves the generators where the
    sequential loop leaves them. If a step starts from zeros and the network's output is zero too, its result is the
    noise that the step adds. This noise is not stored, but computed again from the states.

    Args:
        scheduler, latents, generator, steps, options: as of `Replay`.
    """

    def __init__(
        self,
        scheduler: Any,
        latents: Tensor,
        generator: Generators,
        steps: range,
        options: Mapping[str, Any],
    ):
        self.scheduler, self.zeros = scheduler, torch.zeros_like(latents)
        self.steps, self.options = steps, options
        # Both forms are needed: as the user passed it for a path's seed, and as a list for the states.
        self.generator, self.generators = generator, as_list(generator, latents.device)

    @cached_property
    def path(self) -> Any:
        """The Brownian path of the whole batch, seeded as in the sequential loop; None for a scheduler without one."""
        return brownian_path_of(self.scheduler, self.zeros, self.generator, self.options)

    @cached_property
    def states(self) -> dict[int, list[Tensor]]:
        """The generators' states before each step."""
        # Computed on first use: until then nothing has been drawn from the user's generators.
        states, scheduler = {}, self._copy_at(self.steps.start)
        for node in self.steps:
            states[node] = [g.get_state() for g in self.generators]
            self._step_from_zeros(scheduler, node, self.generators)
        return states

    def noise(self, node: int) -> Tensor:
        """Return the noise that a step adds, of shape (samples, *sample)."""
        states, order = self.states, int(getattr(self.scheduler, "order", 1))
        # The copy starts at this step, or at the first call of its cycle. After earlier steps a multistep scheduler
        # would still hold their noise, and the result would contain it again.
        first = max(self.steps.start, node - node % order)
        scheduler = self._copy_at(first)
        for i in range(first, node):
            self._step_from_zeros(scheduler, i, self.restore_generators(states[i]))
        result = self._step_from_zeros(scheduler, node, self.restore_generators(states[node]))
        # From a zero state, a step that divides by zero returns NaN. Coarse jumps, the only users of this noise, then
        # get zero noise for this step.
        return torch.nan_to_num(result, 0.0, 0.0, 0.0)

    def restore_generators(self, states: Sequence[Tensor]) -> list[torch.Generator]:
        """Return new generators in these states, so that the user's own are not advanced."""
        # Not strict, because `Replay.step_options` passes the state of a single sample's generator.
        return [torch.Generator(g.device).set_state(x) for g, x in zip(self.generators, states, strict=False)]

    def _step_from_zeros(self, scheduler: Any, node: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the result of a step whose state and network output are zero."""
        t = scheduler.timesteps[node]
        # The scaled input is of no use here, but some schedulers look their step up in this call, or warn without it.
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(self.zeros, t)
        generator_option = {"generator": _one_or_all(generators)} if takes_generator(scheduler) else {}
        return scheduler.step(self.zeros, t, self.zeros, return_dict=False, **generator_option, **self.options)[0]

    def _copy_at(self, node: int) -> Any:
        """Return a copy of the scheduler that begins at a node."""
        # The path is made first, because making it draws from the generators, as the loop does before its first step.
        path, scheduler = self.path, copy.deepcopy(self.scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(node)
        if path is not None:
            scheduler.noise_sampler = path
        return scheduler


@final
class Replay:
    """The noise of a scheduler's own loop, reproduced for any row and step.

    The noise of a coarse jump is the sum of the noises of its steps, each propagated by the decays of the steps after
    it. The decays are those of the posterior (see `Noise`). They need not be the scheduler's own, because the noise of
    coarse jumps affects speed only.

    Args:
        scheduler: with its timesteps set.
        grid: its grid.
        latents: shape (samples, *sample).
        generator: one, one per sample, or None for the global one.
        steps: the steps that the loop makes.
        options: further keyword arguments of the scheduler's `step`.
    """

    def __init__(
        self,
        scheduler: Any,
        grid: Grid,
        latents: Tensor,
        generator: Generators,
        steps: range,
        options: Mapping[str, Any],
    ):
        self.record = SchedulerRecord(scheduler, latents, generator, steps, options)
        decay = torch.nan_to_num(posterior(grid.start, grid.stop).decay.flatten(), 0.0, 0.0, 0.0).tolist()
        # The caches wrap functions that do not refer to this object, so that it is freed with the solve, without the
        # garbage collector. Each holds at most `CACHE_BYTES`, or one entry.
        cache = lru_cache(max(1, CACHE_BYTES // max(1, latents.nbytes)))
        self.jump = cache(partial(_sum_noise, self.record.zeros, cache(self.record.noise), decay))

    @property
    def copies(self) -> int:
        """The number of rows in a step: all samples if they draw from one generator or path together, else 1."""
        record = self.record
        return len(record.zeros) if len(record.generators) == 1 or record.path is not None else 1

    @property
    def path(self) -> Any:
        """The Brownian path of the whole batch; None for a scheduler without one."""
        return self.record.path

    def finish(self) -> None:
        """Leave the generators where the sequential loop leaves them, also if no noise was needed."""
        _ = self.record.states

    def step_options(self, node: int, sample: int) -> dict[str, Any]:
        """Return the argument `generator` with which `scheduler.step` draws the loop's noise for a sample."""
        record = self.record
        if record.path is not None:
            return {}
        states = record.states[node]
        needed = states if len(record.generators) == 1 else [states[sample]]
        return {"generator": _one_or_all(record.restore_generators(needed))}

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's jump, of shape (R, *sample), whatever its scale."""
        ends = list(zip(start.tolist(), stop.tolist(), strict=True))
        jumps = {key: self.jump(*key) for key in sorted(set(ends))}  # sorted: neighbours share the noise of steps
        return torch.stack([jumps[key][i] for key, i in zip(ends, sample.tolist(), strict=True)])

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, in the shape of `scale`."""
        ends = list(zip(start.tolist(), stop.tolist(), strict=True))
        sizes = {key: float(self.jump(*key).square().mean().sqrt()) for key in sorted(set(ends))}
        return per_row(torch.tensor([sizes[key] for key in ends]).to(scale), scale)


def _sum_noise(zeros: Tensor, noise: Callable[[int], Tensor], decay: Sequence[float], a: int, b: int) -> Tensor:
    """Return the sum of the noises of the steps a .. b-1 at node b."""
    total = torch.zeros_like(zeros)
    for i in range(a, b):
        total = decay[i] * total + noise(i)
    return total


def _one_or_all(generators: Sequence[torch.Generator]) -> Any:
    """Return a single generator, or a list of several, as `randn_tensor` of diffusers takes them."""
    return generators[0] if len(generators) == 1 else list(generators)
