"""How a loop is sampled: the keywords of `parallelize`, and the solvers, grid and slices that a loop makes of them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import parareal
from parareal.driver import SCHEDULES, divide_grid, one_of, optional_whole_number, whole_number
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._pipelines.stand_ins.replicas import checked_devices
from parareal_diffusers._sampling.coarse import COARSE, resolve_coarse_solver
from parareal_diffusers._sampling.options import resolve_batch_sizes, resolve_boundaries, resolve_criterion
from parareal_diffusers._schedulers.fallback import AnyScheduler
from parareal_diffusers._schedulers.native import check_supported_scheduler, copy_with_timesteps, grid_of, solver_of
from parareal_diffusers._solvers.ancestral.ddim import DDIM
from parareal_diffusers._solvers.multistep.lms import LMS
from parareal_diffusers._solvers.solver import Solver


@final
@dataclass(frozen=True)
class Settings:
    """How to sample: the keywords of `parallelize`, which says what they mean."""

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
        """Raise `TypeError` or `ValueError` for what no call of a pipeline could mend."""
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
        checked_devices(self.devices)

    @property
    def open(self) -> bool:
        """True where a plan may say how many slices there are."""
        return self.slices == "auto" and self.boundaries is None and self.levels is None

    def following(self, plan: parareal.Plan) -> "Settings":
        """Return these as a plan completes them; where it advises against slices, one slice, run to its end."""
        if not plan.worthwhile:
            return replace(self, slices=1, criterion=parareal.Iterations(1), max_iterations=None)
        until = plan.speculate_until if self.speculate_until is None else self.speculate_until
        return replace(self, slices=plan.slices, speculate_until=until)


@final
@dataclass(frozen=True)
class LoopMethod:
    """The solvers of one loop, its grid, and the nodes between which it goes."""

    fine: Solver
    coarse: Solver
    grid: Grid
    first: int
    edges: list[int]

    @property
    def steps(self) -> int:
        """The number of steps that the loop would make by itself."""
        return self.edges[-1] - self.first


def loop_method(
    settings: Settings, step_options: Mapping[str, Any], scheduler: Any, first: int, last: int, whole: bool = False
) -> LoopMethod:
    """Return how the steps from `first` to `last` of a scheduler are sampled; `whole`, all in one slice.

    `step_options` are those that its `step` will be given, as `eta`.

    Raises:
        TypeError, ValueError: what speaks against it, with a sentence that says what to change.
    """
    scheduler = copy_with_timesteps(scheduler, None)
    fine = solver_of(scheduler)
    if isinstance(fine, DDIM):
        given = {k: v for k, v in step_options.items() if k in ("eta", "use_clipped_model_output")}
        fine = DDIM(scheduler, **{k: v for k, v in given.items() if v is not None})
    if isinstance(fine, AnyScheduler):
        fine = AnyScheduler(scheduler, _taken(scheduler, step_options))
    if isinstance(fine, LMS) and first:
        raise ValueError(
            f"LMSDiscreteScheduler, begun at step {first} as here, uses weights for slopes that it does not have yet "
            "(docs/reference/upstream.md): use DEISMultistepScheduler, or all steps"
        )
    grid = fine.grid() if isinstance(fine, AnyScheduler) else grid_of(scheduler)
    coarse = resolve_coarse_solver(settings.coarse, fine, grid)
    fine.check_fine(grid)
    coarse.check_schedule(grid)
    bases = list(fine.base_nodes(grid))[first:last]
    if not bases:
        raise ValueError("the pipeline's call leaves no step to make: use more steps, or a larger strength")
    if bases[0] != first:
        raise ValueError(
            f"the loop would begin at step {first}, within a cycle of {type(scheduler).__name__}: use another "
            "strength or number of steps"
        )
    if whole:
        return LoopMethod(fine, coarse, grid, first, [first, last])
    edges = resolve_boundaries(settings.boundaries, settings.slices, settings.levels, [b - first for b in bases])
    return LoopMethod(fine, coarse, grid, first, [first + n for n in edges])


def _taken(scheduler: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that a scheduler's step takes."""
    takes = inspect.signature(scheduler.step).parameters.keys() - {"generator", "return_dict"}
    return {name: value for name, value in options.items() if value is not None and name in takes}


def check_options(fine: Solver, options: dict[str, Any]) -> None:
    """Raise `ValueError` for options of a scheduler's step that the solver does not have."""
    known: dict[str, Any] = {"generator": None}
    if isinstance(fine, DDIM):
        known |= {"eta": fine.eta, "use_clipped_model_output": fine.use_clipped_model_output}
    if isinstance(fine, AnyScheduler):
        known |= {name: p.default for name, p in inspect.signature(fine.scheduler.step).parameters.items()}
        known |= fine.options
    wrong = [key for key, value in options.items() if key != "generator" and (value or 0) != (known.get(key) or 0)]
    if wrong:
        raise ValueError(f"step options {', '.join(wrong)} cannot be honoured in parallel in time: leave them out")
