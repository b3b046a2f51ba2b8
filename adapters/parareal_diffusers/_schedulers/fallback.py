"""The solver for schedulers without a native one: the scheduler's own step, row by row, on restored copies."""

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
from parareal_diffusers._schedulers.snapshot import PROBE_STATE, Snapshots, takes_generator
from parareal_diffusers._solvers.solver import Shift, Solver, StepGenerator
from parareal_diffusers._solvers.step_interval import StepInterval

# Schedulers of diffusers give attributes of equal meaning equal names. All tensors of the sample's shape that are not
# listed here are predictions, of the kind that the scheduler's config names.
_STATE_ATTRIBUTES = ("sample", "last_sample", "cur_sample")
_NOISE_ATTRIBUTES = ("last_noise",)
_NOISE_PREDICTION_ATTRIBUTES = ("derivatives", "ets")


class SchedulerMemory(NamedTuple):
    """Captured states of schedulers, one per row (`Snapshots`)."""

    data: Tensor
    """tensors of the sample's shape, stacked: shape (R, slots, *sample)"""
    skeletons: Tensor
    """numbers of the skeletons, int64 of shape (R,); -1 for a scheduler that has made no step"""


@final
@dataclass(frozen=True)
class AnyScheduler(Solver):
    """A scheduler's own step as a fine solver, for schedulers without a native solver.

    Each row's step is a call of `scheduler.step` on a copy of the scheduler in the row's state. This costs some hundred
    microseconds per row, which native solvers spend on all rows together. A scheduler that draws noise is given a
    generator in the state in which the sequential loop's generator is at that step (`Replay`). A scheduler whose noise
    is a Brownian path (`DPMSolverSDEScheduler`) is given the path of the whole batch, which all slices share.

    `sample` makes this solver by itself for a scheduler without a native solver. Pass one to use a scheduler's own step
    although there is a native solver.

    Args:
        scheduler: a diffusers scheduler.
        options: further keyword arguments of its `step`, as in
            `AnyScheduler(EulerDiscreteScheduler(), {"s_churn": 40.0})`.

    Raises:
        TypeError: for options that its `step` does not have.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scheduler is None or not hasattr(self.scheduler, "step"):
            return  # `sample` checks the scheduler and has a better message
        step_options = [*signature(self.scheduler.step).parameters][3:]  # after output, timestep and sample
        wrong = [name for name in self.options if name not in step_options or name in ("generator", "return_dict")]
        if wrong:
            name = type(self.scheduler).__name__
            raise TypeError(f"options: the step of {name} has no options {', '.join(wrong)}: leave them out")

    @property
    def stochastic(self) -> bool:
        """Whether the scheduler adds noise with the timesteps that it has."""
        return self.snapshots.draws_noise or self.snapshots.brownian_path is not None

    # Cached, and thus made once per solve: it runs the scheduler over all its timesteps on a small state.
    @cached_property
    def snapshots(self) -> Snapshots:
        """The scheduler's states."""
        return Snapshots(self.scheduler, self.options)

    def begin(self, x: Tensor) -> Memory:
        """Return the states of schedulers that have made no step."""
        slots = len(self.snapshots.slots)
        return SchedulerMemory(x.new_zeros(len(x), slots, *x.shape[1:]), torch.full((len(x),), -1, device=x.device))

    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row by one `scheduler.step`; one evaluation."""
        output = yield x, interval.start
        output = output[:, : x.shape[1]]  # without a predicted variance
        # Schedulers know one timestep and one state at a time, so rows cannot share a call.
        rows = zip(interval.start.tolist(), memory.skeletons.tolist(), interval.sample.tolist(), strict=True)
        states, data, skeletons = [], [], []
        for i, (node, skeleton, sample) in enumerate(rows):
            before = x[i], memory.data[i], skeleton
            state, row_data, number = self._step_row(output[i], *before, node, sample, interval.random)
            states.append(state)
            data.append(row_data)
            skeletons.append(number)
        numbers = torch.tensor(skeletons, device=x.device)
        return torch.stack(states), SchedulerMemory(torch.stack(data), numbers)

    def _step_row(
        self, output: Tensor, x: Tensor, data: Tensor, skeleton: int, node: int, sample: int, noise_source: Any
    ) -> tuple[Tensor, Tensor, int]:
        """Return state, data and skeleton of one row after its step."""
        # A coarse prediction at a node within a cycle: the scheduler's earlier calls of this cycle were never made, and
        # it cannot finish a cycle that it has not begun. The state waits for the next cycle.
        if skeleton < 0 and node % self._order:
            return x, data, skeleton
        # If all samples draw from one generator, what a sample gets depends on the shape of the whole batch. So the
        # step is made for `copies` equal rows, and the row of this sample is kept.
        copies, options, path = 1, {}, None
        if isinstance(noise_source, Replay):
            copies, path = noise_source.copies, noise_source.path
            options = noise_source.step_options(node, sample)
        row = sample if copies > 1 else 0
        scheduler, t = self.snapshots.restore(data, skeleton, node, copies, path), self.scheduler.timesteps[node]
        outputs, states = output.expand(copies, *x.shape), x.expand(copies, *x.shape)
        result = scheduler.step(outputs, t, states, return_dict=False, **options, **self.options)[0]
        # Some schedulers return another dtype than that of the state.
        return result[row].to(x.dtype), *self.snapshots.capture(scheduler, x, row)

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Return the memory with states and predictions shifted along with the corrected state."""
        data = memory.data.clone()
        for name, position in self.snapshots.slots_in(int(memory.skeletons)):
            if name not in _NOISE_ATTRIBUTES:  # noise is a function of the step, so it is the same in all iterations
                data[:, position] += (
                    shift.previous if name in _STATE_ATTRIBUTES else self._prediction_shift(name, shift)
                )
        return SchedulerMemory(data, memory.skeletons)

    def _prediction_shift(self, name: str, shift: Shift) -> Tensor:
        """Return the increment of a stored prediction: of the velocity, the clean sample or the noise."""
        config = self.scheduler.config
        if is_flow(self.scheduler):
            return shift.noise - shift.clean
        stores_clean = config.get("predict_x0", str(config.get("algorithm_type", "")).endswith("++"))
        # `ets` and derivatives dx / dsigma are the predicted noise, whatever prediction the scheduler integrates.
        is_noise = name in _NOISE_PREDICTION_ATTRIBUTES or name == "prev_derivative"
        return shift.clean if stores_clean and not is_noise else shift.noise

    def base_nodes(self, grid: Grid) -> Sequence[int]:
        """Return the node from which each step starts: the first of its cycle, for schedulers of order 2 and more."""
        return [i - i % self._order for i in range(grid.steps)]

    @property
    def _order(self) -> int:
        """The number of `step` calls that make one cycle."""
        return int(getattr(self.scheduler, "order", 1))

    def grid(self) -> Grid:
        """Return the scheduler's grid, over which coarse solvers jump and from which the network's input is scaled.

        Raises:
            ValueError: if the scheduler shows no noise levels, does not run, or was used before.
        """
        scheduler = self.scheduler
        name, count, sigmas = type(scheduler).__name__, len(scheduler.timesteps), getattr(scheduler, "sigmas", None)
        # Its attributes would be those of a run in progress, and every copy would begin with them.
        if getattr(scheduler, "step_index", None) is not None:
            raise ValueError(
                f"the {name} has made steps and keeps their state: call its set_timesteps again before sample"
            )
        try:
            scale = torch.tensor(self.snapshots.input_scale)  # makes the probe run
        except Exception as error:  # the scheduler's own code may raise anything
            raise ValueError(
                f"{name} does not run with these options: {type(error).__name__}: {error}; use others, or another "
                "scheduler (docs/results/support.md)"
            ) from error
        if not isinstance(sigmas, Tensor) or len(sigmas) < count + 1:
            return Grid(scheduler.timesteps.cpu(), *_levels_from_alphas(scheduler), prediction_type_of(scheduler))
        return _grid_from_sigmas(scheduler, sigmas.cpu().float()[: count + 1], scale)

    def check_schedule(self, grid: Grid) -> None:
        """Raise `ValueError` for a scheduler whose state cannot be captured and restored."""
        check_snapshots(self.scheduler, self.snapshots)


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler's process is a flow: x = (1 - sigma) * clean + sigma * noise."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas", False))


