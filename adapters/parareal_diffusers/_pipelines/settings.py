"""Settings of a parallelized pipeline, and the solvers, grid and slices that they give for one loop."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import parareal
from parareal.driver import SCHEDULES, divide_grid, one_of, optional_whole_number, whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._pipelines.stand_ins.replicas import check_devices
from parareal_diffusers._sampling.coarse import COARSE, resolve_coarse_solver
from parareal_diffusers._sampling.options import resolve_batch_sizes, resolve_boundaries, resolve_criterion
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import (
    build_grid,
    check_supported_scheduler,
    choose_solver,
    copy_with_timesteps,
)
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.multistep.lms import LMS
from parareal_diffusers._solvers.solver import Solver


@final
@dataclass(frozen=True)
class Settings:
    """The keywords of `parallelize` that determine a solve; they are documented there."""

    slices: int | str = "auto"
    boundaries: Sequence[int] | None = None
    levels: Sequence[int] | None = None
    coarse: Any = "auto"
    tolerance: float = 1e-2
    criterion: parareal.AbstractCriterion | None = None
    max_iterations: int | None = None
    schedule: str = "pipelined"
    window: int | None = None
    speculate_until: int | None = None
    max_batch: int | None = None
    pad_batch: bool | Sequence[int] = False
    devices: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        """Raise `TypeError` or `ValueError` for values that are invalid for every call of a pipeline.

        The number of steps is known only in a call, so `set_up_loop` checks the rest.
        """
        if isinstance(self.slices, str):
            one_of("slices", self.slices, ("auto", "sqrt", "steps"))
        else:
            whole_number("slices", self.slices, 1)
        if self.levels is not None:
            divide_grid(self.slices, self.levels, 1)
        for name, least in (("window", 1), ("max_batch", 1), ("max_iterations", 0), ("speculate_until", 0)):
            optional_whole_number(name, getattr(self, name), least)
        one_of("schedule", self.schedule, SCHEDULES)
        if isinstance(self.coarse, str):
            one_of("coarse", self.coarse, ["auto", "same", *COARSE])
        elif not isinstance(self.coarse, Solver):
            check_supported_scheduler(self.coarse)
        resolve_criterion(self.criterion, self.tolerance, 1)
        resolve_batch_sizes(self.pad_batch, self.max_batch)
        check_devices(self.devices)

    @property
    def follows_plans(self) -> bool:
        """True if a plan may choose the number of slices."""
        return self.slices == "auto" and self.boundaries is None and self.levels is None

    def apply_plan(self, plan: parareal.Plan) -> "Settings":
        """Return these settings completed by a plan; one slice, run to its end, if it advises against slices."""
        if not plan.worthwhile:
            return replace(self, slices=1, criterion=parareal.Iterations(1), max_iterations=None)
        until = plan.speculate_until if self.speculate_until is None else self.speculate_until
        return replace(self, slices=plan.slices, speculate_until=until)


@final
@dataclass(frozen=True)
class LoopSetup:
    """The solvers of one loop, its grid, and its slice boundaries."""

    fine: Solver
    coarse: Solver
    grid: Grid
    first: int
    """the node at which the loop starts; above 0 for image-to-image, for example"""
    edges: list[int]
    """the nodes of the slice boundaries, from `first` to the end of the loop"""

    @property
    def num_steps(self) -> int:
        """The number of steps that the unmodified loop would make."""
        return self.edges[-1] - self.first


def set_up_loop(
    settings: Settings, step_options: Mapping[str, Any], scheduler: Any, first: int, last: int, one_slice: bool = False
) -> LoopSetup:
    """Return the solvers, grid and boundaries for the steps from `first` to `last` of a scheduler.

    Args:
        settings: the settings of the call.
        step_options: options that the pipeline passes to the scheduler's `step`, such as `eta`.
        scheduler: with its timesteps set, before its first step.
        first, last: the nodes at which the loop starts and ends.
        one_slice: whether to ignore the settings' slices and make one of all steps.

    Raises:
        TypeError, ValueError: if the combination is unsupported; the message says what to change.
    """
    scheduler = copy_with_timesteps(scheduler, None)
    fine = choose_solver(scheduler)
    if isinstance(fine, DDIM):
        ddim_options = {k: v for k, v in step_options.items() if k in ("eta", "use_clipped_model_output")}
        fine = DDIM(scheduler, **{k: v for k, v in ddim_options.items() if v is not None})
    if isinstance(fine, AnyScheduler):
        fine = AnyScheduler(scheduler, _select_options(scheduler, step_options))
    if isinstance(fine, LMS) and first:
        # The scheduler applies its weights of fourth order to the one slope that it has. The native solver begins with
        # first order, so the two would differ.
        raise ValueError(
            f"LMSDiscreteScheduler, started at step {first} as in this call, uses weights for slopes that it does not "
            "have yet (docs/reference/upstream.md): use DEISMultistepScheduler, or start at step 0 (strength=1)"
        )
    grid = fine.grid() if isinstance(fine, AnyScheduler) else build_grid(scheduler)
    coarse = resolve_coarse_solver(settings.coarse, fine, grid)
    fine.check_fine(grid)
    coarse.check_schedule(grid)
    # The node whose state each step starts from. Steps of singlestep methods come in cycles, whose inner steps start
    # from the state at the cycle's first node. The loop must begin with a cycle.
    bases = list(fine.base_nodes(grid))[first:last]
    if not bases:
        raise ValueError("the pipeline's call leaves no step to make: use more steps, or a larger strength")
    if bases[0] != first:
        raise ValueError(
            f"the loop would begin at step {first}, within a cycle of {type(scheduler).__name__}: use another "
            "strength or number of steps"
        )
    if one_slice:
        return LoopSetup(fine, coarse, grid, first, [first, last])
    # Boundaries count from the first step that the loop makes, as documented in `parallelize`.
    edges = resolve_boundaries(settings.boundaries, settings.slices, settings.levels, [b - first for b in bases])
    return LoopSetup(fine, coarse, grid, first, [first + n for n in edges])


def _select_options(scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a scheduler's `step` accepts and that are set."""
    accepted = inspect.signature(scheduler.step).parameters.keys() - {"generator", "return_dict"}
    return {name: value for name, value in options.items() if value is not None and name in accepted}


def check_options(fine: Solver, options: dict[str, Any]) -> None:
    """Raise `ValueError` for options of a scheduler's `step` that the solver does not have."""
    supported: dict[str, Any] = {"generator": None}
    if isinstance(fine, DDIM):
        supported |= {"eta": fine.eta, "use_clipped_model_output": fine.use_clipped_model_output}
    if isinstance(fine, AnyScheduler):
        supported |= {name: p.default for name, p in inspect.signature(fine.scheduler.step).parameters.items()}
        supported |= fine.options
    # An option that equals the supported value changes nothing. None, 0 and False count as equal, because pipelines
    # pass any of them for an option that is not set.
    wrong = [k for k, value in options.items() if k != "generator" and (value or 0) != (supported.get(k) or 0)]
    if wrong:
        raise ValueError(
            f"the options {', '.join(wrong)} of the scheduler's step are unsupported in parallel in time: leave them "
            "out"
        )
