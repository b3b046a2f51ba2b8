"""Refusals before any work, of calls that would silently give wrong pictures: each names the reason and the way out."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from parareal_diffusers._pipelines.families import Family
from parareal_diffusers._pipelines.settings import Settings, loop_method
from parareal_diffusers._pipelines.stand_ins.network import is_compiled
from parareal_diffusers._pipelines.stand_ins.replicas import check_replicable
from parareal_diffusers._pipelines.stand_ins.scheduler import with_steps
from parareal_diffusers._sampling.noise_source import check_noise_dtype
from parareal_diffusers._schedulers.native import check_supported_scheduler


def check_pipeline(pipe: Any) -> None:
    """Raise unless a pipeline may be parallelized, whatever it is called with."""
    if not isinstance(pipe, DiffusionPipeline):
        raise TypeError(f"parallelize takes a pipeline of diffusers, not {type(pipe).__name__}")
    if hasattr(type(pipe), "_parareal_handle"):
        raise ValueError("the pipeline is parallelized already: call disable() of that handle before")
    if getattr(pipe, "scheduler", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no scheduler, whose steps could be made in parallel")
    check_supported_scheduler(pipe.scheduler)


def check_call(pipe: Any, family: Family, given: Mapping[str, Any], devices: bool) -> None:
    """Raise `ValueError` for a call that cannot be right; `devices`, on several."""
    check_supported_scheduler(pipe.scheduler)
    for name in family.networks:
        network: Any = getattr(pipe, name, None)
        check_network(name, network)
        if devices:
            check_replicable(name, network, is_compiled(network))
    reasons = [
        _old_callback(given),
        _callback_object(given),
        _callback_inputs(given),
        *(refuse(pipe, given) for refuse in family.refusals),
    ]
    for reason in filter(None, reasons):
        raise ValueError(f"{type(pipe).__name__}: {reason}")


def check_network(name: str, network: Any) -> None:
    """Raise `ValueError` for a network that remembers something from step to step."""
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"the {name} must be a torch module, not {type(network).__name__}")
    network = getattr(network, "_orig_mod", network)
    cached = getattr(network, "is_cache_enabled", False)
    if cached or any(_remembers(module) for module in network.modules()):
        raise ValueError(
            f"the {name} keeps outputs from step to step (a step cache), and passes are not steps: call its "
            "disable_cache() first"
        )
    replaced = "forward" in vars(network) and not hasattr(network, "_hf_hook")
    if replaced and not hasattr(network, "_diffusers_hook"):
        raise ValueError(
            f"the {name}'s forward has been replaced, as step caches do (DeepCache, cache-dit and the like): take that "
            "off first"
        )


def check_scheduler(
    settings: Settings, step_options: Mapping[str, Any], scheduler: Any, steps: int, dtype: torch.dtype
) -> None:
    """Raise errors that speak against a scheduler, with a number of steps and a network's dtype.

    Errors of the scheduler's own code are left to the pipeline's call, which raises them too.
    """
    options = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting", False) else {}
    try:
        prepared = with_steps(scheduler, steps, **options)
    except Exception:
        return
    method = loop_method(settings, step_options, prepared, 0, len(prepared.timesteps), whole=True)
    check_noise_dtype(method.fine, dtype, torch.promote_types(dtype, torch.float32))


def _remembers(module: torch.nn.Module) -> bool:
    """Return whether one of diffusers' hooks on a module has a state, as those of step caches have."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and any(getattr(hook, "_is_stateful", False) for hook in registry.hooks.values())


def _old_callback(given: Mapping[str, Any]) -> str | None:
    if given.get("callback") is None:
        return None
    return "callback is given the loop's latents, which are rows of many steps: use callback_on_step_end"


def _callback_object(given: Mapping[str, Any]) -> str | None:
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

    callback = given.get("callback_on_step_end")
    if not isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        return None
    return (
        f"{type(callback).__name__} changes the pipeline at a step, and passes are not steps: use a function that only "
        "looks, or sample without parallelize"
    )


def _callback_inputs(given: Mapping[str, Any]) -> str | None:
    asked = given.get("callback_on_step_end_tensor_inputs") or ["latents"]
    if given.get("callback_on_step_end") is None or set(asked) <= {"latents"}:
        return None
    more = ", ".join(name for name in asked if name != "latents")
    return (
        f"callback_on_step_end_tensor_inputs asks for {more}, which are the same in every step unless the callback "
        "changes them by the step, and passes are not steps: ask for latents only, which it may look at, or sample "
        "without parallelize (handle.disable())"
    )
