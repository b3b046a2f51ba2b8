"""Any other scheduler: its own step, row by row, on a state that is taken out and put back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from parareal.driver import Memory
from parareal_diffusers._grid.grid import Grid, Levels, prediction_type_of
from parareal_diffusers._schedulers.replay import Replay
from parareal_diffusers._schedulers.snapshot import SMALL, Snapshots, takes_generator
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval

_STATES = ("sample", "last_sample", "cur_sample")
_RANDOM = ("last_noise",)
_NOISES = ("derivatives", "ets")


class Remembered(NamedTuple):
    """What schedulers remember, a row each."""

    data: Tensor
    """shape (R, places, *sample)"""
    skeletons: Tensor
    """what the data hang in, by number, int64 of shape (R,); -1 for a scheduler that has not begun"""


@final
@dataclass(frozen=True)
class AnyScheduler(Solver):
    """A scheduler's own step, as a fine solver, for schedulers that have no native one.

    Each row's step is `scheduler.step`, on a copy of the scheduler that has been put into the row's state. That costs
    some hundred microseconds a row, where native solvers take that for all rows. If it draws noise, it is given a
    generator in the state that the sequential loop's has there (`Replay`). `sample` makes one by itself where there is
    no native solver; given one, it does without the native one. A scheduler whose noise is a Brownian path
    (`DPMSolverSDEScheduler`) is given the path of the whole batch, which all slices share.

    Args:
        scheduler: a diffusers scheduler.
        options: further arguments of its step, as in `AnyScheduler(EulerDiscreteScheduler(), {"s_churn": 40.0})`.

    Raises:
        TypeError: for options that its step does not have.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scheduler is None or not hasattr(self.scheduler, "step"):
            return  # of which sample has more to say
        known = [*signature(self.scheduler.step).parameters][3:]
        wrong = [name for name in self.options if name not in known or name in ("generator", "return_dict")]
        if wrong:
            raise TypeError(f"the step of {type(self.scheduler).__name__} has no options {', '.join(wrong)}")

    @property
    def stochastic(self) -> bool:
        """Whether the scheduler draws noise with the timesteps that it has."""
        return self.snapshots.draws or self.snapshots.path is not None

    @cached_property
    def snapshots(self) -> Snapshots:
        """The scheduler's states."""
        return Snapshots(self.scheduler, self.options)

    def begin(self, x: Tensor) -> Memory:
        """Remember a scheduler that has not begun."""
        places = len(self.snapshots.places)
        return Remembered(x.new_zeros(len(x), places, *x.shape[1:]), torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one `scheduler.step`; one evaluation."""
        output = yield x, interval.start
        output = output[:, : x.shape[1]]  # without a predicted variance
        rows = zip(interval.start.tolist(), memory.skeletons.tolist(), interval.sample.tolist(), strict=True)
        states, data, skeletons = [], [], []
        for i, (node, skeleton, sample) in enumerate(rows):
            given = x[i], memory.data[i], skeleton
            stepped, kept, number = self._one(output[i], *given, node, sample, interval.random)
            states.append(stepped)
            data.append(kept)
            skeletons.append(number)
        numbers = torch.tensor(skeletons, device=x.device)
        return torch.stack(states), Remembered(torch.stack(data), numbers)

    def _one(
        self, output: Tensor, x: Tensor, data: Tensor, skeleton: int, node: int, sample: int, random: Any
    ) -> tuple[Tensor, Tensor, int]:
        """Advance one row; where samples draw from one generator, in its place among copies of itself."""
        if skeleton < 0 and node % self._order:  # a sketch's state, in the midst of a step that nobody has begun
            return x, data, skeleton
        copies, options = (random.copies, random.options(node, sample)) if isinstance(random, Replay) else (1, {})
        place = sample if copies > 1 else 0
        path = random.path if isinstance(random, Replay) else None
        scheduler, t = self.snapshots.put(data, skeleton, node, copies, path), self.scheduler.timesteps[node]
        many, alike = output.expand(copies, *x.shape), x.expand(copies, *x.shape)
        stepped = scheduler.step(many, t, alike, return_dict=False, **options, **self.options)[0]
        return stepped[place].to(x.dtype), *self.snapshots.take(scheduler, x, place)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Change the state before and predictions as they go with the change of the state."""
        data = memory.data.clone()
        for name, place in self.snapshots.held(int(memory.skeletons)):
            if name not in _RANDOM:
                data[:, place] += shift.previous if name in _STATES else self._shift(name, shift)
        return Remembered(data, memory.skeletons)

    def _shift(self, name: str, shift: Shift) -> Tensor:
        config = self.scheduler.config
        if is_flow(self.scheduler):
            return shift.noise - shift.clean
        plus = config.get("predict_x0", str(config.get("algorithm_type", "")).endswith("++"))
        return shift.clean if plus and name not in _NOISES and name != "prev_derivative" else shift.noise

    def base_nodes(self, grid: Grid) -> Sequence[int]:
        """Return the node from which every step starts: schedulers of order 2 make two calls a step."""
        return [i - i % self._order for i in range(grid.steps)]

    @property
    def _order(self) -> int:
        return int(getattr(self.scheduler, "order", 1))

    def grid(self) -> Grid:
        """Return the scheduler's grid, for coarse solvers to jump over and for the network's input.

        Raises:
            ValueError: where the scheduler shows no levels of noise, or cannot be run.
        """
        scheduler = self.scheduler
        name, count, sigmas = type(scheduler).__name__, len(scheduler.timesteps), getattr(scheduler, "sigmas", None)
        if getattr(scheduler, "step_index", None) is not None:
            raise ValueError(
                "the scheduler has been used, and remembers it: call its set_timesteps again before sample"
            )
        try:
            scale = torch.tensor(self.snapshots.input_scale)
        except Exception as error:  # what a scheduler's own code raises
            raise ValueError(
                f"{name} does not run with these options: {type(error).__name__}: {error}; use others, or another "
                "scheduler (docs/results/support.md)"
            ) from error
        if not isinstance(sigmas, Tensor) or len(sigmas) < count + 1:
            return Grid(scheduler.timesteps.cpu(), *_signal_levels(scheduler), prediction_type_of(scheduler))
        return _sigma_grid(scheduler, sigmas.cpu().float()[: count + 1], scale)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` for a scheduler whose state cannot be carried."""
        check_carried(self.scheduler, self.snapshots)


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler follows a flow."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def _sigma_grid(scheduler: Any, sigmas: Tensor, scale: Tensor) -> Grid:
    """Return the grid of a scheduler that shows its N + 1 sigmas; `scale` is what it divides states by."""
    timesteps = scheduler.timesteps.cpu()
    if is_flow(scheduler):
        start, stop = (Levels.of_sigma(x, flow=True) for x in (sigmas[:-1], sigmas[1:]))
        return Grid(timesteps, start, stop, "flow_prediction")
    kind = prediction_type_of(scheduler)
    if bool((scale == 1).all()):
        return Grid(timesteps, Levels.of_sigma(sigmas[:-1]), Levels.of_sigma(sigmas[1:]), kind)
    start, stop, data = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:]), scheduler.config.get("sigma_data")
    return Grid(timesteps, start, stop, kind, input_scale=scale, sigma_data=data)


def check_carried(scheduler: Any, snapshots: Snapshots) -> None:
    """Raise `ValueError` unless steps, sample by sample, on states taken out and put back are the scheduler's own."""
    name = type(scheduler).__name__
    if snapshots.draws and not takes_generator(scheduler):
        raise ValueError(
            f"{name} draws noise but its step takes no generator, so that its noise cannot be made a function of the "
            "step: use EulerAncestralDiscreteScheduler, or DPMSolverMultistepScheduler with algorithm_type="
            "'sde-dpmsolver++'"
        )
    problem = f"{name} keeps a state that cannot be carried from step to step: use a native solver"
    copies = len(SMALL) if snapshots.draws or snapshots.path is not None else 1
    rows = [(x[None], SMALL.new_zeros(len(snapshots.places), *x.shape), -1) for x in SMALL]
    for node, (t, own) in enumerate(zip(scheduler.timesteps, snapshots.states, strict=True)):
        if not bool(torch.isfinite(own).all()):
            raise ValueError(f"{name}'s own loop gives NaN in step {node} with these options")
        for i, (x, data, skeleton) in enumerate(rows):
            try:
                again, alike = snapshots.put(data, skeleton, node, copies), x.expand(copies, *x.shape[1:])
                place = i if copies > 1 else 0
                with torch.random.fork_rng(devices=[]):
                    torch.set_rng_state(snapshots.random[node])
                    many = again.step(0.5 * alike, t, alike, return_dict=False, **snapshots.options)[0]
                x = many[place : place + 1]
                rows[i] = x, *snapshots.take(again, x[0], place)
            except (KeyError, RuntimeError, IndexError) as error:  # places that move, or of another shape
                raise ValueError(problem) from error
        if not torch.allclose(torch.cat([x for x, _, _ in rows]), own, rtol=1e-5, atol=1e-6):
            raise ValueError(problem)


def _signal_levels(scheduler: Any) -> tuple[Levels, Levels]:
    """Return the levels of a scheduler that shows no sigmas, from its alphas, timestep by timestep.

    Coarse solvers alone need them: where they are not those of the scheduler's step, iterations take longer.
    """
    timesteps, cumprod = scheduler.timesteps.cpu(), getattr(scheduler, "alphas_cumprod", None)
    if type(scheduler).__name__ == "IPNDMScheduler":
        alpha, sigma = scheduler.alphas.cpu(), scheduler.betas.cpu()
        levels = Levels(alpha**2, alpha.clamp(min=1e-2), sigma)  # it starts at zero signal
        return levels.map(lambda x: x[:-1]), levels.map(lambda x: x[1:])
    whole = not timesteps.is_floating_point()
    if not isinstance(cumprod, Tensor) or not whole or len(timesteps) < 1 or int(timesteps.max()) >= len(cumprod):
        raise ValueError(
            f"{type(scheduler).__name__} shows neither a sigma for each of its steps nor an alpha for each timestep, "
            "so it has no place on a grid; use one of images, as DDIMScheduler (docs/results/support.md)"
        )
    cumprod = cumprod.cpu().float()
    start = cumprod[timesteps]
    rising = len(timesteps) > 1 and bool(timesteps[1] > timesteps[0])
    last = cumprod[-1:] if rising else torch.ones_like(start[:1])
    return Levels.of_alpha_cumprod(start), Levels.of_alpha_cumprod(torch.cat([start[1:], last]))