def _grid_from_sigmas(scheduler: Any, sigmas: Tensor, scale: Tensor) -> Grid:
    """Return the grid of a scheduler that has N + 1 sigmas; `scale` has its N divisors of the network's input."""
    timesteps = scheduler.timesteps.cpu()
    if is_flow(scheduler):
        start, stop = (Levels.of_sigma(x, flow=True) for x in (sigmas[:-1], sigmas[1:]))
        return Grid(timesteps, start, stop, "flow_prediction")
    kind = prediction_type_of(scheduler)
    # A scheduler that scales its input has states clean + sigma * noise; without scaling they preserve variance.
    if bool((scale == 1).all()):
        return Grid(timesteps, Levels.of_sigma(sigmas[:-1]), Levels.of_sigma(sigmas[1:]), kind)
    start, stop, data = Levels.exploding(sigmas[:-1]), Levels.exploding(sigmas[1:]), scheduler.config.get("sigma_data")
    return Grid(timesteps, start, stop, kind, input_scale=scale, sigma_data=data)


def check_snapshots(scheduler: Any, snapshots: Snapshots) -> None:
    """Check that steps on restored copies, sample by sample, reproduce the scheduler's own run.

    Raises:
        ValueError: if they do not: the scheduler draws noise that no generator controls, keeps a state outside its
            attributes, or couples samples.
    """
    name = type(scheduler).__name__
    if snapshots.draws_noise and not takes_generator(scheduler):
        raise ValueError(
            f"{name} draws noise but its step takes no generator, so its noise cannot be made a function of the step: "
            "use EulerAncestralDiscreteScheduler, or DPMSolverMultistepScheduler with algorithm_type='sde-dpmsolver++'"
        )
    problem = (
        f"{name} keeps a state that cannot be carried from step to step: use a scheduler with a native solver "
        "(docs/results/support.md)"
    )
    # A stochastic scheduler draws for the whole batch at once, so its steps are made on the batch, as in `_step_row`.
    copies = len(PROBE_STATE) if snapshots.draws_noise or snapshots.brownian_path is not None else 1
    rows = [(x[None], PROBE_STATE.new_zeros(len(snapshots.slots), *x.shape), -1) for x in PROBE_STATE]
    for node, (t, expected) in enumerate(zip(scheduler.timesteps, snapshots.states, strict=True)):
        if not bool(torch.isfinite(expected).all()):
            raise ValueError(f"{name}'s own loop gives NaN in step {node} with these options: use others")
        for i, (x, data, skeleton) in enumerate(rows):
            try:
                restored, states = snapshots.restore(data, skeleton, node, copies), x.expand(copies, *x.shape[1:])
                row = i if copies > 1 else 0
                # Every sample's step draws from the global generator in the state that it had in the probe run.
                with torch.random.fork_rng(devices=[]):
                    torch.set_rng_state(snapshots.generator_states[node])
                    # Half of the state stands for the network's output, as in the probe run.
                    result = restored.step(0.5 * states, t, states, return_dict=False, **snapshots.options)[0]
                x = result[row : row + 1]
                rows[i] = x, *snapshots.capture(restored, x[0], row)
            except (KeyError, RuntimeError, IndexError) as error:  # tensors in new attributes, or of another shape
                raise ValueError(problem) from error
        if not torch.allclose(torch.cat([x for x, _, _ in rows]), expected, rtol=1e-5, atol=1e-6):
            raise ValueError(problem)


