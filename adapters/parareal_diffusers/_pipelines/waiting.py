"""A pipeline's loop before its first `step`: solvers and boundaries are known, the states are not."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import Options, Problem, Run
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._pipelines.running import Listener, RunningLoop
from parareal_diffusers._pipelines.settings import LoopMethod, Settings, check_options
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._sampling.coarse_stepper import propagators
from parareal_diffusers._sampling.noise_source import check_generator, make_noise_source
from parareal_diffusers._sampling.options import resolve_criterion


@final
class WaitingLoop:
    """The loop before its first `step`: all parts of a run but its states.

    The loop's first pass runs as in the unmodified pipeline: all samples at the first timestep. Only its `step` shows
    the states, the network's dtype and the generator, so that the run is made there, by `begun`.

    Args:
        scheduler: the pipeline's, with its timesteps set and nothing begun.
        settings: how to sample.
        method: solvers and boundaries.
        note: a sentence for the solution's message.
    """

    done = False

    def __init__(self, scheduler: Any, settings: Settings, method: LoopMethod, note: str = ""):
        self.scheduler, self.settings, self.method, self.note = scheduler, settings, method, note
        self.rows = LatentRows.first(len(scheduler.timesteps) - method.first)

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents divided by the input scale of the first node."""
        scale = self.method.grid.input_scale
        return latents if scale is None else latents / scale[self.method.first].to(latents.device)

    def begun(
        self, latents: Tensor, output_dtype: torch.dtype, options: dict[str, Any], listeners: Sequence[Listener]
    ) -> RunningLoop:
        """Return the loop with its run, from the arguments of its first `step`.

        Args:
            latents: of the first pass, all samples.
            output_dtype: of the network's output.
            options: keyword arguments of `step`, as a generator.
            listeners: as of `RunningLoop`.
        """
        method = self.method
        check_options(method.fine, options)
        generator = options.get("generator")
        initial = latents.to(torch.promote_types(latents.dtype, torch.float32))
        check_generator(generator, initial)
        steps = range(method.first, method.edges[-1])
        random = make_noise_source(method.fine, method.grid, initial, generator, output_dtype, steps)
        run = self._run(initial, random)
        timesteps = self.scheduler.timesteps.to(latents.device)
        return RunningLoop(run, method, timesteps, initial, latents.dtype, random, listeners, self.note)

    def _run(self, initial: Tensor, random: NoiseSource | None) -> Run:
        method, settings = self.method, self.settings
        criterion = resolve_criterion(settings.criterion, settings.tolerance, method.steps)
        grid = method.grid.to(initial.device)
        pair = propagators(method.fine, method.coarse, grid, _network, random, initial, criterion)
        problem = Problem.checked(*pair, initial, method.edges, 1, levels=settings.levels)
        options = Options(
            criterion=criterion,
            max_iterations=settings.max_iterations,
            schedule=settings.schedule,
            executor=parareal.BatchedExecutor(),  # the gate keeps to max_batch: passes stay as few as they can be
            window=settings.window,
            speculate_until=settings.speculate_until,
        )
        return Run(problem, options)


def _network(*_: Any) -> Any:
    """Stand for the network in the engine's propagators, whose evaluations the pipeline's loop makes."""
    raise RuntimeError("the pipeline's loop calls the network")
