"""Refusals, before any work, of calls that would silently give wrong images; each names the reason and the remedy."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from parareal.driver import Layout
from parareal_diffusers._pipelines.families import Family
from parareal_diffusers._pipelines.settings import Settings, set_up_loop
from parareal_diffusers._pipelines.stand_ins.network import is_compiled
from parareal_diffusers._pipelines.stand_ins.replicas import check_replicable
from parareal_diffusers._pipelines.stand_ins.scheduler import copy_with_steps
from parareal_diffusers._sampling.noise_source import check_noise_dtype
from parareal_diffusers._sampling.options import resolve_criterion
from parareal_diffusers._schedulers.native import check_supported_scheduler


def check_pipeline(pipe: Any) -> None:
    """Raise `TypeError` or `ValueError` unless a pipeline can be parallelized, whatever its arguments."""
    if not isinstance(pipe, DiffusionPipeline):
        raise TypeError(f"pipe must be a pipeline of diffusers, not {type(pipe).__name__}")
    if hasattr(type(pipe), "_parareal_handle"):
        raise ValueError("the pipeline is parallelized already: call disable() of its handle first")
    if getattr(pipe, "scheduler", None) is None:
        raise ValueError(
            f"{type(pipe).__name__} has no component called scheduler, whose steps could be made in parallel: give it "
            "one"
        )
    check_supported_scheduler(pipe.scheduler)


def check_call(pipe: Any, family: Family, arguments: Mapping[str, Any], devices: bool) -> None:
    """Raise `ValueError` for an unsupported call; `devices` says whether it runs on several devices.

    Everything is checked again in each call, because the user may replace components of the pipeline between calls.
    """
    check_supported_scheduler(pipe.scheduler)
    for name in family.networks:
        network: Any = getattr(pipe, name, None)
        check_network(name, network)
        if devices:
            check_replicable(name, network, is_compiled(network))
    # The first reason is raised. Those of the arguments come before those of the pipeline's family.
    reasons = [
        _explain_legacy_callback(arguments),
        _explain_callback_object(arguments),
        _explain_callback_inputs(arguments),
        *(refusal(pipe, arguments) for refusal in family.refusals),
    ]
    for reason in filter(None, reasons):
        raise ValueError(f"{type(pipe).__name__}: {reason}")


def check_network(name: str, network: Any) -> None:
    """Raise `ValueError` for a network that stores something from step to step."""
    if not isinstance(network, torch.nn.Module):
        raise ValueError(
            f"the {name} must be a torch module, not {type(network).__name__}: load the pipeline with this component"
        )
    network = getattr(network, "_orig_mod", network)  # of a module returned by `torch.compile`
    # `is_cache_enabled` is set by `enable_cache`. Caches applied by a function leave only their hooks.
    cached = getattr(network, "is_cache_enabled", False)
    if cached or any(_has_step_cache(module) for module in network.modules()):
        raise ValueError(
            f"the {name} reuses outputs from step to step (a step cache), but in parallel in time one call holds rows "
            "of several steps: call its disable_cache() first"
        )
    # accelerate and diffusers replace `forward` for their hooks, too, and leave an attribute behind.
    replaced = "forward" in vars(network) and not hasattr(network, "_hf_hook")
    if replaced and not hasattr(network, "_diffusers_hook"):
        raise ValueError(
            f"the {name}'s forward has been replaced, as step caches do (DeepCache, cache-dit and similar): remove "
            "the replacement first"
        )


def check_scheduler(
    settings: Settings, step_options: Mapping[str, Any], scheduler: Any, steps: int, dtype: torch.dtype
) -> None:
    """Raise `TypeError` or `ValueError` for an unsupported scheduler, number of steps, tolerance or network dtype.

    Errors of the scheduler's own code are left to the pipeline's call, which raises them too.
    """
    state_dtype = torch.promote_types(dtype, torch.float32)
    if settings.criterion is None:  # only the start of the loop knows the shapes that a user's criterion may need
        resolve_criterion(None, settings.tolerance, steps).resolve(Layout.of(torch.empty(1, dtype=state_dtype)))
    # Flow schedulers with dynamic shifting need a shift, which the pipeline computes from the size of the image. It
    # changes no check, so any value serves.
    options = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting", False) else {}
    try:
        scheduler = copy_with_steps(scheduler, steps, **options)
    except Exception:
        return
    setup = set_up_loop(settings, step_options, scheduler, 0, len(scheduler.timesteps), one_slice=True)
    check_noise_dtype(setup.fine, dtype, state_dtype)


def _has_step_cache(module: torch.nn.Module) -> bool:
    """Return whether one of diffusers' hooks on a module has a state, which is the mark of a step cache."""
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and any(getattr(hook, "_is_stateful", False) for hook in registry.hooks.values())


def _explain_legacy_callback(arguments: Mapping[str, Any]) -> str | None:
    if arguments.get("callback") is None:
        return None
    return "callback would receive the loop's latents, which are rows of many steps: use callback_on_step_end"


def _explain_callback_object(arguments: Mapping[str, Any]) -> str | None:
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

    # A plain function may change things as well, which only its call shows: `StepCallback` watches for that.
    callback = arguments.get("callback_on_step_end")
    if not isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        return None
    return (
        f"{type(callback).__name__} changes the pipeline at a step, but in parallel in time all steps use the same "
        "settings: use a function that changes nothing, or sample without parallelize"
    )


def _explain_callback_inputs(arguments: Mapping[str, Any]) -> str | None:
    names = arguments.get("callback_on_step_end_tensor_inputs") or ["latents"]
    if arguments.get("callback_on_step_end") is None or set(names) <= {"latents"}:
        return None
    others = ", ".join(name for name in names if name != "latents")
    return (
        f"callback_on_step_end_tensor_inputs asks for {others}, which are the same in every step unless the callback "
        "changes them, and in parallel in time all steps use the same: ask for latents only, which the callback may "
        "read, or sample without parallelize (handle.disable())"
    )
