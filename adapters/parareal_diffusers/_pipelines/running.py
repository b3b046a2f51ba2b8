"""A pipeline's loop from its first `step` on: each pass makes one evaluation that the engine has requested."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import Evaluation, Run, requests_cancellation
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._pipelines.settings import LoopSetup
from parareal_diffusers._pipelines.stand_ins.network import suspend_bridge
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scheduler import RowTimestep

_CHECKED_PASSES = 8
"""the passes in which the network's timesteps are compared with the rows'; only a few, as each waits for the device"""

Listener = Callable[[parareal.Refinement], Any]


@final
class RunningLoop:
    """The engine's run, and the rows that the loop carries for it.

    The engine never calls the network. `Run.events` is a generator: it yields an `Evaluation` and waits for its value.
    This object keeps the evaluation's rows as the loop's next latents. The pipeline's own loop evaluates them, with
    its guidance, and calls `step` of the stand-in scheduler, which passes the output to `receive`. `receive` sends the
    output into the generator, which runs until its next evaluation. All of this happens in the pipeline's own thread.

    Args:
        run: the engine's run, not yet begun.
        setup: solvers, grid and boundaries.
        timesteps: all timesteps of the scheduler, shape (N,), on the device of the latents.
        initial: the initial states, float32 or float64, shape (samples, *sample).
        dtype: the dtype of the loop's latents, which may be narrower than that of the states.
        noise_source: the source of noise; None for a deterministic solver.
        listeners: called with each iterate; one whose result `requests_cancellation` cancels the run.
        note: a sentence to add to the solution's message.
    """

    def __init__(
        self,
        run: Run,
        setup: LoopSetup,
        timesteps: Tensor,
        initial: Tensor,
        dtype: torch.dtype,
        noise_source: NoiseSource | None,
        listeners: Sequence[Listener],
        note: str = "",
    ):
        self.run, self.setup, self.timesteps = run, setup, timesteps
        self.initial, self.dtype, self.noise_source = initial, dtype, noise_source
        self.listeners, self.note = listeners, note
        self.events = run.events()
        self.state = initial
        """the rows to evaluate next, shape (R, *sample); when done, the final state"""
        self.rows: LatentRows | None = None
        """the description of the rows in `state`; None when done"""
        self.nodes = torch.full((len(initial),), setup.first, device=timesteps.device)
        """the node of each row, int64 of shape (R,)"""
        self.passes = 1
        self.iteration = -1
        """the newest iteration that all samples have made; -1 before the coarse prediction"""
        self.done = False
        self.solution: parareal.Solution | None = None

    def receive_first(self, output: Tensor) -> None:
        """Take the output of the loop's first pass, which was evaluated before there was a run.

        That pass evaluated all samples at the first node. As a rule this is the engine's first request, and the output
        answers it. Otherwise the output is discarded, and the loop's next pass makes the engine's first evaluation.
        """
        self._advance(None)
        # A request for all samples in order, each at the first node, is the evaluation that the first pass has made.
        if self.rows is not None and self.rows.sample_index is None and bool((self.nodes == self.setup.first).all()):
            self._advance(output)

    def receive(self, output: Tensor) -> None:
        """Take the output of a pass, and advance to the engine's next evaluation or to the end."""
        self.passes += 1
        self._advance(output)

    def iterate_timesteps(self, max_passes: int | None) -> Iterator[Tensor]:
        """Yield the rows' timesteps, one pass per evaluation, until the run ends.

        Raises:
            RuntimeError: if more than `max_passes` passes are needed, unless that is None.
        """
        while self.rows is not None:  # until the run is done or closed
            if max_passes is not None and self.passes >= max_passes:
                raise RuntimeError(
                    f"the pipeline prepares one value for each of its {max_passes} steps, and this call needs more "
                    "passes of its loop: use schedule='pipelined' without levels"
                )
            assert self.rows.timesteps is not None
            yield RowTimestep.of(self.rows.timesteps)

    def scale_input(self, latents: Tensor) -> Tensor:
        """Return latents, including their guidance copies, divided by each row's input scale."""
        scale = self.setup.grid.input_scale
        if scale is None:
            return latents
        copies = len(latents) // len(self.nodes)
        scale = scale.to(latents.device)[self.nodes].repeat(copies)
        return (latents / scale.reshape(-1, *[1] * (latents.ndim - 1))).to(latents.dtype)

    def stop(self) -> None:
        """End the run now. The final state is the newest iterate, or the initial noise before there is one."""
        has_iterate = self.iteration >= 0
        # The outcome says cancelled. Closing the generator ends the engine's runner before the solution is read.
        self.run.cancelled = True
        self.events.close()
        self._finish(self.run.refinement(self.iteration).final_state if has_iterate else self.initial)

    def close(self) -> None:
        """Close the run, also before its end."""
        self.events.close()
        self.rows = None

    @property
    def last_timestep(self) -> Tensor:
        """The timestep of the loop's last step, 0-dimensional."""
        return self.timesteps[self.setup.edges[-1] - 1]

    @property
    def final_steps(self) -> int:
        """The number of steps, from the first on, after which the state of every sample is final."""
        edges, first = self.setup.edges, self.setup.first
        # Not from the machines: those of a run that was stopped early hold boundaries that are not final, and yet its
        # loop has ended.
        if self.done:
            return self.setup.num_steps
        return min(_find_final_node(machine, edges) for machine in self.run.machines) - first

    def _advance(self, output: Tensor | None) -> None:
        """Send an output to the engine, and run it to its next evaluation or to its end."""
        # The network may compute in half precision; the engine's states do not.
        value = None if output is None else output.to(self.initial.dtype)
        try:
            # `send` resumes the engine at the evaluation that it has yielded; None starts it.
            event = self.events.send(value)
            while not isinstance(event, Evaluation):  # the number of an iteration that all samples have made
                self._notify(event)
                event = next(self.events)
        except StopIteration:
            self._finish(None)
            return
        # The evaluation is not made here: its arguments become the loop's latents, and the pipeline makes it.
        self.state, self.nodes, sample_index = event.arguments
        num_samples = len(self.initial)
        # Rows that are all samples in order need no gathering: conditioning then reaches the network uncopied.
        in_order = len(sample_index) == num_samples and bool(
            (sample_index == torch.arange(num_samples, device=sample_index.device)).all()
        )
        self.rows = LatentRows(
            num_samples,
            None if in_order else sample_index,
            self.timesteps[self.nodes],
            len(self.nodes),
            len(self.timesteps) - self.setup.first,
            self.nodes - self.setup.first,
            self.passes < _CHECKED_PASSES,
        )

    def _notify(self, iteration: int) -> None:
        """Call the listeners with the newest iterate."""
        self.iteration = iteration
        if not self.listeners:
            return
        refinement = self.run.refinement(iteration)
        # Listeners are the user's: without the active bridge they may call networks, and even other pipelines.
        with suspend_bridge():
            for listener in self.listeners:
                if requests_cancellation(listener(refinement)):
                    self.run.cancelled = True

    def _finish(self, state: Tensor | None) -> None:
        """Make the solution; `state` is the final state if the run was stopped, else None."""
        solution = self.run.solution()
        if self.note:
            solution = replace(solution, message=f"{solution.message} {self.note}")
        self.solution, self.done, self.rows = solution, True, None
        if self.noise_source is not None:
            # A later call with the same generator must draw what it would draw after the unmodified loop.
            self.noise_source.finish()
        if solution.outcome in (parareal.Outcome.NON_FINITE, parareal.Outcome.WORKER_LOST):
            raise parareal.PararealError(solution.message, solution) from self.run.error
        if solution.outcome is parareal.Outcome.ITERATION_LIMIT:
            warnings.warn(f"parareal: {solution.message}", stacklevel=2)
        self.state = solution.final_state if state is None else state


def _find_final_node(machine: Any, edges: Sequence[int]) -> int:
    """Return the last node such that all of one sample's boundaries up to it are final."""
    count = sum(1 for _ in takewhile(lambda u: u is not None and u.final, machine.outputs))
    return edges[-1] if machine.done else edges[min(count, len(edges) - 1)]
