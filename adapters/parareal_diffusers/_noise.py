"""Noise as a function of the step: what the sequential loop would draw from the same generator.

A generator's states are recorded once, in the order in which the sequential loop uses them, and noise is drawn again
from them whenever it is needed (small noise is kept itself). Slices, levels and schedule cannot change the noise.
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
KEPT_BYTES = 2**25  # bytes of noise that are kept at hand, for steps and for jumps


class NoiseSource(Protocol):
    """The noise of the steps and jumps of a batch: `Noise`, or `Replay` of a scheduler's own."""

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's step or jump; arguments as of `Noise`."""
        ...

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, in the shape of `scale`."""
        ...

    def finish(self) -> None:
        """Leave the generators where the sequential loop does, also if no noise was needed."""
        ...


class Linear(NamedTuple):
    """Steps with their predicted clean samples held fixed: x -> decay * x + .. + std * noise."""

    decay: Tensor
    """shape (R, 1)"""
    std: Tensor
    """shape (R, 1)"""


def posterior_variance(s: Levels, t: Levels) -> Tensor:
    """Return the variance of x_t given x_s and the clean sample (DDPM, arXiv 2006.11239, eq. 7)."""
    variance = (1 - t.alpha_cumprod) / (1 - s.alpha_cumprod) * (1 - s.alpha_cumprod / t.alpha_cumprod)
    return variance.clamp(min=0)


def posterior(s: Levels, t: Levels) -> Linear:
    """Return DDPM's step with the posterior's variance (arXiv 2006.11239, eq. 7); SDE-DPM-Solver++(1) is the same."""
    decay = (s.alpha / t.alpha) * (t.sigma / s.sigma) ** 2
    return Linear(decay, posterior_variance(s, t) ** 0.5)


@final
class Tape:
    """Standard noise for a batch, step by step, as one generator, or one a sample, draws it.

    Recording, which happens once, at the first draw, draws all noise and so leaves the generators where the
    sequential loop leaves them. With None the global generator of the device is recorded, which diffusers draws from.

    Args:
        generator: one, one a sample, or None.
        shape: of the batch, (samples, *sample).
        device: of the noise; a generator on the CPU draws there, as in diffusers.
        dtype: in which the scheduler draws.
        steps: those that draw, rising.
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
    def kept(self) -> dict[int, list[Tensor]]:
        """What is kept of each step that draws: the generators' states before, or the noise if that is smaller."""
        kept = {}
        for step in self.steps:
            states, noises = zip(*((g.get_state(), self._draw(g)) for g in self.generators), strict=True)
            kept[step] = list(states if self.replays else noises)
        return kept

    @cached_property
    def replays(self) -> bool:
        """Whether noise is drawn again from states, which are smaller than the noise."""
        states = sum(g.get_state().nbytes for g in self.generators)
        return states < self.dtype.itemsize * math.prod(self.shape)

    def draw(self, step: int) -> Tensor:
        """Return the noise of a step: shape (samples, *sample), zero for a step that draws none."""
        if step not in self.kept:
            return torch.zeros(self.shape, device=self.device, dtype=self.dtype)
        noises = self.kept[step]
        if self.replays:
            again = zip(self.generators, noises, strict=True)
            noises = [self._draw(torch.Generator(g.device).set_state(state)) for g, state in again]
        return torch.cat(noises)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Draw what one generator gives for a step: noise for its own sample, or for all."""
        samples = self.shape[0] if len(self.generators) == 1 else 1
        return randn_tensor((samples, *self.shape[1:]), generator, self.device, self.dtype)


@final
class SampledTape:
    """Standard noise for a batch from k-diffusion's kind of `noise_sampler`, step by step.

    It is asked once for each step, in the order of the sequential loop, and all that it says is kept: it need not be a
    function of its arguments.

    Args:
        noise_sampler: called as `noise_sampler(sigma, sigma_next)`, tensors without dimensions.
        like: latents, (samples, *sample).
        spans: from which sigma to which each step goes that draws noise, in order.
    """

    def __init__(self, noise_sampler: NoiseSampler, like: Tensor, spans: Mapping[int, tuple[Tensor, Tensor]]):
        self.noise_sampler, self.like, self.spans = noise_sampler, like, spans
        self.shape, self.device, self.dtype, self.steps = tuple(like.shape), like.device, like.dtype, list(spans)

    @cached_property
    def kept(self) -> dict[int, Tensor]:
        """The noise of each step that draws."""
        return {step: self._checked(self.noise_sampler(*span)) for step, span in self.spans.items()}

    def draw(self, step: int) -> Tensor:
        """Return the noise of a step: shape (samples, *sample), zero for a step that draws none."""
        return self.kept[step] if step in self.kept else torch.zeros_like(self.like)

    def _checked(self, noise: Any) -> Tensor:
        if not isinstance(noise, Tensor) or noise.shape != self.like.shape:
            raise ValueError(f"noise_sampler must return noise of the latents' shape {self.shape}")
        return noise.to(self.like)


@final
class Noise:
    """The noise that a stochastic fine solver adds, for its own steps and for jumps over many of them.

    A jump from node a to node b gets what the steps' noises add up to if the predicted clean sample is held fixed,
    the sum over i of std_i * (decay_{i+1} .. decay_{b-1}) * z_i. It has exactly the variance of one DDPM step from a to
    b where each step has the posterior's (docs/explained/history-and-noise.md).

    Args:
        tape: with the noise of every step that draws any.
        linear: `decay` and `std` of every step: N numbers each.
        base: the node whose state each step starts from, of length N.
    """

    def __init__(self, tape: Tape | SampledTape, linear: Linear, base: Sequence[int]):
        decay, std = (x.double().flatten().tolist() for x in linear)
        drawing = set(tape.steps)
        scales = [s if i in drawing else 0.0 for i, s in enumerate(std)]
        kept = lru_cache(max(1, KEPT_BYTES // (tape.dtype.itemsize * math.prod(tape.shape))))
        self.weights = lru_cache(None)(partial(_weights, scales, decay, list(base)))
        self.tape, self.step = tape, kept(tape.draw)
        self.jump = kept(partial(_jump, tape, self.step, self.weights))

    def __call__(self, start: Tensor, stop: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
        """Return the noise of each row's step or jump, shape (R, *sample); `scale` multiplies that of single steps.

        `start`, `stop` and `sample` are int64 of shape (R,), `scale` has shape (R, 1, ..) or (R, *sample).
        """
        rows = zip(start.tolist(), stop.tolist(), sample.tolist(), strict=True)
        noise = torch.stack([(self.step(a) if b == a + 1 else self.jump(a, b))[i] for a, b, i in rows])
        return noise * torch.where(_single(start, stop, scale), scale, 1.0)

    def finish(self) -> None:
        """Leave the generators where the sequential loop does, also if no noise was needed."""
        _ = self.tape.kept

    def std(self, start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
        """Return the standard deviation of each row's noise, `scale` for single steps."""
        ends = zip(start.tolist(), stop.tolist(), strict=True)
        jumps = torch.tensor([0.0 if b == a + 1 else math.hypot(*self.weights(a, b)) for a, b in ends])
        return torch.where(_single(start, stop, scale), scale, per_row(jumps.to(scale), scale))


