"""Native solvers and grids of diffusers schedulers, by tables at the end of this file.

Schedulers are copied, never changed. All levels come from the scheduler's own tables, computed with the same scalar
operations as its step, so that a native solver agrees with the scheduler to rounding.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_parallel import DDIMParallelScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm_parallel import DDPMParallelScheduler
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from parareal.driver import one_of, whole_number
from parareal_diffusers._grid.grid import Grid, Levels, prediction_type_of
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.k_diffusion import reject_k_diffusion_sampler
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.ancestral.ddpm import DDPM
from parareal_diffusers._solvers.dpm.multistep import DPMSolver
from parareal_diffusers._solvers.dpm.singlestep import DPMSolverSinglestep
from parareal_diffusers._solvers.multistep.deis import DEIS
from parareal_diffusers._solvers.multistep.lms import LMS
from parareal_diffusers._solvers.multistep.unipc import UniPC
from parareal_diffusers._solvers.sigma.euler import Euler
from parareal_diffusers._solvers.sigma.heun import Heun
from parareal_diffusers._solvers.sigma.kdpm2 import KDPM2
from parareal_diffusers._solvers.solver import Solver


def check_supported_scheduler(scheduler: Any) -> None:
    """Raise an error unless a value is a supported scheduler of diffusers.

    Raises:
        TypeError: for a value that is no scheduler, or has no step from one timestep to the next.
        ValueError: for a scheduler that would give wrong results.
    """
    name = type(scheduler).__name__
    reject_k_diffusion_sampler(scheduler)
    if not isinstance(scheduler, SchedulerMixin):
        raise TypeError(f"solver must be a scheduler of diffusers, or a solver object, not {name}")
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise TypeError(f"{name} has no step that goes from one timestep to the next: use EulerDiscreteScheduler")
    if name in _REFUSED:
        raise ValueError(f"{name} cannot be sampled in parallel in time: {_REFUSED[name]}")


def check_native_grid(scheduler: Any) -> None:
    """Raise `TypeError` unless a solver object can take its nodes from a scheduler."""
    check_supported_scheduler(scheduler)
    if type(scheduler) not in _GRIDS:
        supported = ", ".join(kind.__name__ for kind in _GRIDS)
        raise TypeError(
            f"a solver object takes its nodes from one of {supported}, not {type(scheduler).__name__}: pass the "
            "scheduler itself to run its own step"
        )


def copy_with_timesteps(scheduler: Any, num_inference_steps: int | None) -> Any:
    """Return a copy of a scheduler whose timesteps are set.

    Args:
        scheduler: a diffusers scheduler.
        num_inference_steps: the number of steps; None to keep the timesteps that are set.

    Raises:
        TypeError: for a value that is no scheduler.
        ValueError: if the number of steps is unknown, or the scheduler does not accept it.
    """
    check_supported_scheduler(scheduler)
    scheduler = copy.deepcopy(scheduler)
    if num_inference_steps is not None:
        whole_number("num_inference_steps", num_inference_steps, 1)
        _set_timesteps(scheduler, num_inference_steps)
    elif getattr(scheduler, "num_inference_steps", None) is None and not getattr(scheduler, "custom_timesteps", False):
        raise ValueError("num_inference_steps is needed: pass it, or call set_timesteps on the scheduler before")
    # Image-to-image pipelines set a later start; only `parallelize` supports that.
    if getattr(scheduler, "begin_index", None):
        raise ValueError(
            f"the scheduler is set to begin at step {scheduler.begin_index}, but only whole grids are supported: call "
            "its set_begin_index(0)"
        )
    return scheduler


def _set_timesteps(scheduler: Any, steps: int) -> None:
    """Call `set_timesteps`, and turn any error of it into a `ValueError` that says what to change."""
    try:
        scheduler.set_timesteps(steps)
    except Exception as error:  # the scheduler's own code may raise anything
        raise ValueError(
            f"{type(scheduler).__name__} does not take num_inference_steps={steps}: {type(error).__name__}: {error}; "
            "use another number of steps, other options, or another scheduler (docs/results/support.md)"
        ) from error


def has_native_solver(scheduler: Any) -> bool:
    """Return whether a scheduler has a native solver.

    With `stochastic_sampling` a flow's scheduler adds noise to the predicted clean sample in every step, which only the
    scheduler's own step does.
    """
    return type(scheduler) in _GRIDS and not scheduler.config.get("stochastic_sampling", False)


def build_grid(scheduler: Any) -> Grid:
    """Return the grid of a scheduler whose timesteps are set.

    Raises:
        ValueError: for a prediction type that the scheduler does not support, or timesteps that were edited.
    """
    if not has_native_solver(scheduler):
        return AnyScheduler(scheduler).grid()
    config = scheduler.config
    # Flow sigmas need a solver that works on the predicted clean sample, as the schedulers themselves require. DEIS
    # converts every output to the clean sample first.
    predicts_clean = config.get("predict_x0", config.get("algorithm_type", "").endswith(("++", "deis")))
    supports_flows = config.get("use_flow_sigmas", False) and predicts_clean
    types = _PREDICTION_TYPES.get(type(scheduler), ("epsilon", "v_prediction", "sample"))
    types = [*types, *(["flow_prediction"] if supports_flows else [])]
    one_of("prediction_type", config.get("prediction_type", "flow"), types)
    return _GRIDS[type(scheduler)](scheduler)


def choose_solver(scheduler: Any) -> Solver:
    """Return the solver that makes a scheduler's steps: its native one, or else `AnyScheduler`.

    Raises:
        ValueError: for options that would give wrong results (docs/reference/upstream.md).
    """
    if not has_native_solver(scheduler):
        return AnyScheduler(scheduler)
    return _SOLVERS[type(scheduler)](scheduler)


def _build_multistep_solver(scheduler: Any) -> Solver:
    config = scheduler.config
    common = (scheduler, config["solver_order"], config["algorithm_type"], config["solver_type"])
    return DPMSolver(*common, config["lower_order_final"], config["euler_at_final"])


def _build_singlestep_solver(scheduler: Any) -> Solver:
    config = scheduler.config
    if config["thresholding"] and config["algorithm_type"] == "dpmsolver":
        raise ValueError(
            "DPMSolverSinglestepScheduler with algorithm_type='dpmsolver' cannot threshold: its own loop looks up "
            "levels at a timestep that it does not have (docs/reference/upstream.md); use 'dpmsolver++' or "
            "thresholding=False"
        )
    common = (scheduler, config["solver_order"], config["algorithm_type"], config["solver_type"])
    return DPMSolverSinglestep(*common, config["lower_order_final"])


def _build_unipc_solver(scheduler: Any) -> Solver:
    config = scheduler.config
    # The scheduler that is used as predictor keeps a state of its own, which would have to cross slices.
    if scheduler.solver_p is not None:
        raise ValueError(
            "UniPCMultistepScheduler with another scheduler as predictor (solver_p) cannot be carried from step to "
            "step: leave solver_p out"
        )
    options = (config["solver_order"], scheduler.predict_x0, config["solver_type"], config["lower_order_final"])
    return UniPC(scheduler, *options, tuple(scheduler.disable_corrector))


def _build_deis_solver(scheduler: Any) -> Solver:
    return DEIS(scheduler, scheduler.config["solver_order"], scheduler.config["lower_order_final"])


def _build_ddim_grid(scheduler: Any) -> Grid:
    # DDIM's step goes down by a fixed distance, which need not lead to the next entry of `timesteps`.
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    targets = timesteps - scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    return _build_cumprod_grid(scheduler, timesteps, targets, scheduler.final_alpha_cumprod)


def _build_ddpm_grid(scheduler: Any) -> Grid:
    # DDPM's step goes to the next entry of `timesteps`; -1, which is below all of them, stands for the clean sample.
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    targets = torch.cat([timesteps[1:], torch.tensor([-1])])
    return _build_cumprod_grid(scheduler, timesteps, targets, scheduler.one)


def _build_cumprod_grid(scheduler: Any, timesteps: torch.Tensor, targets: torch.Tensor, final: torch.Tensor) -> Grid:
    """Return the grid of steps from `timesteps` to `targets`, with levels looked up by timestep as DDIM and DDPM do.

    A negative target stands for the level `final`. A negative start is not treated, so it counts from the end, as
    in the schedulers.
    """
    alphas = scheduler.alphas_cumprod.cpu()
    start, stop = alphas[timesteps], torch.where(targets >= 0, alphas[targets], final.cpu())
    levels = Levels.of_alpha_cumprod(start), Levels.of_alpha_cumprod(stop)
    config = scheduler.config
    clip = config["clip_sample_range"] if config["clip_sample"] and not config["thresholding"] else None
    return Grid(timesteps, *levels, config["prediction_type"], clip, _threshold(config))


def _build_sigma_grid(scheduler: Any) -> Grid:
    config, sigmas = scheduler.config, scheduler.sigmas.cpu()
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    start, stop = (Levels.of_sigma(x, config["use_flow_sigmas"]) for x in (sigmas[:-1], sigmas[1:]))
    if len(timesteps) != len(sigmas) - 1:
        raise ValueError(
            f"{type(scheduler).__name__} has {len(timesteps)} timesteps but {len(sigmas)} sigmas: call set_timesteps "
            "again, and do not edit its timesteps afterwards"
        )
    return Grid(timesteps, start, stop, config["prediction_type"], None, _threshold(config))


def _build_euler_grid(scheduler: Any) -> Grid:
    sigmas = scheduler.sigmas.cpu()
    start, stop = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:])
    scale = (sigmas[:-1] ** 2 + 1) ** 0.5  # as in the scheduler's scale_model_input
    return Grid(scheduler.timesteps.cpu(), start, stop, prediction_type_of(scheduler), input_scale=scale)


def _build_heun_grid(scheduler: Any) -> Grid:
    # Heun's scheduler repeats each inner sigma and timestep, so both stages of a step are nodes of their own.
    config, grid = scheduler.config, _build_euler_grid(scheduler)
    return replace(grid, clip=config["clip_sample_range"] if config["clip_sample"] else None)


def _build_kdpm2_grid(scheduler: Any) -> Grid:
    """Return the grid of KDPM2, whose nodes with odd numbers are the middles of steps."""
    count = len(scheduler.timesteps) + 1  # the scheduler's tables have further entries at their ends
    sigmas, middle = scheduler.sigmas.cpu()[:count], scheduler.sigmas_interpol.cpu()[:count]
    start, stop = sigmas[:-1].clone(), middle[1:].clone()
    # Even steps go from a sigma to the middle, odd ones from the middle to the next sigma.
    start[1::2], stop[1::2] = middle[1:-1:2], sigmas[1:-1:2]
    levels = Levels.exploding(start), Levels.exploding(stop)
    return Grid(scheduler.timesteps.cpu(), *levels, prediction_type_of(scheduler), input_scale=(start**2 + 1) ** 0.5)


def _build_flow_heun_grid(scheduler: Any) -> Grid:
    sigmas = scheduler.sigmas.cpu()
    start, stop = Levels.of_sigma(sigmas[:-1], flow=True), Levels.of_sigma(sigmas[1:], flow=True)
    return Grid(scheduler.timesteps.cpu(), start, stop, "flow_prediction")


def _build_flow_grid(scheduler: Any) -> Grid:
    config, sigmas = scheduler.config, scheduler.sigmas.cpu()
    if config["invert_sigmas"]:
        raise ValueError("FlowMatchEulerDiscreteScheduler with invert_sigmas=True is unsupported: set it to False")
    start, stop = Levels.of_sigma(sigmas[:-1], flow=True), Levels.of_sigma(sigmas[1:], flow=True)
    return Grid(scheduler.timesteps.cpu(), start, stop, "flow_prediction")


def _threshold(config: Any) -> tuple[float, float] | None:
    """Return ratio and largest value of dynamic thresholding, or None."""
    return (config["dynamic_thresholding_ratio"], config["sample_max_value"]) if config["thresholding"] else None


_REFUSED = {
    "PNDMScheduler": "it repeats its first timesteps; use DPMSolverMultistepScheduler",
}
"""reasons against schedulers that would give wrong results"""
_PREDICTION_TYPES = {
    EulerDiscreteScheduler: ("epsilon", "v_prediction", "sample", "original_sample"),
    EulerAncestralDiscreteScheduler: ("epsilon", "v_prediction"),
    KDPM2DiscreteScheduler: ("epsilon", "v_prediction"),
    FlowMatchEulerDiscreteScheduler: ("flow",),
    FlowMatchHeunDiscreteScheduler: ("flow",),
}
"""prediction types that a scheduler supports, where they are not the usual three; "flow" if it has no such option"""
# Keyed by exact type: a subclass may have another step, so it is run by its own step (`AnyScheduler`).
_GRIDS: dict[type, Callable[[Any], Grid]] = {
    DDIMScheduler: _build_ddim_grid,
    DDIMParallelScheduler: _build_ddim_grid,
    DDPMScheduler: _build_ddpm_grid,
    DDPMParallelScheduler: _build_ddpm_grid,
    DPMSolverMultistepScheduler: _build_sigma_grid,
    DPMSolverSinglestepScheduler: _build_sigma_grid,
    UniPCMultistepScheduler: _build_sigma_grid,
    DEISMultistepScheduler: _build_sigma_grid,
    EulerDiscreteScheduler: _build_euler_grid,
    EulerAncestralDiscreteScheduler: _build_euler_grid,
    LMSDiscreteScheduler: _build_euler_grid,
    HeunDiscreteScheduler: _build_heun_grid,
    KDPM2DiscreteScheduler: _build_kdpm2_grid,
    FlowMatchEulerDiscreteScheduler: _build_flow_grid,
    FlowMatchHeunDiscreteScheduler: _build_flow_heun_grid,
}
_SOLVERS: dict[type, Callable[[Any], Solver]] = {
    DDIMScheduler: DDIM,
    DDIMParallelScheduler: DDIM,
    DDPMScheduler: lambda scheduler: DDPM(scheduler, scheduler.variance_type),
    DDPMParallelScheduler: lambda scheduler: DDPM(scheduler, scheduler.variance_type),
    DPMSolverMultistepScheduler: _build_multistep_solver,
    DPMSolverSinglestepScheduler: _build_singlestep_solver,
    UniPCMultistepScheduler: _build_unipc_solver,
    DEISMultistepScheduler: _build_deis_solver,
    EulerDiscreteScheduler: Euler,
    EulerAncestralDiscreteScheduler: lambda scheduler: Euler(scheduler, ancestral=True),
    LMSDiscreteScheduler: LMS,
    HeunDiscreteScheduler: Heun,
    KDPM2DiscreteScheduler: KDPM2,
    FlowMatchEulerDiscreteScheduler: Euler,
    FlowMatchHeunDiscreteScheduler: Heun,
}
