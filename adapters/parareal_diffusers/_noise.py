"""Noise as a function of the step: the noise that the sequential loop would draw from the same generator.

A generator's states are recorded once, in the order in which the sequential loop uses them. The noise of a step is then
drawn again from its state whenever it is needed; noise that is smaller than a state is stored itself. Slices, levels
and schedule therefore cannot change the noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple, Protocol, final

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from parareal_diffusers._grid.grid import Levels, per_row

Generators = torch.Generator | Sequence[torch.Generator] | None
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
JumpWeights = Callable[[int, int], list[float]]
CACHE_BYTES = 2**25  # limit of each of two caches, of the noise of steps and of jumps; each holds one entry at least


class NoiseSource(Protocol):
    """The noise of the steps and jumps of a batch: `Noise`, or `Replay` for the noise that a scheduler draws itself."""

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's step or jump; see `Noise` for the arguments."""
        ...

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, in the shape of `scale`."""
        ...

    def finish(self) -> None:
        """Advance the generators to the states in which the sequential loop leaves them, even if nothing was drawn."""
        ...


class Linear(NamedTuple):
    """Coefficients of a step x -> decay * x + ... + std * noise, with its predicted clean sample held fixed."""

    decay: Tensor
    """factor of the state, shape (R, 1)"""
    std: Tensor
    """standard deviation of the added noise, shape (R, 1)"""


def posterior_variance(s: Levels, t: Levels) -> Tensor:
    """Return the variance of x_t given x_s and the clean sample (DDPM, arXiv 2006.11239, eq. 7)."""
    variance = (1 - t.alpha_cumprod) / (1 - s.alpha_cumprod) * (1 - s.alpha_cumprod / t.alpha_cumprod)
    return variance.clamp(min=0)


def posterior(s: Levels, t: Levels) -> Linear:
    """Return DDPM's step with the posterior variance (arXiv 2006.11239, eq. 7); SDE-DPM-Solver++(1) is the same."""
    decay = (s.alpha / t.alpha) * (t.sigma / s.sigma) ** 2
    return Linear(decay, posterior_variance(s, t) ** 0.5)


