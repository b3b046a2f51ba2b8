"""A pipeline's loop before its first `step`: solvers and boundaries are known, the states are not."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

import parareal
from parareal.driver import Options, Problem, Run
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._pipelines.running import Listener, RunningLoop
from parareal_diffusers._pipelines.settings import LoopSetup, Settings, check_options
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._sampling.coarse_stepper import build_propagators
from parareal_diffusers._sampling.noise_source import check_generator, make_noise_source
from parareal_diffusers._sampling.options import resolve_criterion


@final
class WaitingLoop:
    """The loop before its first `step`, with all parts of a run except for its states.

    The loop's first pass runs as in the unmodified pipeline: all samples at the first timestep. Only its call of
    `step` shows the states, the network's dtype and the generator, so `start` makes the run there.

    Args:
        scheduler: the pipeline's own, with its timesteps set and before its first step.
        settings: the settings of the call.
        setup: solvers, grid and boundaries.
        note: a sentence to add to the solution's message.
    """

    done = False

    def __init__(self, scheduler: Any, settings: Settings, setup: LoopSetup, note: str = ""):
        self.scheduler, self.settings, self.setup, self.note = scheduler, settings, setup, note
        self.rows = LatentRows.first_pass(len(scheduler.timesteps) - setup.first)

    def scale_input(self, latents: Tensor) -> Tensor:
        """Return latents divided by the input scale of the first node."""
        scale = self.setup.grid.input_scale
        return latents if scale is None else latents / scale[self.setup.first].to(latents.device)

    def start(
        self, latents: Tensor, output_dtype: torch.dtype, options: dict[str, Any], listeners: Sequence[Listener]
    ) -> RunningLoop:
        """Return the running loop, made from the arguments of the first `step`.

        Args:
            latents: the latents of the first pass, all samples.
            output_dtype: the dtype of the network's output.
            options: keyword arguments of `step`, such as a generator.
            listeners: as for `RunningLoop`.

        Raises:
            TypeError, ValueError: if an option or the generator is unsupported.
        """
        setup = self.setup
        check_options(setup.fine, options)
        generator = options.get("generator")
        # States are at least float32 even if the latents are half precision: corrections subtract nearly equal states.
        initial = latents.to(torch.promote_types(latents.dtype, torch.float32))
        check_generator(generator, initial)
        # Noise is drawn for the steps that the loop makes, in its order, so that the generator ends in the same state.
        steps = range(setup.first, setup.edges[-1])
        noise_source = make_noise_source(setup.fine, setup.grid, initial, generator, output_dtype, steps)
        run = self._run(initial, noise_source)
        timesteps = self.scheduler.timesteps.to(latents.device)
        return RunningLoop(run, setup, timesteps, initial, latents.dtype, noise_source, listeners, self.note)

    def _run(self, initial: Tensor, noise_source: NoiseSource | None) -> Run:
        setup, settings = self.setup, self.settings
        criterion = resolve_criterion(settings.criterion, settings.tolerance, setup.num_steps)
        grid = setup.grid.to(initial.device)
        # The engine yields evaluations and never calls `_fail_network_call`.
        pair = build_propagators(setup.fine, setup.coarse, grid, _fail_network_call, noise_source, initial, criterion)
        problem = Problem.create(*pair, initial, setup.edges, 1, levels=settings.levels)
        options = Options(
            criterion=criterion,
            max_iterations=settings.max_iterations,
            schedule=settings.schedule,
            # Without a bound: `NetworkBatch` keeps to max_batch, so that the loop makes as few passes as possible.
            executor=parareal.BatchedExecutor(),
            window=settings.window,
            speculate_until=settings.speculate_until,
        )
        return Run(problem, options)


def _fail_network_call(*_: Any) -> Any:
    """Stand for the network in the engine's propagators, whose evaluations the pipeline's loop makes."""
    raise RuntimeError("the pipeline's loop calls the network; please report this")
