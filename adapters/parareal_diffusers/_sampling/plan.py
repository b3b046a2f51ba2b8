"""`plan`: measuring a sampling problem on this machine, and the setting that follows."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from parareal_diffusers._noise import Generators
from parareal_diffusers._sampling.advice import SampleAdvice
from parareal_diffusers._sampling.prepared import prepare
from parareal_diffusers._sampling.sample import sample

FACTORS = (0.7, 1.0, 1.5, 2.4)
"""numbers of slices to run, as multiples of the root of the number of steps"""


def plan(
    model: Callable[..., Any],
    latents: Tensor,
    solver: Any,
    *,
    num_inference_steps: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-2,
    slices: Sequence[int] | None = None,
    generator: Generators = None,
    progress: bool = False,
    **options: Any,
) -> parareal.Plan:
    """Measure what `sample` costs here, and choose: by runs with some numbers of slices, timed calls, and simulation.

    What is learned is kept for the process; `sample(..., slices="auto")` with the same model, solver, steps, coarse
    solver and tolerance uses it. Costs a few times the sequential solves of the latents.

    Args:
        model, latents, solver, num_inference_steps, model_kwargs, tolerance: as for `sample`; a few samples, that are
            like those to come.
        slices: numbers to try; by default some around the one of least span.
        generator: as for `sample`; it is not advanced.
        progress: show a bar.
        options: more arguments of `sample`.

    Returns:
        A `parareal.Plan`, for one sample at a time: `.explain()` says what to do and why.

    Raises:
        ValueError, TypeError: as `sample`.
    """
    for name in ("criterion", "boundaries", "levels", "speculate_until", "eager"):
        if name in options:
            raise TypeError(f"plan has no option {name!r}: it chooses that, or needs a tolerance")
    if not tolerance > 0:
        raise ValueError(f"plan needs a positive tolerance, got {tolerance}: a run to the end never pays on one device")
    given: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "model_kwargs": model_kwargs,
        "tolerance": tolerance,
        **options,
    }
    problem_options = signature(prepare).parameters
    ready = prepare(model, latents, solver, **{name: x for name, x in given.items() if name in problem_options})
    steps = ready.grid.steps
    counts = slices or sorted({n for f in FACTORS if 1 < (n := round(f * steps**0.5)) <= steps} or {1})
    advice = SampleAdvice(ready, latents[:1])
    for count in tqdm(counts, desc="plan", unit="solve", disable=not progress):
        random = _copy(generator)
        edges = ready.boundaries(count)
        advice.learn(sample(model, latents, solver, boundaries=edges, generator=random, speculate_until=1, **given))
    return advice.plan(1, **{name: options[name] for name in ("schedule", "window") if name in options})


def _copy(generator: Generators) -> Generators:
    """Return generators that stand where these do."""
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        copied = torch.Generator(generator.device)
        copied.set_state(generator.get_state())
        return copied
    return [g for given in generator if isinstance(g := _copy(given), torch.Generator)]
