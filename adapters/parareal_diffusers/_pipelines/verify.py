"""Verification of an unknown pipeline: a short parallel call is compared with the unmodified pipeline."""

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
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""largest absolute difference by the network's dtype, of images on [0, 1], or of latents if the output is latents"""
TOLERANCE_HALF = 5e-2
"""the same for all other dtypes"""


@final
class Verifier:
    """Verification of each kind of call, once: by the arguments that are set, the scheduler and its options."""

    def __init__(self) -> None:
        self.verified: set[tuple[Any, ...]] = set()

    def check(
        self,
        pipe: Any,
        kind: type,
        family: Family,
        settings: Settings,
        arguments: Mapping[str, Any],
        run_parallel: Callable[[Settings, inspect.BoundArguments], Any],
    ) -> None:
        """Raise `ValueError` unless a short parallel call gives the result of the sequential one.

        Args:
            pipe: the pipeline.
            kind: the pipeline's own class, whose `__call__` samples sequentially.
            family: its networks, and whether its loop uses the number of the pass.
            settings: the settings of the calls to come.
            arguments: the arguments of the call to come.
            run_parallel: calls the pipeline in parallel in time, with other settings and arguments.
        """
        names = tuple(sorted(name for name, value in arguments.items() if value is not None))
        key = (names, type(pipe.scheduler), repr(sorted(pipe.scheduler.config.items(), key=lambda item: item[0])))
        if key in self.verified:
            return
        bound = self._shorten(kind, pipe, arguments)
        with _preserve_state(pipe, arguments):
            expected = to_arrays(kind.__call__(*bound.args, **bound.kwargs))
        exact = replace(settings, **_exact_settings(family.indexes_by_pass))
        try:
            with _preserve_state(pipe, arguments):
                actual = to_arrays(run_parallel(exact, bound))
        # Stand-ins raise RuntimeError. A loop that indexes a list by the pass raises IndexError in later passes.
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{type(pipe).__name__} cannot be sampled in parallel in time ({error}): sample it without parallelize"
            ) from error
        network = getattr(pipe, family.networks[0])
        allowed = TOLERANCE.get(network.dtype, TOLERANCE_HALF)
        same = len(expected) == len(actual) and all(a.shape == b.shape for a, b in zip(expected, actual, strict=True))
        error = (
            max((np.abs(a - b).max() for a, b in zip(expected, actual, strict=True)), default=0.0) if same else np.inf
        )
        if not error <= allowed:  # also if it is NaN
            raise ValueError(
                f"{type(pipe).__name__} gives another result in parallel in time than sequentially (over {STEPS} steps "
                f"they differ by {error:.1e}, with {allowed:.0e} allowed): its loop changes its latents, or the inputs "
                "of its network, from step to step. Sample it without parallelize"
            )
        self.verified.add(key)

    def _shorten(self, kind: type, pipe: Any, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return the arguments of a short call that makes about `STEPS` steps and returns arrays."""
        signature = inspect.signature(kind.__call__)
        changes: dict[str, Any] = {"callback_on_step_end": None}
        if not any(arguments.get(name) is not None for name in ("timesteps", "sigmas")):
            default = signature.parameters.get("num_inference_steps")
            steps = arguments.get("num_inference_steps", STEPS if default is None else default.default)
            strength = arguments.get("strength")
            # Image-to-image makes the share `strength` of the steps.
            short = STEPS if strength is None else round(STEPS / max(strength, 0.1))
            changes["num_inference_steps"] = min(steps, short)
        if "output_type" in signature.parameters:
            changes["output_type"] = "np"
        self_name = next(iter(signature.parameters))
        kwargs = {**{k: v for k, v in arguments.items() if k not in (self_name, "kwargs")}, **changes}
        accepted = {k: v for k, v in kwargs.items() if k in signature.parameters}
        return signature.bind(pipe, **accepted)


def _exact_settings(indexes_by_pass: bool) -> dict[str, Any]:
    """Return settings that run to the sequential result, in passes that do not coincide with the steps.

    In the pipelined schedule pass i contains step i of the exact solution, which would hide that a loop uses the number
    of the pass. The synchronous schedule reveals it. It needs more passes than steps, so families whose loop is
    known to look something up by the pass are verified in the pipelined schedule.
    """
    return {
        "tolerance": 0.0,
        "criterion": None,
        "max_iterations": None,
        "boundaries": None,
        "levels": None,
        "slices": "sqrt",
        "window": None,
        "schedule": "pipelined" if indexes_by_pass else "synchronous",
    }


@contextmanager
def _preserve_state(pipe: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Restore random number generators, the scheduler and the pipeline's attributes at the end."""
    values = [x for v in arguments.values() for x in (v if isinstance(v, list | tuple) else [v])]
    states = [(g, g.get_state()) for g in values if isinstance(g, torch.Generator)]
    # All through `vars`, because setting an attribute of a pipeline writes components into its configuration.
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


def to_arrays(output: Any) -> list[np.ndarray]:
    """Return the images, or latents, in a pipeline's output as arrays of double precision."""
    if isinstance(output, torch.Tensor):
        return [output.detach().cpu().double().numpy()]
    if isinstance(output, np.ndarray):
        return [output.astype(np.float64)]
    if hasattr(output, "convert"):  # an image of PIL
        return [np.asarray(output, dtype=np.float64) / 255]
    if isinstance(output, dict):
        return to_arrays(list(output.values()))
    if isinstance(output, list | tuple):
        return [x for item in output for x in to_arrays(item)]
    return []
