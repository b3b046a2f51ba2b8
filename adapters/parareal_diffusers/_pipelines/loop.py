"""One call of a pipeline: its loop makes the engine's evaluations.

The engine asks for evaluations of rows, the pipeline's loop makes them: each pass of the loop's body evaluates the
rows that the loop's latents are at the moment, with the pipeline's own guidance, control and adapters, and `step`
exchanges the guided output for the next rows, or, at the end, for the final state. So nothing that a pipeline does
between its latents and `scheduler.step` is written a second time. The first pass sees the initial latents, which is
the first evaluation that the engine asks for.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import SEQUENTIAL_NOTE, Evaluation, Options, Problem, Run
from parareal_diffusers._pipelines.settings import Method, Settings, check_options, method_of
from parareal_diffusers._pipelines.stand_ins.network import outside
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import Rows
from parareal_diffusers._pipelines.stand_ins.scheduler import RowTime, plain, stand_in
from parareal_diffusers._sampling.coarse_stepper import propagators
from parareal_diffusers._sampling.noise_source import check_generator, check_own_noise, noise_of
from parareal_diffusers._sampling.options import criterion_of, sizes_of

_CHECKED = 8  # passes in which the network's timesteps are looked at


@final
class Drive:
    """Answers the loop's calls; a stand-in scheduler and gates bring them.

    Args:
        settings: how to sample.
        step_options: what the pipeline was called with that its scheduler's step will be given, as `eta`.
        doubled: the pipeline keeps each sample twice in its latents, for guidance.
        counted: its loop looks something up by the number of the pass.
        plans: what is followed where the settings leave the slices open, by the steps of a loop.
    """

    def __init__(
        self,
        settings: Settings,
        step_options: dict[str, Any],
        doubled: bool = False,
        counted: bool = False,
        plans: Mapping[int, parareal.Plan] = MappingProxyType({}),
    ):
        self.given, self.plans = settings, plans if settings.open else {}
        self.settings, self.step_options, self.doubled, self.counted = settings, step_options, doubled, counted
        self.sizes_to_fill = sizes_of(settings.pad_batch, settings.max_batch)
        self.most = max(self.sizes_to_fill, default=settings.max_batch)
        self.scheduler: Any = None
        self.method: Method | None = None
        self.rows: Rows | None = None
        self.replicas: Replicas | None = None
        self.run: Run | None = None
        self.over = False
        self.passes = 0
        self.solution: parareal.Solution | None = None
        self.took: dict[int, list[float]] = {}
        """seconds of passes, by their rows of states"""
        self._since = 0.0
        """when the pass began"""
        self.shown = -1
        """the newest iteration that all samples have made"""
        self.interrupted: Callable[[], bool] = lambda: False
        self.on_iteration: list[Callable[[parareal.Refinement], Any]] = []
        self.on_pass: list[Callable[[], None]] = []

    # What the stand-in calls.

    def begins(self) -> None:
        """Forget the last loop: the scheduler has new timesteps."""
        self.close()
        self.method, self.run, self.rows, self.over = None, None, None, False

    def times(self, timesteps: Tensor, first: int) -> Iterator[Tensor]:
        """Yield the timesteps as they are until `step` is called; from then on, a pass for each call of the engine."""
        plan = self.plans.get(len(timesteps))
        self.settings = self.given if plan is None else self.given.following(plan)
        self.method = method_of(self.settings, self.step_options, plain(self.scheduler), first, first + len(timesteps))
        for t in timesteps:
            if self.run is None:
                self.rows = Rows.first(len(self.scheduler.timesteps) - first)
                self._since = time.perf_counter()
                yield t
        while self.run is not None and not self.over:
            if self.counted and self.passes >= len(timesteps):
                raise RuntimeError(
                    f"the pipeline has something for each of its {len(timesteps)} steps, and more passes are needed: "
                    "use schedule='pipelined' without levels"
                )
            assert self.rows is not None
            assert self.rows.times is not None
            yield RowTime.of(self.rows.times)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents, once or more for guidance, divided as the network wants them."""
        if self.method is None or self.method.grid.input_scale is None:
            return latents
        scale = self.method.grid.input_scale
        if self.run is None:
            return latents / scale[self.method.first].to(latents.device)
        copies = len(latents) // len(self._nodes)
        scale = scale.to(latents.device)[self._nodes].repeat(copies)
        return (latents / scale.reshape(-1, *[1] * (latents.ndim - 1))).to(latents.dtype)

    def step(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Take what the network says of the rows; return the next rows, or the final state."""
        self.passes += 1
        if self.run is not None and latents is not self.handed and not torch.equal(latents, self.handed):
            raise RuntimeError(
                "the pipeline changed its latents after a step, and here they are rows of many steps: it cannot be "
                "sampled in parallel in time"
            )
        if self.doubled:
            output, latents = output.chunk(2)[0], latents.chunk(2)[0]
        rows, evaluated = len(latents), time.perf_counter()
        with torch.no_grad():
            first = self.run is None
            if first:
                self._begin(output, latents, options)
            else:
                self._proceed(output)
            if self.interrupted() and not self.over:
                self.stop()
        for tell in self.on_pass:
            tell()
        self.handed = self.as_latents(self.state)
        now = time.perf_counter()
        self.took.setdefault(rows, []).append((evaluated if first else now) - self._since)  # but to set the engine up
        self._since = now
        return self.handed

    def as_latents(self, state: Tensor) -> Tensor:
        """Return states as the loop keeps its latents."""
        state = state.to(self.dtype)
        return torch.cat([state, state]) if self.doubled else state

    def sizes(self, copies: int) -> tuple[int | None, list[int]]:
        """Return the most rows of one call of a network, and the sizes it is filled up to."""
        most = None if self.most is None else self.most * copies
        return most, [size * copies for size in self.sizes_to_fill]

    # What happens in between.

    def check(self, scheduler: Any, steps: int, dtype: torch.dtype) -> None:
        """Raise what speaks against a scheduler, for a network's dtype; what its own code raises, its loop will."""
        self.scheduler = stand_in(scheduler, self)
        options = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting", False) else {}
        try:
            type(scheduler).set_timesteps(self.scheduler, steps, **options)
        except Exception:
            return
        prepared = plain(self.scheduler)
        method = method_of(self.settings, self.step_options, prepared, 0, len(prepared.timesteps), whole=True)
        check_own_noise(method.fine, dtype, torch.promote_types(dtype, torch.float32))

    def _begin(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> None:
        method, settings = self.method, self.settings
        if method is None:
            raise RuntimeError(
                "the pipeline does not iterate its scheduler's timesteps: it cannot be sampled in parallel in time"
            )
        check_options(method.fine, options)
        generator, steps = options.get("generator"), range(method.first, method.edges[-1])
        self.dtype = latents.dtype
        initial = latents.to(torch.promote_types(latents.dtype, torch.float32))
        check_generator(generator, initial)
        self.random = noise_of(method.fine, method.grid, initial, generator, output.dtype, steps)
        grid = method.grid.to(latents.device)
        criterion = criterion_of(settings.criterion, settings.tolerance, len(steps))
        pair = propagators(method.fine, method.coarse, grid, _network, self.random, initial, criterion)
        problem = Problem.checked(*pair, initial, method.edges, 1, levels=settings.levels)
        executor = parareal.BatchedExecutor()  # the gate keeps to max_batch: passes stay as few as they can be
        options_ = Options(
            criterion=criterion,
            max_iterations=settings.max_iterations,
            schedule=settings.schedule,
            executor=executor,
            window=settings.window,
            speculate_until=settings.speculate_until,
        )
        self.run = Run(problem, options_)
        self.events = self.run.events()
        self.initial, self.state = initial, initial
        self.timesteps = plain(self.scheduler).timesteps.to(latents.device)
        self._left = len(self.timesteps) - method.first
        if self._advance(None) and not self._is_first(method.first, len(initial)):
            return
        if not self.over:
            self._proceed(output)

    def _is_first(self, node: int, samples: int) -> bool:
        """Whether the engine asks what the loop's first pass has evaluated: all samples, in order, at their start."""
        return len(self._nodes) == samples and bool((self._nodes == node).all() and (self._rows == self._order).all())

    def _proceed(self, output: Tensor) -> None:
        self._advance(output.to(self.initial.dtype))

    def _advance(self, value: Tensor | None) -> bool:
        """Take the engine to its next call; say whether there is one."""
        assert self.run is not None
        assert self.method is not None
        try:
            event = self.events.send(value)
            while not isinstance(event, Evaluation):
                self._iterated(event)
                event = next(self.events)
        except StopIteration:
            self._finish()
            return False
        self.state, self._nodes, self._rows = event.arguments
        samples = len(self.initial)
        self._order = torch.arange(samples, device=self._rows.device)
        ordered = len(self._rows) == samples and bool((self._rows == self._order).all())
        times = self.timesteps[self._nodes]
        numbers = self._nodes - self.method.first
        self.rows = Rows(
            samples, None if ordered else self._rows, times, len(times), self._left, numbers, self.passes < _CHECKED
        )
        return True

    def _iterated(self, iteration: int) -> None:
        assert self.run is not None
        self.shown = iteration
        if not self.on_iteration:
            return
        refinement = self.run.refinement(iteration)
        with outside():
            for tell in self.on_iteration:
                if tell(refinement) is False:
                    self.run.cancelled = True

    def stop(self) -> None:
        """Stop here: the loop's latents become the newest iterate, or the initial noise before there is one."""
        assert self.run is not None
        reached = self.shown >= 0
        self.run.cancelled = True
        self.events.close()
        self._finish(self.run.refinement(self.shown).final_state if reached else self.initial)

    def _finish(self, state: Tensor | None = None) -> None:
        assert self.run is not None
        solution, plan = self.run.solution(), self.plans.get(self.steps)
        if plan is not None and not plan.worthwhile:
            solution = replace(solution, message=f"{solution.message} {SEQUENTIAL_NOTE}")
        self.solution = solution
        self.over, self.rows = True, None
        if self.random is not None:
            self.random.finish()
        if solution.outcome in (parareal.Outcome.NON_FINITE, parareal.Outcome.WORKER_LOST):
            raise parareal.PararealError(solution.message, solution) from self.run.error
        if solution.outcome is parareal.Outcome.ITERATION_LIMIT:
            warnings.warn(f"parareal: {solution.message}", stacklevel=2)
        self.state = solution.final_state if state is None else state

    def ended(self) -> None:
        """Raise `RuntimeError` unless the loop has come to its end: what it left would be rows, not samples."""
        if not self.over:
            raise RuntimeError(
                "the pipeline left its loop before the end: it cannot be sampled in parallel in time with these "
                "arguments"
            )

    def close(self) -> None:
        """Let go of a run that has not come to its end."""
        if self.run is not None:
            self.events.close()
        self.rows = None

    @property
    def last_timestep(self) -> Tensor:
        """The timestep of the loop's last step, 0-dimensional."""
        assert self.method is not None
        return self.timesteps[self.method.edges[-1] - 1]

    @property
    def steps(self) -> int:
        """How many steps the loop would make by itself."""
        return 0 if self.method is None else self.method.edges[-1] - self.method.first

    @property
    def steps_final(self) -> int:
        """How many steps from the first are final, of every sample."""
        if self.run is None or self.method is None:
            return 0
        if self.over:
            return self.steps
        return min(_final(machine, self.method.edges) for machine in self.run.machines) - self.method.first


def _final(machine: Any, edges: Sequence[int]) -> int:
    """Return the last node up to which all of one sample's boundaries are final."""
    count = sum(1 for _ in takewhile(lambda u: u is not None and u.final, machine.outputs))
    return edges[-1] if machine.done else edges[min(count, len(edges) - 1)]


def _network(*_: Any) -> Any:
    raise RuntimeError("the pipeline's loop calls the network")
