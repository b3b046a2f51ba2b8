"""One call of a parallelized pipeline: the bridge between the pipeline's loop and the engine.

The engine requests evaluations of rows, each a state of one sample at one node. The pipeline's own loop makes them.
Each pass of the loop's body evaluates the rows that the latents hold at that moment, with the pipeline's own guidance,
control and adapters. At its end the loop calls `scheduler.step`, which takes the guided output and returns the next
rows or, at the end, the final state. So nothing that a pipeline does between its latents and `scheduler.step` is
implemented a second time.

The order of calls in one call of a pipeline, all in the caller's thread:

    Handle.call                     installs the stand-in scheduler, the network wrappers and the active bridge
      pipeline.__call__             the pipeline's own code
        set_timesteps            -> LoopBridge.reset
        for t in timesteps       -> LoopBridge.iterate_timesteps    makes a `WaitingLoop`
          scale_model_input      -> LoopBridge.scale_input
          network                -> NetworkWrapper                  reads LoopBridge.rows
          step                   -> LoopBridge.step                 first: makes a `RunningLoop`
                                      RunningLoop.receive           resumes the engine to its next evaluation
          callback_on_step_end   -> StepCallback
        next t                                                      until the engine's run has ended

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
from parareal_diffusers._pipelines.settings import Settings, set_up_loop
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scheduler import make_stand_in, restore_scheduler
from parareal_diffusers._pipelines.waiting import WaitingLoop
from parareal_diffusers._sampling.options import resolve_batch_sizes


@final
class LoopBridge:
    """The object that the stand-in scheduler, the network wrappers and the callbacks of one call talk to.

    Args:
        scheduler: the pipeline's scheduler, which is not changed; the attribute `scheduler` is its stand-in.
        settings: the settings of the call.
        step_options: options of the pipeline's call that it passes to its scheduler's `step`, such as `eta`.
        doubles_latents: whether the pipeline keeps each sample twice in its latents, for guidance.
        indexes_by_pass: whether the pipeline's loop looks something up by the number of the pass.
        plans: plans by the number of steps of a loop, followed if the settings leave the slices open.
    """

    def __init__(
        self,
        scheduler: Any,
        settings: Settings,
        step_options: dict[str, Any],
        doubles_latents: bool = False,
        indexes_by_pass: bool = False,
        plans: Mapping[int, parareal.Plan] = MappingProxyType({}),
    ):
        self.settings, self.step_options = settings, step_options
        self.doubles_latents, self.indexes_by_pass = doubles_latents, indexes_by_pass
        self.plans = plans if settings.follows_plans else {}
        self.pad_sizes = resolve_batch_sizes(settings.pad_batch, settings.max_batch)
        self.max_rows = max(self.pad_sizes, default=settings.max_batch)
        self.replicas: Replicas | None = None
        self.is_interrupted: Callable[[], bool] = lambda: False
        self.on_iteration: list[Listener] = []
        """called with each iterate, during `step`"""
        self.on_pass: list[Callable[[], None]] = []
        """called at the end of each pass"""
        self.pass_times: dict[int, list[float]] = {}
        """the duration of each pass in seconds, by its number of rows"""
        self.loop: WaitingLoop | RunningLoop | None = None
        """None before the loop"""
        self._pass_start = 0.0
        """the time at which the present pass began, in seconds"""
        self._latents: Tensor | None = None
        """the latents that the last `step` returned; None before the first"""
        # The stand-in and this object refer to each other; `release` breaks the circle.
        self.scheduler = make_stand_in(scheduler, self)

    # Methods that the stand-in scheduler calls.

    def reset(self) -> None:
        """Drop a loop that has begun: the scheduler has new timesteps."""
        self.close()
        self.loop = self._latents = None

    def iterate_timesteps(self, timesteps: Tensor, first: int) -> Iterator[Tensor]:
        """Yield the timesteps as they are until `step` is called; from then on, one per evaluation of the engine.

        A pipeline may iterate its timesteps before its loop, to compute something for each of them. That iteration
        never calls `step`, so it sees the scheduler's own timesteps, and the next iteration starts again.
        """
        if self.running_loop is None:
            self.loop = self._prepare(first, len(timesteps))
        # This is a generator: the loop's body, with its call of `step`, runs between two yields. Once the run has
        # begun, the remaining timesteps are skipped.
        for t in timesteps:
            if self.running_loop is None:
                self._pass_start = time.perf_counter()
                yield t
        if self.running_loop is not None:
            # A pipeline that prepares one value per step and indexes by the pass would index past the end.
            yield from self.running_loop.iterate_timesteps(len(timesteps) if self.indexes_by_pass else None)

    def _prepare(self, first: int, num_steps: int) -> WaitingLoop:
        """Return the loop of `num_steps` steps from step `first` on, before its first `step`."""
        # The number of steps is known only here: a strength or `denoising_end` leaves part of them out.
        plan = self.plans.get(num_steps)
        settings = self.settings if plan is None else self.settings.apply_plan(plan)
        scheduler = restore_scheduler(self.scheduler)
        setup = set_up_loop(settings, self.step_options, scheduler, first, first + num_steps)
        return WaitingLoop(scheduler, settings, setup, "" if plan is None or plan.worthwhile else SEQUENTIAL_NOTE)

    def scale_input(self, latents: Tensor) -> Tensor:
        """Return latents, including their guidance copies, scaled for the network."""
        return latents if self.loop is None else self.loop.scale_input(latents)

    def step(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Take the network's output for the rows, after guidance; return the next rows, or the final state.

        Raises:
            RuntimeError: if the latents are not those that the last `step` returned, or the pipeline has not iterated
                its scheduler's timesteps.
            parareal.PararealError: if a state is not finite.
        """
        self._check_unchanged(latents)
        if self.doubles_latents:  # the two halves are equal
            output, latents = output.chunk(2)[0], latents.chunk(2)[0]
        rows, evaluation_end = len(latents), time.perf_counter()
        with torch.no_grad():  # the engine's corrections are outside autograd, whatever the pipeline's mode
            running, is_first = self.running_loop, self.running_loop is None
            if running is None:
                self._start(output, latents, options)
            else:
                running.receive(output)
            # An interrupt takes effect here and not in the pipeline's loop (see derived.py), because only `step` can
            # replace the rows of many steps by whole samples.
            if self.is_interrupted() and not self.done:
                self.stop()
        for listener in self.on_pass:
            listener()
        assert self.running_loop is not None
        self._latents = self.to_latents(self.running_loop.state)
        now = time.perf_counter()
        # A pass includes the engine's own work, but the first one leaves out setting the engine up.
        self.pass_times.setdefault(rows, []).append((evaluation_end if is_first else now) - self._pass_start)
        self._pass_start = now
        return self._latents

    def _check_unchanged(self, latents: Tensor) -> None:
        """Raise `RuntimeError` unless latents are those that the last `step` returned."""
        # Identity first, because comparing values waits for the device. A pipeline may copy its latents, though.
        if self._latents is None or latents is self._latents or torch.equal(latents, self._latents):
            return
        raise RuntimeError(
            "the pipeline changed its latents after a step, but in parallel in time they hold rows of many steps: call "
            "handle.disable() and sample sequentially"
        )

    def _start(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> None:
        """Begin the engine's run at the first `step`, and give it the output of the first pass."""
        if self.loop is None:
            raise RuntimeError(
                "the pipeline does not iterate its scheduler's timesteps, so it cannot be sampled in parallel in time: "
                "call handle.disable() and sample sequentially"
            )
        assert isinstance(self.loop, WaitingLoop)
        self.loop = self.loop.start(latents, output.dtype, options, self.on_iteration)
        self.loop.receive_first(output)

    # Methods that the network wrappers call.

    @property
    def rows(self) -> LatentRows | None:
        """The rows that the loop's latents are; None before and after the loop."""
        return None if self.loop is None else self.loop.rows

    def batch_limits(self, copies: int) -> tuple[int | None, list[int]]:
        """Return the most rows of one call of a network and the sizes to pad calls to, for `copies` guidance copies."""
        max_rows = None if self.max_rows is None else self.max_rows * copies
        return max_rows, [size * copies for size in self.pad_sizes]

    # Methods that the handle and the callbacks call.

    @property
    def running_loop(self) -> RunningLoop | None:
        """The loop since its first `step`; None before."""
        return self.loop if isinstance(self.loop, RunningLoop) else None

    @property
    def done(self) -> bool:
        """True once the loop has its final state."""
        return self.loop is not None and self.loop.done

    @property
    def solution(self) -> parareal.Solution | None:
        """The solution; None before the loop is done."""
        return None if self.running_loop is None else self.running_loop.solution

    @property
    def num_steps(self) -> int:
        """The number of steps that the unmodified loop would make; 0 before it begins."""
        return 0 if self.loop is None else self.loop.setup.num_steps

    def to_latents(self, state: Tensor) -> Tensor:
        """Return states in the dtype and layout of the loop's latents."""
        assert self.running_loop is not None
        state = state.to(self.running_loop.dtype)
        return torch.cat([state, state]) if self.doubles_latents else state

    def stop(self) -> Tensor:
        """End the run now; return the newest iterate in the form of the loop's latents."""
        assert self.running_loop is not None
        self.running_loop.stop()
        return self.to_latents(self.running_loop.state)

    def check_done(self) -> None:
        """Raise `RuntimeError` unless the loop has ended: its latents would be rows of many steps, not samples."""
        if not self.done:
            raise RuntimeError(
                "the pipeline left its loop before the end, so it cannot be sampled in parallel in time with these "
                "arguments: call handle.disable() and sample sequentially"
            )

    def release(self) -> None:
        """Drop the run and everything that refers to this object.

        Otherwise the states and the network's copies would live until the garbage collector finds the circle.
        """
        self.loop = self.scheduler = None
        self.on_iteration, self.on_pass = [], []

    def close(self) -> None:
        """Close the run, also before its end."""
        if self.running_loop is not None:
            self.running_loop.close()
