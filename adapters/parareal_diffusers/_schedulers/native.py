"""From a diffusers scheduler to a solver and its grid. Schedulers are copied, never changed."""

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
from parareal_diffusers._schedulers.k_diffusion import check_no_sampler
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


def check_known(scheduler: Any) -> None:
    """Raise `TypeError` for what is no scheduler of diffusers, `ValueError` for one that cannot be right."""
    name = type(scheduler).__name__
    check_no_sampler(scheduler)
    if not isinstance(scheduler, SchedulerMixin):
        raise TypeError(f"solver must be a scheduler of diffusers, or a solver object, not {name}")
    if not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise TypeError(f"{name} has no step that goes from one timestep to the next: use EulerDiscreteScheduler")
    if name in _REFUSED:
        raise ValueError(f"{name} cannot be sampled in parallel in time: {_REFUSED[name]}")


def check_nodes(scheduler: Any) -> None:
    """Raise `TypeError` unless a solver object can take its nodes from a scheduler."""
    check_known(scheduler)
    if type(scheduler) not in _GRIDS:
        known = ", ".join(kind.__name__ for kind in _GRIDS)
        raise TypeError(f"a solver object takes its nodes from one of {known}, not {type(scheduler).__name__}")


def prepared(scheduler: Any, num_inference_steps: int | None) -> Any:
    """Return a copy of a scheduler with its timesteps set.

    Raises:
        TypeError: for what is no scheduler.
        ValueError: if the number of steps is not known, or the scheduler refuses it.
    """
    check_known(scheduler)
    scheduler = copy.deepcopy(scheduler)
    if num_inference_steps is not None:
        whole_number("num_inference_steps", num_inference_steps, 1)
        _set_timesteps(scheduler, num_inference_steps)
    elif getattr(scheduler, "num_inference_steps", None) is None and not getattr(scheduler, "custom_timesteps", False):
        raise ValueError("num_inference_steps is needed: pass it, or call set_timesteps on the scheduler before")
    if getattr(scheduler, "begin_index", None):
        raise ValueError(
            f"the scheduler is set to begin at step {scheduler.begin_index}: only whole grids are sampled yet"
        )
    return scheduler


def _set_timesteps(scheduler: Any, steps: int) -> None:
    try:
        scheduler.set_timesteps(steps)
    except Exception as error:  # what a scheduler's own code raises
        raise ValueError(
            f"{type(scheduler).__name__} does not take num_inference_steps={steps}: {type(error).__name__}: {error}; "
            "use another number of steps, other options, or another scheduler (docs/results/support.md)"
        ) from error


def has_native(scheduler: Any) -> bool:
    """Return whether a scheduler has a native solver; only its own step knows flows that are noised again."""
    return type(scheduler) in _GRIDS and not scheduler.config.get("stochastic_sampling", False)


def grid_of(scheduler: Any) -> Grid:
    """Return the grid of a prepared scheduler.

    Raises:
        ValueError: for a prediction type that the scheduler refuses too, or timesteps that were changed.
    """
    if not has_native(scheduler):
        return AnyScheduler(scheduler).grid()
    config = scheduler.config
    clean = config.get("predict_x0", config.get("algorithm_type", "").endswith(("++", "deis")))
    flows = config.get("use_flow_sigmas", False) and clean
    kinds = _PREDICTIONS.get(type(scheduler), ("epsilon", "v_prediction", "sample"))
    one_of("prediction_type", config.get("prediction_type", "flow"), [*kinds, *(["flow_prediction"] if flows else [])])
    return _GRIDS[type(scheduler)](scheduler)


def solver_of(scheduler: Any) -> Solver:
    """Return the solver that a scheduler is.

    Raises:
        ValueError: for options that cannot be right (docs/reference/upstream.md).
    """
    if not has_native(scheduler):
        return AnyScheduler(scheduler)
    return _SOLVERS[type(scheduler)](scheduler)