def _weights(scales: list[float], decay: list[float], base: list[int], a: int, b: int) -> list[float]:
    """Return by how much the standard noise of each step a .. b-1 enters the state at node b."""
    reach = {b: 1.0}  # what a change at a node does at node b
    weights = [0.0] * (b - a)
    for i in range(b - 1, a - 1, -1):
        arrives = reach.get(i + 1, 0.0)
        weights[i - a] = arrives * scales[i]
        reach[base[i]] = reach.get(base[i], 0.0) + arrives * decay[i]
    return weights


def _jump(tape: Tape | SampledTape, step: Callable[[int], Tensor], weights: JumpWeights, a: int, b: int) -> Tensor:
    """Return what the noises of the steps a .. b-1 add up to at node b."""
    dtype = torch.promote_types(tape.dtype, torch.float32)  # a sum of many in half precision would lose its small ones
    total = torch.zeros(tape.shape, device=tape.device, dtype=dtype)
    for i, weight in enumerate(weights(a, b), start=a):
        if weight:
            total += weight * step(i)
    return total


def _single(start: Tensor, stop: Tensor, scale: Tensor) -> Tensor:
    """Say which rows make a single step, in the shape of their scale."""
    return per_row(stop == start + 1, scale)


def as_list(generator: Generators, device: torch.device) -> list[torch.Generator]:
    """Return generators as a list: torch's global one for None."""
    if generator is None:
        return [_default_generator(device)]
    return [generator] if isinstance(generator, torch.Generator) else list(generator)


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    if not hasattr(module, "default_generators"):
        raise ValueError(f"generator=None: torch does not show its global generator for {device.type}; give one")
    module.init()
    index = module.current_device() if device.index is None else device.index
    return module.default_generators[index]