def _levels_from_alphas(scheduler: Any) -> tuple[Levels, Levels]:
    """Return the levels of a scheduler without sigmas, from its alphas at each timestep.

    Only coarse solvers need them. If they differ from those of the scheduler's step, iterations converge more slowly.

    Raises:
        ValueError: for a scheduler without alphas.
    """
    timesteps, cumprod = scheduler.timesteps.cpu(), getattr(scheduler, "alphas_cumprod", None)
    if type(scheduler).__name__ == "IPNDMScheduler":
        alpha, sigma = scheduler.alphas.cpu(), scheduler.betas.cpu()
        levels = Levels(alpha**2, alpha.clamp(min=1e-2), sigma)  # clamped, because it starts at zero signal
        return levels.map(lambda x: x[:-1]), levels.map(lambda x: x[1:])
    whole = not timesteps.is_floating_point()
    if not isinstance(cumprod, Tensor) or not whole or len(timesteps) < 1 or int(timesteps.max()) >= len(cumprod):
        raise ValueError(
            f"{type(scheduler).__name__} has no sigma per step and no alpha per timestep, so its steps have no noise "
            "levels; use a scheduler of images, such as DDIMScheduler (docs/results/support.md)"
        )
    cumprod = cumprod.cpu().float()
    start = cumprod[timesteps]
    rising = len(timesteps) > 1 and bool(timesteps[1] > timesteps[0])  # an inverse scheduler, which ends in noise
    last = cumprod[-1:] if rising else torch.ones_like(start[:1])
    return Levels.of_alpha_cumprod(start), Levels.of_alpha_cumprod(torch.cat([start[1:], last]))
