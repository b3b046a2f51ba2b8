"""One call of a pipeline: its loop makes the engine's evaluations.

The engine asks for evaluations of rows. The pipeline's own loop makes them: each pass of the loop's body evaluates the
rows that the loop's latents are at the moment, with the pipeline's guidance, control and adapters. Then `step`
takes the guided output and returns the next rows or, at the end, the final state. So nothing that a pipeline does
between its latents and `scheduler.step` is written a second time.

A loop has two phases: `WaitingLoop` from its first timestep to its first `step`, `RunningLoop` from there on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import SEQUENTIAL_NOTE
from parareal_diffusers._pipelines.running import Listener, RunningLoop
from parareal_diffusers._pipelines.settings import Settings, loop_method
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scheduler import plain, stand_in
from parareal_diffusers._pipelines.waiting import WaitingLoop
from parareal_diffusers._sampling.options import resolve_batch_sizes


@final
class Drive:
    """The contact of a call: the stand-in scheduler, the gates and the callbacks talk to it.

    Args:
        scheduler: the pipeline's, which is not changed; `scheduler` is its stand-in.
        settings: how to sample.
        step_options: options of the pipeline's call that its scheduler's step will be given, as `eta`.
        doubled: the pipeline keeps each sample twice in its latents, for guidance.
        counted: its loop looks something up by the number of the pass.
        plans: what is followed where the settings leave the slices open, by the steps of a loop.
    """

    def __init__(
        self,
        scheduler: Any,
        settings: Settings,
        step_options: dict[str, Any],
        doubled: bool = False,
        counted: bool = False,
        plans: Mapping[int, parareal.Plan] = MappingProxyType({}),
    ):
        self.settings, self.step_options, self.doubled, self.counted = settings, step_options, doubled, counted
        self.plans = plans if settings.open else {}
        self.sizes_to_fill = resolve_batch_sizes(settings.pad_batch, settings.max_batch)
        self.most = max(self.sizes_to_fill, default=settings.max_batch)
        self.replicas: Replicas | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.on_iteration: list[Listener] = []
        self.on_pass: list[Callable[[], None]] = []
        self.took: dict[int, list[float]] = {}
        """seconds of passes, by their rows of states"""
        self.loop: WaitingLoop | RunningLoop | None = None
        """None before the loop"""
        self._since = 0.0
        """when the pass began"""
        self._latents: Tensor | None = None
        """what the loop was given as its latents; None before its first step"""
        self.scheduler = stand_in(scheduler, self)

    # Calls of the stand-in scheduler.

    def begin(self) -> None:
        """Forget the last loop: the scheduler has new timesteps."""
        self.close()
        self.loop = self._latents = None

    def times(self, timesteps: Tensor, first: int) -> Iterator[Tensor]:
        """Yield the timesteps as they are until `step` is called; from then on, one per evaluation of the engine."""
        if self.running is None:
            self.loop = self._waiting(first, len(timesteps))
        for t in timesteps:
            if self.running is None:
                self._since = time.perf_counter()
                yield t
        if self.running is not None:
            yield from self.running.times(len(timesteps) if self.counted else None)

    def _waiting(self, first: int, steps: int) -> WaitingLoop:
        plan = self.plans.get(steps)
        settings = self.settings if plan is None else self.settings.following(plan)
        scheduler = plain(self.scheduler)
        method = loop_method(settings, self.step_options, scheduler, first, first + steps)
        return WaitingLoop(scheduler, settings, method, "" if plan is None or plan.worthwhile else SEQUENTIAL_NOTE)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents, once or more for guidance, divided as the network wants them."""
        return latents if self.loop is None else self.loop.scaled(latents)

    def step(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Take the network's output for the rows; return the next rows, or the final state."""
        self._check_unchanged(latents)
        if self.doubled:
            output, latents = output.chunk(2)[0], latents.chunk(2)[0]
        rows, evaluated = len(latents), time.perf_counter()
        with torch.no_grad():
            running, first = self.running, self.running is None
            if running is None:
                self._begin(output, latents, options)
            else:
                running.step(output)
            if self.interrupted() and not self.done:
                self.stop()
        for tell in self.on_pass:
            tell()
        assert self.running is not None
        self._latents = self.as_latents(self.running.state)
        now = time.perf_counter()
        # the first pass is timed without setting the engine up
        self.took.setdefault(rows, []).append((evaluated if first else now) - self._since)
        self._since = now
        return self._latents

    def _check_unchanged(self, latents: Tensor) -> None:
        if self._latents is None or latents is self._latents or torch.equal(latents, self._latents):
            return
        raise RuntimeError(
            "the pipeline changed its latents after a step, and here they are rows of many steps: it cannot be "
            "sampled in parallel in time"
        )

    def _begin(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> None:
        if self.loop is None:
            raise RuntimeError(
                "the pipeline does not iterate its scheduler's timesteps: it cannot be sampled in parallel in time"
            )
        assert isinstance(self.loop, WaitingLoop)
        self.loop = self.loop.begun(latents, output.dtype, options, self.on_iteration)
        self.loop.begin(output)

    # Calls of the gates.

    @property
    def rows(self) -> LatentRows | None:
        """The rows that the loop carries; None before the loop, and after it."""
        return None if self.loop is None else self.loop.rows

    def sizes(self, copies: int) -> tuple[int | None, list[int]]:
        """Return the most rows of one call of a network, and the sizes it is filled up to."""
        most = None if self.most is None else self.most * copies
        return most, [size * copies for size in self.sizes_to_fill]

    # Calls of the handle and the callbacks.

    @property
    def running(self) -> RunningLoop | None:
        """The loop since its first `step`; None before."""
        return self.loop if isinstance(self.loop, RunningLoop) else None

    @property
    def done(self) -> bool:
        """True once the loop has its final state."""
        return self.loop is not None and self.loop.done

    @property
    def solution(self) -> parareal.Solution | None:
        """The solution; None before the loop is done."""
        return None if self.running is None else self.running.solution

    @property
    def steps(self) -> int:
        """The number of steps that the loop would make by itself; 0 before it begins."""
        return 0 if self.loop is None else self.loop.method.steps

    def as_latents(self, state: Tensor) -> Tensor:
        """Return states as the loop keeps its latents."""
        assert self.running is not None
        state = state.to(self.running.dtype)
        return torch.cat([state, state]) if self.doubled else state

    def stop(self) -> Tensor:
        """End the run here; return the newest iterate as the loop's latents."""
        assert self.running is not None
        self.running.stop()
        return self.as_latents(self.running.state)

    def check_done(self) -> None:
        """Raise `RuntimeError` unless the loop has come to its end: what it left would be rows, not samples."""
        if not self.done:
            raise RuntimeError(
                "the pipeline left its loop before the end: it cannot be sampled in parallel in time with these "
                "arguments"
            )

    def release(self) -> None:
        """Let go of the run, and of those who hold this object, which only the collector would free otherwise."""
        self.loop = self.scheduler = None
        self.on_iteration, self.on_pass = [], []

    def close(self) -> None:
        """Let go of a run that has not come to its end."""
        if self.running is not None:
            self.running.close()
