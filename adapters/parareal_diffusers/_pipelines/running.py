"""A pipeline's loop from its first `step` on: each pass is one evaluation that the engine has asked for."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import Evaluation, Run
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._pipelines.settings import LoopMethod
from parareal_diffusers._pipelines.stand_ins.network import outside
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scheduler import RowTime

_CHECKED = 8  # passes in which the timesteps given to the network are compared with the rows' own

Listener = Callable[[parareal.Refinement], Any]


@final
class RunningLoop:
    """The engine's run, and the rows that the loop carries for it.

    The engine never calls the network. `Run.events` yields an `Evaluation`, this object keeps its arguments as the
    loop's next latents, the pipeline's own loop evaluates them, and `step` sends the output back.

    Args:
        run: the engine's run, not begun.
        method: solvers and boundaries.
        timesteps: all of the scheduler's, on the latents' device.
        initial: the initial states.
        dtype: of the loop's latents, which may be narrower than that of the states.
        random: the source of noise; None where there is none.
        listeners: called with each iterate; one that returns False cancels the run.
        note: a sentence for the solution's message.
    """

    def __init__(
        self,
        run: Run,
        method: LoopMethod,
        timesteps: Tensor,
        initial: Tensor,
        dtype: torch.dtype,
        random: NoiseSource | None,
        listeners: Sequence[Listener],
        note: str = "",
    ):
        self.run, self.method, self.timesteps = run, method, timesteps
        self.initial, self.dtype, self.random, self.listeners, self.note = initial, dtype, random, listeners, note
        self.events = run.events()
        self.state = initial
        """the rows to evaluate next; when done, the final state"""
        self.rows: LatentRows | None = None
        """what the rows are; None when done"""
        self.nodes = torch.full((len(initial),), method.first, device=timesteps.device)
        """each row's node, int64 of shape (R,)"""
        self.passes = 1
        self.iteration = -1
        """the newest one that all samples have made"""
        self.done = False
        self.solution: parareal.Solution | None = None

    def begin(self, output: Tensor) -> None:
        """Take the output of the loop's first pass, which was made before there was a run.

        That pass evaluated all samples at the first node. As a rule this is the engine's first request, and the output
        answers it. Otherwise the output is of no use, and the loop's next pass makes the engine's first evaluation.
        """
        self._advance(None)
        if self.rows is not None and self.rows.sample is None and bool((self.nodes == self.method.first).all()):
            self._advance(output)

    def step(self, output: Tensor) -> None:
        """Take the output of a pass; go to the next evaluation or to the end."""
        self.passes += 1
        self._advance(output)

    def times(self, most: int | None) -> Iterator[Tensor]:
        """Yield the rows' timesteps, one pass per evaluation, to the run's end; `most` bounds the passes."""
        while self.rows is not None:  # neither done nor closed
            if most is not None and self.passes >= most:
                raise RuntimeError(
                    f"the pipeline has something for each of its {most} steps, and more passes are needed: "
                    "use schedule='pipelined' without levels"
                )
            assert self.rows.times is not None
            yield RowTime.of(self.rows.times)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents, once or more for guidance, divided by each row's input scale."""
        scale = self.method.grid.input_scale
        if scale is None:
            return latents
        copies = len(latents) // len(self.nodes)
        scale = scale.to(latents.device)[self.nodes].repeat(copies)
        return (latents / scale.reshape(-1, *[1] * (latents.ndim - 1))).to(latents.dtype)

    def stop(self) -> None:
        """End the run here: the final state is the newest iterate, or the initial noise before there is one."""
        reached = self.iteration >= 0
        self.run.cancelled = True
        self.events.close()
        self._finish(self.run.refinement(self.iteration).final_state if reached else self.initial)

    def close(self) -> None:
        """Let go of the run."""
        self.events.close()
        self.rows = None

    @property
    def last_timestep(self) -> Tensor:
        """The timestep of the loop's last step, 0-dimensional."""
        return self.timesteps[self.method.edges[-1] - 1]

    @property
    def steps_final(self) -> int:
        """The number of steps from the first that are final, for every sample."""
        edges, first = self.method.edges, self.method.first
        if self.done:
            return self.method.steps
        return min(_final_node(machine, edges) for machine in self.run.machines) - first

    def _advance(self, output: Tensor | None) -> None:
        """Take the engine to its next evaluation, or to its end."""
        value = None if output is None else output.to(self.initial.dtype)
        try:
            event = self.events.send(value)
            while not isinstance(event, Evaluation):  # an iteration that all samples have made
                self._tell(event)
                event = next(self.events)
        except StopIteration:
            self._finish(None)
            return
        # The evaluation is not made here: its arguments become the loop's latents, and the pipeline makes it.
        self.state, self.nodes, sample = event.arguments
        samples = len(self.initial)
        in_order = len(sample) == samples and bool((sample == torch.arange(samples, device=sample.device)).all())
        self.rows = LatentRows(
            samples,
            None if in_order else sample,
            self.timesteps[self.nodes],
            len(self.nodes),
            len(self.timesteps) - self.method.first,
            self.nodes - self.method.first,
            self.passes < _CHECKED,
        )

    def _tell(self, iteration: int) -> None:
        self.iteration = iteration
        if not self.listeners:
            return
        refinement = self.run.refinement(iteration)
        with outside():
            for listener in self.listeners:
                if listener(refinement) is False:
                    self.run.cancelled = True

    def _finish(self, state: Tensor | None) -> None:
        """Make the solution; `state` is the final state where the run was stopped."""
        solution = self.run.solution()
        if self.note:
            solution = replace(solution, message=f"{solution.message} {self.note}")
        self.solution, self.done, self.rows = solution, True, None
        if self.random is not None:
            self.random.finish()
        if solution.outcome in (parareal.Outcome.NON_FINITE, parareal.Outcome.WORKER_LOST):
            raise parareal.PararealError(solution.message, solution) from self.run.error
        if solution.outcome is parareal.Outcome.ITERATION_LIMIT:
            warnings.warn(f"parareal: {solution.message}", stacklevel=2)
        self.state = solution.final_state if state is None else state


def _final_node(machine: Any, edges: Sequence[int]) -> int:
    """Return the last node up to which all of one sample's boundaries are final."""
    count = sum(1 for _ in takewhile(lambda u: u is not None and u.final, machine.outputs))
    return edges[-1] if machine.done else edges[min(count, len(edges) - 1)]