@final
class RecordedNoise:
    """Standard noise of a batch for every step, as one generator, or one generator per sample, draws it.

    The first draw records all steps, once. It draws all the noise and so leaves the generators where the sequential
    loop leaves them. With `generator=None` the global generator of the device is recorded, as diffusers draws from it.

    Args:
        generator: one generator, one per sample, or None for the global generator.
        shape: shape of the batch, (samples, *sample).
        device: device of the noise. A generator on the CPU draws on the CPU, as in diffusers.
        dtype: dtype in which the scheduler draws.
        steps: the steps that draw noise, in rising order.
    """

    def __init__(
        self,
        generator: Generators,
        shape: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        steps: Sequence[int],
    ):
        self.shape, self.device, self.dtype, self.steps = tuple(shape), device, dtype, steps
        self.generators = as_list(generator, device)

    @cached_property
    def entries(self) -> dict[int, list[Tensor]]:
        """The record of each step that draws: the generators' states before the draw, or the noise if smaller."""
        entries = {}
        # Step after step, and within a step generator after generator: the order of the sequential loop. A generator
        # that is listed several times (`[generator] * n`) draws for one sample after the other.
        for step in self.steps:
            states, noises = zip(*((g.get_state(), self._draw(g)) for g in self.generators), strict=True)
            entries[step] = list(states if self.replays else noises)
        return entries

    @cached_property
    def replays(self) -> bool:
        """Whether noise is drawn again from recorded states, because they are smaller than the noise."""
        states = sum(g.get_state().nbytes for g in self.generators)
        return states < self.dtype.itemsize * math.prod(self.shape)

    def draw(self, step: int) -> Tensor:
        """Return the noise of a step, shape (samples, *sample); zero for a step that draws none."""
        if step not in self.entries:
            return torch.zeros(self.shape, device=self.device, dtype=self.dtype)
        noises = self.entries[step]
        if self.replays:
            # Fresh generators: the caller's own must stay where the recording left them.
            pairs = zip(self.generators, noises, strict=True)
            noises = [self._draw(torch.Generator(g.device).set_state(state)) for g, state in pairs]
        return torch.cat(noises)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Draw a step's noise from one generator.

        It is drawn for the whole batch if there is only one generator, otherwise for the sample that the generator
        belongs to.

        One call per generator and step, with the loop's shape, because a generator's numbers depend on the shape drawn.
        """
        samples = self.shape[0] if len(self.generators) == 1 else 1
        return randn_tensor((samples, *self.shape[1:]), generator, self.device, self.dtype)


@final
class RecordedNoiseSampler:
    """Standard noise of a batch for every step, from a `noise_sampler` as in k-diffusion.

    The sampler is called once per step, in the order of the sequential loop, and all its results are stored, because it
    need not be a function of its arguments.

    Args:
        noise_sampler: called as `noise_sampler(sigma, sigma_next)` with tensors without dimensions.
        like: latents, shape (samples, *sample).
        spans: the pair (sigma, sigma_next) of each step that draws noise, in order.
    """

    def __init__(self, noise_sampler: NoiseSampler, like: Tensor, spans: Mapping[int, tuple[Tensor, Tensor]]):
        self.noise_sampler, self.like, self.spans = noise_sampler, like, spans
        self.shape, self.device, self.dtype, self.steps = tuple(like.shape), like.device, like.dtype, list(spans)

    @cached_property
    def entries(self) -> dict[int, Tensor]:
        """The noise of each step that draws."""
        return {step: self._check_noise(self.noise_sampler(*span)) for step, span in self.spans.items()}

    def draw(self, step: int) -> Tensor:
        """Return the noise of a step, shape (samples, *sample); zero for a step that draws none."""
        return self.entries[step] if step in self.entries else torch.zeros_like(self.like)

    def _check_noise(self, noise: Any) -> Tensor:
        if not isinstance(noise, Tensor) or noise.shape != self.like.shape:
            returned = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
            raise ValueError(
                f"noise_sampler must return noise of the latents' shape {self.shape}, but returned {returned}"
            )
        return noise.to(self.like)


@final
class Noise:
    """The noise of a stochastic fine solver, for its own steps and for jumps over many of them.

    A jump from node a to node b gets the sum of the noises of its steps, with the predicted clean sample held fixed:
    the sum over i of std_i * (decay_{i+1} .. decay_{b-1}) * z_i (docs/explained/history-and-noise.md, eq. 14). If every
    step has the posterior variance, the sum has exactly the variance of one DDPM step from a to b.

    Args:
        record: the standard noise of every step that draws any.
        linear: `decay` and `std` of every step, N numbers each.
        base: the node whose state each step starts from, N nodes.
    """

    def __init__(self, record: RecordedNoise | RecordedNoiseSampler, linear: Linear, base: Sequence[int]):
        decay, std = (x.double().flatten().tolist() for x in linear)
        drawing = set(record.steps)
        scales = [s if i in drawing else 0.0 for i, s in enumerate(std)]
        # Bounded, because the noise of all steps is N times the batch. Coarse jumps recur in every iteration.
        cache = lru_cache(max(1, CACHE_BYTES // (record.dtype.itemsize * math.prod(record.shape))))
        self.weights = lru_cache(None)(partial(_compute_weights, scales, decay, list(base)))
        self.record, self.step = record, cache(record.draw)
        self.jump = cache(partial(_jump, record, self.step, self.weights))

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's step or jump, shape (R, *sample).

        Args:
            start: nodes, int64 of shape (R,).
            stop: nodes, int64 of shape (R,).
            sample: index of each row's sample in the batch, int64 of shape (R,).
            scale: factor of the standard noise of single steps, shape (R, 1, ...) or (R, *sample). Jumps ignore it,
                because the scales of their steps are in the sum already.
        """
        rows = zip(start.tolist(), stop.tolist(), sample.tolist(), strict=True)
        noise = torch.stack([(self.step(a) if b == a + 1 else self.jump(a, b))[i] for a, b, i in rows])
        return noise * torch.where(_is_single(start, stop, scale), scale, 1.0)

    def finish(self) -> None:
        """Advance the generators to the states in which the sequential loop leaves them, even if nothing was drawn."""
        _ = self.record.entries

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise: `scale` for single steps, that of the sum for jumps."""
        ends = zip(start.tolist(), stop.tolist(), strict=True)
        jumps = torch.tensor([0.0 if b == a + 1 else math.hypot(*self.weights(a, b)) for a, b in ends])
        return torch.where(_is_single(start, stop, scale), scale, per_row(jumps.to(scale), scale))


def _compute_weights(scales: list[float], decay: list[float], base: list[int], a: int, b: int) -> list[float]:
    """Return the weight with which the standard noise of each step a .. b-1 enters the state at node b.

    Computed by a backward sweep. The product in eq. (14) assumes that each step starts where the one before ended. All
    steps of a cycle start from the cycle's first node instead, so the noise of its inner steps does not reach its end.
    """
    reach = {b: 1.0}  # per node: the factor with which a perturbation of its state arrives at node b
    weights = [0.0] * (b - a)
    for i in range(b - 1, a - 1, -1):
        arrives = reach.get(i + 1, 0.0)
        weights[i - a] = arrives * scales[i]
        reach[base[i]] = reach.get(base[i], 0.0) + arrives * decay[i]
    return weights


def _jump(
    record: RecordedNoise | RecordedNoiseSampler,
    step: Callable[[int], Tensor],
    weights: JumpWeights,
    a: int,
    b: int,
) -> Tensor:
    """Return the weighted sum at node b of the noises of the steps a .. b-1, shape (samples, *sample)."""
    # A sum of many terms in half precision would lose the small ones.
    dtype = torch.promote_types(record.dtype, torch.float32)
    total = torch.zeros(record.shape, device=record.device, dtype=dtype)
    for i, weight in enumerate(weights(a, b), start=a):
        if weight:
            total += weight * step(i)
    return total


def _is_single(start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
    """Return which rows make a single step, booleans in the shape of `scale`."""
    return per_row(stop == start + 1, scale)


def as_list(generator: Generators, device: torch.device) -> list[torch.Generator]:
    """Return generators as a list; None stands for torch's global generator of the device."""
    if generator is None:
        return [_default_generator(device)]
    return [generator] if isinstance(generator, torch.Generator) else list(generator)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    if not hasattr(module, "default_generators"):
        raise ValueError(
            f"generator is None, but torch does not expose its global generator for {device.type}: pass a generator"
        )
    module.init()  # the list of generators is empty until the device has been initialised
    index = module.current_device() if device.index is None else device.index
    return module.default_generators[index]