def _multistep(scheduler: Any) -> Solver:
    config = scheduler.config
    common = (scheduler, config["solver_order"], config["algorithm_type"], config["solver_type"])
    return DPMSolver(*common, config["lower_order_final"], config["euler_at_final"])


def _singlestep(scheduler: Any) -> Solver:
    config = scheduler.config
    if config["thresholding"] and config["algorithm_type"] == "dpmsolver":
        raise ValueError(
            "DPMSolverSinglestepScheduler with algorithm_type='dpmsolver' cannot threshold: its own loop looks levels "
            "up at a timestep that it is not given (docs/reference/upstream.md); use 'dpmsolver++' or thresholding=False"
        )
    common = (scheduler, config["solver_order"], config["algorithm_type"], config["solver_type"])
    return DPMSolverSinglestep(*common, config["lower_order_final"])


def _unipc(scheduler: Any) -> Solver:
    config = scheduler.config
    if scheduler.solver_p is not None:
        raise ValueError(
            "UniPCMultistepScheduler with another scheduler as predictor (solver_p) cannot be carried from step to "
            "step: leave solver_p out"
        )
    options = (config["solver_order"], scheduler.predict_x0, config["solver_type"], config["lower_order_final"])
    return UniPC(scheduler, *options, tuple(scheduler.disable_corrector))


def _deis(scheduler: Any) -> Solver:
    return DEIS(scheduler, scheduler.config["solver_order"], scheduler.config["lower_order_final"])


def _ddim_grid(scheduler: Any) -> Grid:
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    targets = timesteps - scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    return _cumprod_grid(scheduler, timesteps, targets, scheduler.final_alpha_cumprod)


def _ddpm_grid(scheduler: Any) -> Grid:
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    targets = torch.cat([timesteps[1:], torch.tensor([-1])])
    return _cumprod_grid(scheduler, timesteps, targets, scheduler.one)


def _cumprod_grid(scheduler: Any, timesteps: torch.Tensor, targets: torch.Tensor, final: torch.Tensor) -> Grid:
    """Look levels up by timestep, as DDIM and DDPM do; a negative one counts from the end on departure only."""
    alphas = scheduler.alphas_cumprod.cpu()
    start, stop = alphas[timesteps], torch.where(targets >= 0, alphas[targets], final.cpu())
    levels = Levels.of_alpha_cumprod(start), Levels.of_alpha_cumprod(stop)
    config = scheduler.config
    clip = config["clip_sample_range"] if config["clip_sample"] and not config["thresholding"] else None
    return Grid(timesteps, *levels, config["prediction_type"], clip, _threshold(config))


def _sigma_grid(scheduler: Any) -> Grid:
    config, sigmas = scheduler.config, scheduler.sigmas.cpu()
    timesteps = scheduler.timesteps.to("cpu", torch.int64)
    start, stop = (Levels.of_sigma(x, config["use_flow_sigmas"]) for x in (sigmas[:-1], sigmas[1:]))
    if len(timesteps) != len(sigmas) - 1:
        raise ValueError(
            f"{type(scheduler).__name__} has {len(timesteps)} timesteps but {len(sigmas)} sigmas: leave its timesteps "
            "as set_timesteps made them"
        )
    return Grid(timesteps, start, stop, config["prediction_type"], None, _threshold(config))


def _euler_grid(scheduler: Any) -> Grid:
    sigmas = scheduler.sigmas.cpu()
    start, stop = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:])
    scale = (sigmas[:-1] ** 2 + 1) ** 0.5
    return Grid(scheduler.timesteps.cpu(), start, stop, prediction_type_of(scheduler), input_scale=scale)


def _heun_grid(scheduler: Any) -> Grid:
    config, grid = scheduler.config, _euler_grid(scheduler)
    return replace(grid, clip=config["clip_sample_range"] if config["clip_sample"] else None)


