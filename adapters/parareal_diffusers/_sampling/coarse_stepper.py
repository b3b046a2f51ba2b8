"""The coarse propagator: a solver's jumps over many nodes, and what is learned from them."""

from collections.abc import Callable, Generator
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import parareal
from parareal_diffusers._grid.grid import Grid
from parareal_diffusers._noise import NoiseSource
from parareal_diffusers._sampling.coarse import embedded_solver
from parareal_diffusers._solvers.multistep.extrapolated import Extrapolated
from parareal_diffusers._solvers.solver import CoarseMemory, Solver, SolverStepper, start_step
from parareal_diffusers._solvers.step_interval import StepInterval


@final
class Jumps(parareal.Stepper):
    """A coarse solver on a grid, as the engine runs it.

    Args:
        solver, grid, denoiser, random: as of a `SolverStepper`.
        embedded: another solver, which is given the same evaluations; by what the two disagree by errors are estimated
            (docs/explained/theory.md). Both must make one evaluation a step.
        records: remember what the network said, by which a fine solver corrects its history.
    """

    per_sample: ClassVar[bool] = True

    def __init__(
        self,
        solver: Solver,
        grid: Grid,
        denoiser: Callable[..., Tensor],
        random: NoiseSource | None = None,
        embedded: Solver | None = None,
        records: bool = False,
    ):
        self.solver, self.grid, self.random, self.embedded, self.records = solver, grid, random, embedded, records
        self.evaluate = denoiser

    def begin(self, state: Tensor) -> Any:
        """Return what is remembered before the first jump; None for nothing."""
        memory = self.solver.begin(state)
        second = None if self.embedded is None else self.embedded.begin(state)
        if memory is None and second is None and not self.records:
            return None
        zero = torch.zeros_like(state) if self.records else None
        return CoarseMemory(memory, second, zero, zero)

    def step(self, state: Tensor, memory: Any, start: Tensor, stop: Tensor, sample: Tensor) -> Any:  # pyright: ignore
        """Jump, by both solvers."""
        trail = CoarseMemory(None, None, None, None) if memory is None else memory
        interval = StepInterval(self.grid, start, stop, sample, state, self.random)
        step = start_step(self.solver, state, trail.memory, interval)
        if self.embedded is None:
            new, own = yield from step
            return new, self._trail(memory, interval, new, own, None)
        output = yield next(step)
        new, own = _finished(step, output)
        other = start_step(
            self.embedded, state, trail.embedded, StepInterval(self.grid, start, stop, sample, state, self.random)
        )
        next(other)
        second, its = _finished(other, output)
        return new, self._trail(memory, interval, new, own, its), second

    def _trail(self, before: Any, interval: StepInterval, new: Tensor, own: Any, second: Any) -> CoarseMemory | None:
        if before is None:
            return None
        if not self.records:
            return CoarseMemory(own, second, None, None)
        if not interval.predictions:  # nothing was asked: all that changes is taken to be the clean sample
            return CoarseMemory(own, second, new / interval.t.alpha, torch.zeros_like(new))
        return CoarseMemory(own, second, interval.predictions[0].clean, interval.predictions[0].noise)


def propagators(
    fine: Solver,
    coarse: Solver,
    grid: Grid,
    evaluate: Callable[..., Tensor],
    random: NoiseSource | None,
    latents: Tensor,
    criterion: parareal.AbstractCriterion,
) -> tuple[parareal.Steps, parareal.Steps]:
    """Return what the engine is given: the fine solver's steps, and the coarse one's jumps.

    `criterion` says whether errors are estimated, for which jumps are made by a second solver, too.
    """
    estimates = isinstance(criterion, parareal.Tolerance) and criterion.cumulative
    meet = estimates and (isinstance(coarse, Extrapolated) or grid.chained)  # the former goes where the steps go
    embedded = embedded_solver(coarse) if meet else None
    records = fine.begin(latents[:1]) is not None
    jumps = Jumps(coarse, grid, evaluate, random, embedded, records)
    return parareal.Steps(SolverStepper(fine, grid, evaluate, random)), parareal.Steps(jumps, steps=1)


def _finished(step: Generator[Any, Any, tuple[Tensor, Any]], output: Tensor) -> tuple[Tensor, Any]:
    """Return the result of a step of one evaluation."""
    try:
        step.send(output)
    except StopIteration as end:
        return end.value
    raise TypeError("an embedded pair of solvers must make one evaluation a step")
