"""Comparing a pipeline in parallel in time with itself as it was, over a few steps."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch

from parareal_diffusers._pipelines.families import Family
from parareal_diffusers._pipelines.settings import Settings

STEPS = 6
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # max abs of pictures on [0, 1], or of latents
HALF = 5e-2


@final
class Verifier:
    """Checks each kind of call once: by the arguments that are given, the scheduler and its options."""

    def __init__(self) -> None:
        self.seen: set[tuple[Any, ...]] = set()

    def check(
        self,
        pipe: Any,
        kind: type,
        family: Family,
        settings: Settings,
        given: Mapping[str, Any],
        run_parallel: Callable[[Settings, inspect.BoundArguments], Any],
    ) -> None:
        """Raise `ValueError` unless a short call gives in parallel what it gives step by step.

        Args:
            pipe: the pipeline.
            kind: its class as it was, whose `__call__` goes step by step.
            family: its networks, and how its loop counts.
            settings: of the calls to come.
            given: the arguments of the call to come.
            run_parallel: calls the pipeline in parallel in time, with other settings and arguments.
        """
        names = tuple(sorted(name for name, value in given.items() if value is not None))
        key = (names, type(pipe.scheduler), repr(sorted(pipe.scheduler.config.items(), key=lambda item: item[0])))
        if key in self.seen:
            return
        bound = self._short(kind, pipe, given)
        with _untouched(pipe, given):
            expected = arrays(kind.__call__(*bound.args, **bound.kwargs))
        to_the_end = replace(settings, **_to_the_end(family.counted))
        try:
            with _untouched(pipe, given):
                found = arrays(run_parallel(to_the_end, bound))
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{type(pipe).__name__} cannot be sampled in parallel in time: {error}") from error
        network = getattr(pipe, family.networks[0])
        allowed = TOLERANCE.get(network.dtype, HALF)
        same = len(expected) == len(found) and all(a.shape == b.shape for a, b in zip(expected, found, strict=True))
        error = (
            max((np.abs(a - b).max() for a, b in zip(expected, found, strict=True)), default=0.0) if same else np.inf
        )
        if not error <= allowed:
            raise ValueError(
                f"{type(pipe).__name__} gives something else in parallel in time than step by step (over {STEPS} steps "
                f"they differ by {error:.1e}): it changes its latents, or what it tells its network, by the step. "
                "Sample it without parallelize"
            )
        self.seen.add(key)

    def _short(self, kind: type, pipe: Any, given: Mapping[str, Any]) -> inspect.BoundArguments:
        signature = inspect.signature(kind.__call__)
        few: dict[str, Any] = {"callback_on_step_end": None}
        if not any(given.get(name) is not None for name in ("timesteps", "sigmas")):
            default = signature.parameters.get("num_inference_steps")
            steps = given.get("num_inference_steps", STEPS if default is None else default.default)
            strength = given.get("strength")
            few["num_inference_steps"] = min(steps, STEPS if strength is None else round(STEPS / max(strength, 0.1)))
        if "output_type" in signature.parameters:
            few["output_type"] = "np"
        own = next(iter(signature.parameters))
        kwargs = {**{k: v for k, v in given.items() if k not in (own, "kwargs")}, **few}
        known = {k: v for k, v in kwargs.items() if k in signature.parameters}
        return signature.bind(pipe, **known)


def _to_the_end(counted: bool) -> dict[str, Any]:
    """Return settings that end at the sequential answer, by passes that do not fall together with the steps.

    They do in the pipelined schedule: its pass i has in it step i of the exact solution, and so hides what a loop makes
    of the pass's number.
    """
    return {
        "tolerance": 0.0,
        "criterion": None,
        "max_iterations": None,
        "boundaries": None,
        "levels": None,
        "slices": "sqrt",
        "window": None,
        "schedule": "pipelined" if counted else "synchronous",
    }


@contextmanager
def _untouched(pipe: Any, given: Mapping[str, Any]) -> Iterator[None]:
    """Leave random numbers and the scheduler as they were."""
    found = [x for v in given.values() for x in (v if isinstance(v, list | tuple) else [v])]
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    scheduler, attributes = vars(pipe)["scheduler"], dict(vars(pipe))
    vars(pipe)["scheduler"] = copy.deepcopy(scheduler)
    vars(pipe)["_progress_bar_config"] = {"disable": True}
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        vars(pipe).clear()
        vars(pipe).update(attributes)


def arrays(output: Any) -> list[np.ndarray]:
    """Return the pictures in a pipeline's output, or its latents, as arrays."""
    if isinstance(output, torch.Tensor):
        return [output.detach().cpu().double().numpy()]
    if isinstance(output, np.ndarray):
        return [output.astype(np.float64)]
    if hasattr(output, "convert"):  # a picture of PIL
        return [np.asarray(output, dtype=np.float64) / 255]
    if isinstance(output, dict):
        return arrays(list(output.values()))
    if isinstance(output, list | tuple):
        return [x for item in output for x in arrays(item)]
    return []