def _kdpm2_grid(scheduler: Any) -> Grid:
    """Nodes with odd numbers are the middles of steps."""
    count = len(scheduler.timesteps) + 1  # sigmas has more entries
    sigmas, middle = scheduler.sigmas.cpu()[:count], scheduler.sigmas_interpol.cpu()[:count]
    start, stop = sigmas[:-1].clone(), middle[1:].clone()
    start[1::2], stop[1::2] = middle[1:-1:2], sigmas[1:-1:2]
    levels = Levels.exploding(start), Levels.exploding(stop)
    return Grid(scheduler.timesteps.cpu(), *levels, prediction_type_of(scheduler), input_scale=(start**2 + 1) ** 0.5)


def _flow_heun_grid(scheduler: Any) -> Grid:
    sigmas = scheduler.sigmas.cpu()
    start, stop = Levels.of_sigma(sigmas[:-1], flow=True), Levels.of_sigma(sigmas[1:], flow=True)
    return Grid(scheduler.timesteps.cpu(), start, stop, "flow_prediction")


def _flow_grid(scheduler: Any) -> Grid:
    config, sigmas = scheduler.config, scheduler.sigmas.cpu()
    if config["invert_sigmas"]:
        raise ValueError("FlowMatchEulerDiscreteScheduler with invert_sigmas=True is not covered: set it to False")
    start, stop = Levels.of_sigma(sigmas[:-1], flow=True), Levels.of_sigma(sigmas[1:], flow=True)
    return Grid(scheduler.timesteps.cpu(), start, stop, "flow_prediction")


def _threshold(config: Any) -> tuple[float, float] | None:
    return (config["dynamic_thresholding_ratio"], config["sample_max_value"]) if config["thresholding"] else None


_REFUSED = {
    "PNDMScheduler": "it repeats its first timesteps; use DPMSolverMultistepScheduler",
}
_PREDICTIONS = {
    EulerDiscreteScheduler: ("epsilon", "v_prediction", "sample", "original_sample"),
    EulerAncestralDiscreteScheduler: ("epsilon", "v_prediction"),
    KDPM2DiscreteScheduler: ("epsilon", "v_prediction"),
    FlowMatchEulerDiscreteScheduler: ("flow",),
    FlowMatchHeunDiscreteScheduler: ("flow",),
}
_GRIDS: dict[type, Callable[[Any], Grid]] = {
    DDIMScheduler: _ddim_grid,
    DDIMParallelScheduler: _ddim_grid,
    DDPMScheduler: _ddpm_grid,
    DDPMParallelScheduler: _ddpm_grid,
    DPMSolverMultistepScheduler: _sigma_grid,
    DPMSolverSinglestepScheduler: _sigma_grid,
    UniPCMultistepScheduler: _sigma_grid,
    DEISMultistepScheduler: _sigma_grid,
    EulerDiscreteScheduler: _euler_grid,
    EulerAncestralDiscreteScheduler: _euler_grid,
    LMSDiscreteScheduler: _euler_grid,
    HeunDiscreteScheduler: _heun_grid,
    KDPM2DiscreteScheduler: _kdpm2_grid,
    FlowMatchEulerDiscreteScheduler: _flow_grid,
    FlowMatchHeunDiscreteScheduler: _flow_heun_grid,
}
_SOLVERS: dict[type, Callable[[Any], Solver]] = {
    DDIMScheduler: DDIM,
    DDIMParallelScheduler: DDIM,
    DDPMScheduler: lambda scheduler: DDPM(scheduler, scheduler.variance_type),
    DDPMParallelScheduler: lambda scheduler: DDPM(scheduler, scheduler.variance_type),
    DPMSolverMultistepScheduler: _multistep,
    DPMSolverSinglestepScheduler: _singlestep,
    UniPCMultistepScheduler: _unipc,
    DEISMultistepScheduler: _deis,
    EulerDiscreteScheduler: Euler,
    EulerAncestralDiscreteScheduler: lambda scheduler: Euler(scheduler, ancestral=True),
    LMSDiscreteScheduler: LMS,
    HeunDiscreteScheduler: Heun,
    KDPM2DiscreteScheduler: KDPM2,
    FlowMatchEulerDiscreteScheduler: Euler,
    FlowMatchHeunDiscreteScheduler: Heun,
}
