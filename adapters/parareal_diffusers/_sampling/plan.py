"""`plan`: measurements of a sampling problem on this machine, and the settings chosen from them."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from parareal_diffusers._noise import Generators
from parareal_diffusers._sampling.advice import SamplingAdvisor
from parareal_diffusers._sampling.options import check_plan_tolerance
from parareal_diffusers._sampling.problem import prepare_problem
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
    """Choose the settings of `sample` for this machine by measurement and simulation.

    The latents are sampled once per candidate number of slices, to count the iterations that each sample needs. The
    network is timed with batches of several sizes. From both, every setting is simulated. What is measured is kept for
    the life of the process: `sample(..., slices="auto")` with the same model, solver, steps, coarse solver and
    tolerance uses it. The cost is a few times that of sampling the latents sequentially.

    Args:
        model: the network, as for `sample`.
        latents: noise of shape (samples, *sample), as for `sample`; a few samples that are typical of those to come.
        solver: a scheduler or a solver, as for `sample`.
        num_inference_steps: the number of steps, as for `sample`.
        model_kwargs: further arguments of the network, as for `sample`.
        tolerance: as for `sample`, but above 0.
        slices: the numbers of slices to run; by default up to four numbers near sqrt(N), where the span is least.
        generator: as for `sample`; a generator is copied, not advanced.
        progress: show a progress bar.
        options: further arguments of `sample`.

    Returns:
        A `parareal.Plan` for one sample at a time; `.explain()` describes the choice and its reasons.

    Raises:
        TypeError: for an option of `sample` that the plan chooses itself, or that rules out a tolerance.
        ValueError, TypeError: as `sample`.
    """
    for name in ("criterion", "boundaries", "levels", "speculate_until", "eager"):
        if name in options:
            raise TypeError(f"plan has no option {name!r}: leave it out, because plan chooses it or needs a tolerance")
    tolerance = check_plan_tolerance("tolerance", tolerance)
    arguments: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "model_kwargs": model_kwargs,
        "tolerance": tolerance,
        **options,
    }
    # `prepare_problem` takes the arguments that define the problem; the others only concern a run of `sample`. Names
    # are read from its signature, so that a new argument need not be listed here as well.
    problem_names = signature(prepare_problem).parameters
    problem = prepare_problem(
        model, latents, solver, **{name: x for name, x in arguments.items() if name in problem_names}
    )
    steps = problem.grid.steps
    slice_counts = slices or sorted({n for f in FACTORS if 1 < (n := round(f * steps**0.5)) <= steps} or {1})
    advice = SamplingAdvisor(problem, latents[:1])
    for count in tqdm(slice_counts, desc="plan", unit="solve", disable=not progress):
        # Every run gets the same noise, so that numbers of iterations differ by the slices alone.
        random = _copy_generators(generator)
        nodes = problem.boundaries(count)
        # Speculation would not change the iterations, only cost work.
        advice.learn(sample(model, latents, solver, boundaries=nodes, generator=random, speculate_until=1, **arguments))
    return advice.plan(1, **{name: options[name] for name in ("schedule", "window") if name in options})


def _copy_generators(generator: Generators) -> Generators:
    """Return new generators in the states of these; None, which stands for the global generator, stays None."""
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        copy = torch.Generator(generator.device)
        copy.set_state(generator.get_state())
        return copy
    return [copy for entry in generator if isinstance(copy := _copy_generators(entry), torch.Generator)]
