"""What every sampler is made of: a frozen set of options and one step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from parareal import Stepper
from parareal.driver import Memory, Nodes
from parareal_diffusers._grid.grid import Grid, Levels
from parareal_diffusers._grid.sigmas import Sigmas
from parareal_diffusers._noise import Linear, NoiseSource, posterior
from parareal_diffusers._solvers.step_interval import Leg

Routine: TypeAlias = Generator[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Memory]]
"""a step under way: it yields states and nodes to evaluate, and returns new states and memory"""


class Shift(NamedTuple):
    """How what a solver may remember changes where its state is corrected; each of shape (1, *sample)."""

    clean: Tensor
    """of the predicted clean sample: the coarse solver's, this iteration's minus the last one's, each made where its
    jump to this boundary began"""
    noise: Tensor
    """of the predicted noise, in the same way"""
    previous: Tensor
    """of the state one step earlier: such that a step of first order, its prediction changed by `clean`, makes of it
    the change of the state"""


@dataclass(frozen=True)
class Solver(ABC):
    """A sampler as an object: its options, and one step from level s to level t, vectorised over rows.

    `scheduler`, a diffusers scheduler, says over which nodes a *fine* solver steps; a coarse one jumps over the fine
    one's nodes and needs none. What an implementer owes (docs/how-to/new-solver.md writes one in 15 lines):

    1. a frozen dataclass that derives from this class and whose fields are the method's options;
    2. `step(x, memory, leg)`: a generator that asks the network by `yield from leg.predict(x)` and returns the state at
       the level `leg.t` and the new memory. Rows differ in node and sample and must not influence each other. The same
       step, given legs over many nodes, is the coarse solver;
    3. `begin(x)`, for a multistep method: what is remembered before the first step, arrays with a leading axis of
       length R. Arrays of integers in it are bookkeeping: the stop criterion compares those of floats only;
    4. `correct(memory, change, shift)`, for a multistep method that is to be fine: its memory at a slice boundary where
       the state is corrected;
    5. for a stochastic method: the class attribute or property `stochastic`, `leg.noise(scale)` for the noise that a
       step adds, `draws(grid)` for the steps whose noise the scheduler draws, and `linear(leg)`, by which coarse noise
       is coupled to fine noise.

    `parareal_diffusers.testing.check_solver` tells whether it is right.
    """

    scheduler: Any = None

    @property
    def stochastic(self) -> bool:
        """Whether steps add noise."""
        return False

    @property
    def wants_variance(self) -> bool:
        """Whether the network must predict a variance, in a second half of its channels."""
        return False

    @abstractmethod
    def step(self, x: Tensor, memory: Memory, leg: Leg) -> Routine:
        """Advance every row from level `leg.s` to level `leg.t`.

        Args:
            x: states of shape (R, *sample), float32 or float64.
            memory: as `begin` or the step before returned it, a row each; None for a one-step method.
            leg: where the rows are and go, what the network says of them, and their noise.

        Returns:
            States like x, and memory of unchanged structure, shapes and dtypes.
        """

    def begin(self, x: Tensor) -> Memory:
        """Return what is remembered before the first step from x, shape (R, *sample); None for a one-step method."""
        return None

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Return what a fine solver remembers at a slice boundary where its state is corrected.

        Args:
            memory: what it remembers there, leading axes of length 1.
            change: by which the state is corrected, shape (1, *sample).
            shift: how predictions and the state before change with it.

        By default memory is carried as it is.
        """
        return memory

    def suits(self, grid: Grid) -> None:  # noqa: B027, by default it does
        """Raise `ValueError` where this solver can neither step nor jump over the grid's nodes."""

    def check(self, grid: Grid) -> None:
        """Raise `ValueError` where this solver cannot step over the grid."""
        grid.check()
        self.suits(grid)

    def draws(self, grid: Grid) -> Tensor:
        """Say for which steps noise is drawn: booleans of shape (N,); by default all, on `Sigmas` those above zero."""
        return (grid.stop.sigma > 0) | grid.casts

    def bases(self, grid: Grid) -> Sequence[int]:
        """Return the node whose state each step starts from: its own, unless steps come in cycles."""
        return range(grid.steps)

    def nodes(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the nodes to step over, from N + 1 levels (`Sigmas`); more where steps have stages."""
        return sigmas

    def levels(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the sigmas of `nodes`, and for N steps those that they go down to before noise raises them, if any."""
        return self.nodes(sigmas), None

    def grid_on(self, sigmas: Sigmas) -> Grid:
        """Return this solver's nodes on the levels of `Sigmas`."""
        sigma, down = self.levels(sigmas.values)
        start, stop = Levels.exploding(sigma[:-1]), Levels.exploding(sigma[1:])
        return Grid(sigma[:-1], start, stop, "sample", down=down, casts=False)

    def entry(self, grid: Grid) -> float | None:
        """Return by how much noise is added to latents before the first step; None where none is drawn."""
        return None

    def linear(self, leg: Leg) -> Linear:
        """Say what steps do to their states, the predicted clean samples held fixed, and how much noise they add.

        Both of shape (R, 1). By default as DDPM's step with the posterior's variance.
        """
        return posterior(leg.s, leg.t)

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the scheduler draws noise for states of a dtype."""
        return dtype


def needs_variance_preserving(solver: Solver, grid: Grid) -> None:
    """Raise `ValueError` where alpha^2 + sigma^2 is not one, on which a solver's variance rests."""
    if not grid.variance_preserving:
        raise ValueError(
            f"{type(solver).__name__} adds noise as for schedules with alpha^2 + sigma^2 = 1, which a flow's is not, "
            "nor Euler's: use DPMSolver(algorithm_type='sde-dpmsolver++'), a solver without noise, or "
            "Euler(ancestral=True) where it suits"
        )


class Trail(NamedTuple):
    """What is remembered of coarse jumps: the solvers' own memories, and what the network said where the last began."""

    memory: Memory
    embedded: Memory
    """of the embedded solver"""
    clean: Tensor | None
    noise: Tensor | None


@final
class SolverStepper(Stepper):
    """A fine solver on a grid, with a network and a source of noise, as the engine runs it."""

    per_sample: ClassVar[bool] = True

    def __init__(self, solver: Solver, grid: Grid, denoiser: Callable[..., Tensor], random: NoiseSource | None = None):
        self.solver, self.grid, self.random = solver, grid, random
        self.evaluate = denoiser

    def begin(self, state: Tensor) -> Memory:
        """Ask the solver."""
        return self.solver.begin(state)

    def step(self, state: Tensor, memory: Memory, start: Nodes, stop: Nodes, sample: Nodes) -> Routine:  # pyright: ignore
        """Ask the solver; the engine adds the last argument because of `per_sample`."""
        return routine(self.solver, state, memory, Leg(self.grid, start, stop, sample, state, self.random))

    def correct(self, memory: Memory, change: Tensor, node: int, coarse_memories: tuple[Trail, Trail]) -> Memory:
        """Ask the solver, by the difference of what the network said where the two coarse jumps began."""
        now, before = coarse_memories
        # jumps record where there is a memory to correct
        assert now.clean is not None
        assert now.noise is not None
        assert before.clean is not None
        assert before.noise is not None
        clean, noise = now.clean - before.clean, now.noise - before.noise
        s, t = (levels.map(lambda x: x[node - 1]) for levels in (self.grid.start, self.grid.stop))
        along = torch.where(t.sigma > 0, (change - t.alpha * clean) / t.sigma, noise)
        return self.solver.correct(memory, change, Shift(clean, noise, s.alpha * clean + s.sigma * along))


def routine(solver: Solver, state: Tensor, memory: Memory, leg: Leg) -> Routine:
    """Return a solver's step, begun."""
    made = solver.step(state, memory, leg)
    if not isinstance(made, Generator):
        name = type(solver).__name__
        raise TypeError(f"{name}.step must be a generator: ask the network by `yield from leg.predict(x)`")
    return made
