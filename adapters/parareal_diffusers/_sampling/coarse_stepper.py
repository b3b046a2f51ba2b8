"""The coarse propagator: jumps of a solver over many nodes, with an embedded solver for error estimates."""

from collections.abc import Callable, Generator
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import parareal
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._sampling.coarse import COARSE, choose_embedded_solver
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers._solvers.solver import CoarseMemory, Solver, SolverStepper, start_step
from parareal_diffusers._solvers.step_interval import StepInterval


@final
class CoarseStepper(parareal.Stepper):
    """A coarse solver on the fine solver's grid, as a stepper of the engine.

    Args:
        solver, grid, denoiser, noise_source: as of `SolverStepper`.
        embedded: a second solver that is given the same evaluations; the difference of the two results is the embedded
            difference, from which errors are estimated (docs/explained/estimates.md). With it both solvers must make
            exactly one evaluation per step.
        records_predictions: store the network's predictions, with which a fine solver corrects its memory.
    """

    per_sample: ClassVar[bool] = True

    def __init__(
        self,
        solver: Solver,
        grid: Grid,
        denoiser: Callable[..., Tensor],
        noise_source: NoiseSource | None = None,
        embedded: Solver | None = None,
        records_predictions: bool = False,
    ):
        self.solver, self.grid, self.noise_source, self.embedded = solver, grid, noise_source, embedded
        self.records_predictions = records_predictions
        # The same object as in the fine stepper, so that the engine shares the first evaluation of F and G.
        self.evaluate = denoiser

    def begin(self, state: Tensor) -> Any:
        """Return the memory before the first jump, or None if neither solver has one and nothing is recorded."""
        memory = self.solver.begin(state)
        embedded_memory = None if self.embedded is None else self.embedded.begin(state)
        if memory is None and embedded_memory is None and not self.records_predictions:
            return None
        zero = torch.zeros_like(state) if self.records_predictions else None
        return CoarseMemory(memory, embedded_memory, zero, zero)

    def step(self, state: Tensor, memory: Any, start: Tensor, stop: Tensor, sample: Tensor) -> Any:  # pyright: ignore
        """Jump from `start` to `stop` with both solvers; the engine passes `sample` because of `per_sample`."""
        memories = CoarseMemory(None, None, None, None) if memory is None else memory
        interval = StepInterval(self.grid, start, stop, sample, state, self.noise_source)
        step = start_step(self.solver, state, memories.memory, interval)
        if self.embedded is None:
            result, solver_memory = yield from step
            return result, self._build_memory(memory, interval, result, solver_memory, None)
        # Both generators are advanced by hand. The evaluation that the coarse solver yields is passed on to the engine,
        # and its output is sent to both. What the embedded solver yields is the same evaluation, so it is dropped.
        output = yield next(step)
        result, solver_memory = _finish_step(step, output)
        # An interval of its own: predictions are appended to an interval, and only the coarse solver's are recorded.
        embedded_interval = StepInterval(self.grid, start, stop, sample, state, self.noise_source)
        embedded_step = start_step(self.embedded, state, memories.embedded, embedded_interval)
        next(embedded_step)
        embedded_result, embedded_memory = _finish_step(embedded_step, output)
        return result, self._build_memory(memory, interval, result, solver_memory, embedded_memory), embedded_result

    def _build_memory(
        self, previous: Any, interval: StepInterval, result: Tensor, memory: Any, embedded_memory: Any
    ) -> CoarseMemory | None:
        """Return the memory after a jump, of the structure that `begin` chose."""
        if previous is None:
            return None
        if not self.records_predictions:
            return CoarseMemory(memory, embedded_memory, None, None)
        # A solver without evaluations (the identity) predicts nothing. Its whole state is taken as the signal, so that
        # increments of the state become increments of the clean sample.
        if not interval.predictions:
            return CoarseMemory(memory, embedded_memory, result / interval.t.alpha, torch.zeros_like(result))
        return CoarseMemory(memory, embedded_memory, interval.predictions[0].clean, interval.predictions[0].noise)


def build_propagators(
    fine: Solver,
    coarse: Solver,
    grid: Grid,
    evaluate: Callable[..., Tensor],
    noise_source: NoiseSource | None,
    latents: Tensor,
    criterion: parareal.AbstractCriterion,
) -> tuple[parareal.Steps, parareal.Steps]:
    """Return the engine's two propagators: every step of the fine solver, and one coarse jump per slice.

    Args:
        fine, coarse: the solvers.
        grid: the grid of the fine solver, on the device of the latents.
        evaluate: the network, as both steppers call it: `evaluate(state, node, sample)`.
        noise_source: the source of noise; None if the fine solver adds none.
        latents: shape (samples, *sample).
        criterion: if it estimates errors cumulatively, coarse jumps get an embedded solver.
    """
    estimates_errors = isinstance(criterion, parareal.Tolerance) and criterion.estimator is parareal.propagated_error
    # The difference of the two coarse solvers estimates the error of F only if each fine step starts where the step
    # before it ended. `Extrapolated` is an exception, because both of its orders reproduce the fine steps.
    comparable = estimates_errors and (isinstance(coarse, Extrapolated) or grid.chained)
    embedded = choose_embedded_solver(coarse) if comparable else None
    records_predictions = fine.begin(latents[:1]) is not None
    jumps = CoarseStepper(coarse, grid, evaluate, noise_source, embedded, records_predictions)
    return parareal.Steps(SolverStepper(fine, grid, evaluate, noise_source)), parareal.Steps(jumps, steps=1)


def _finish_step(step: Generator[Any, Any, tuple[Tensor, Any]], output: Tensor) -> tuple[Tensor, Any]:
    """Send the output of a step's only evaluation, and return the step's result."""
    try:
        step.send(output)
    except StopIteration as end:
        return end.value
    raise TypeError(
        "an embedded pair of solvers must make one evaluation per step, but one of them requested another: choose "
        f"another coarse solver ({', '.join(COARSE)}), or a criterion other than Tolerance"
    )
