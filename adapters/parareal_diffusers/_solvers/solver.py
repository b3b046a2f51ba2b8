"""The base class of samplers, a frozen set of options with one step, and its adapter to the engine."""

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
from parareal_diffusers._solvers.step_interval import StepInterval

StepGenerator: TypeAlias = Generator[tuple[Tensor, Tensor], Tensor, tuple[Tensor, Memory]]
"""a running step: it yields (states, nodes) for the network, receives its output, and returns (states, memory)"""


class Shift(NamedTuple):
    """Estimated increments of the quantities in a solver's memory, at a boundary whose state is corrected.

    A boundary's state is corrected by G(k, n) - G(k-1, n). The evaluations of these two coarse jumps show how the
    network's predictions changed from iteration k-1 to k. Each tensor has shape (1, *sample).
    """

    clean: Tensor
    """increment of the predicted clean sample, at the start of the coarse jump that ends at this boundary"""
    noise: Tensor
    """increment of the predicted noise, at the same place"""
    previous: Tensor
    """increment of the state at the node before the boundary. It is chosen such that a first-order step whose
    prediction changes by `clean` maps it to the increment of the boundary's state"""


@dataclass(frozen=True)
class Solver(ABC):
    """A sampler as an object: its options, and one step from noise level s to noise level t, vectorised over rows.

    It plays the part of a diffusers scheduler: `step` is the scheduler's `step`, with the state of a multistep method
    passed in and out as `memory`. To implement a solver (docs/how-to/new-solver.md has an example in 15 lines), write:

    1. a frozen dataclass that derives from this class and whose fields are the method's options;
    2. `step(x, memory, interval)`: a generator that calls the network with `yield from interval.predict(x)` and returns
       the state at level `interval.t` and the new memory. Rows differ in node and sample and must not influence each
       other. The same `step`, given intervals over many nodes, is the coarse solver;
    3. for a multistep method, `begin(x)`: the memory before the first step, a tree of tensors whose leading axis has
       length R. Integer tensors are bookkeeping; the stop criterion compares floating point tensors only;
    4. for a multistep method used as fine solver, `correct(memory, change, shift)`: the memory at a slice boundary
       whose state is corrected;
    5. for a stochastic method, the class attribute or property `stochastic`; `interval.noise(scale)` for the noise that
       a step adds; `draws(grid)`, the steps for which the scheduler draws noise; and `linear(interval)`, from which the
       noise of coarse jumps is computed.

    The other methods have defaults that suit a method with one network evaluation per node.
    `parareal_diffusers.testing.check_solver` tests an implementation.

    Args:
        scheduler: a diffusers scheduler, or `Sigmas`, that defines the nodes of a *fine* solver. A coarse solver jumps
            over the fine solver's nodes and needs none.
    """

    scheduler: Any = None

    @property
    def stochastic(self) -> bool:
        """Whether steps add noise; a class attribute may override it: `stochastic = True`."""
        return False

    @property
    def wants_variance(self) -> bool:
        """Whether the network must predict a variance, in the second half of its output channels."""
        return False

    @abstractmethod
    def step(self, x: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
        """Advance every row from level `interval.s` to level `interval.t`.

        Args:
            x: states of shape (R, *sample), float32 or float64.
            memory: the result of `begin` or of the step before, with one entry per row; None for a one-step method.
            interval: the rows' levels and nodes, and access to the network and to the noise.

        Returns:
            States like x, and memory of unchanged structure, shapes and dtypes.
        """

    def begin(self, x: Tensor) -> Memory:
        """Return the memory before the first step from x, shape (R, *sample); None for a one-step method."""
        return None

    def correct(self, memory: Memory, change: Tensor, shift: Shift) -> Memory:
        """Return the memory of a fine solver at a slice boundary whose state is corrected.

        The default returns `memory` unchanged. A multistep method then converges more slowly, because it extrapolates
        from predictions that belong to the state before the correction (docs/explained/history-and-noise.md, History).

        Args:
            memory: the memory at the boundary, leading axes of length 1.
            change: the correction of the state, shape (1, *sample).
            shift: the increments of the predictions and of the state one step earlier that go with it.
        """
        return memory

    def check_schedule(self, grid: Grid) -> None:  # noqa: B027, by default all are
        """Raise `ValueError` if this kind of schedule is unsupported, for the fine and for the coarse solver alike."""

    def check_fine(self, grid: Grid) -> None:
        """Raise `ValueError` if this solver, as the fine one, cannot step from node to node of the grid."""
        grid.check()
        self.check_schedule(grid)

    def draws(self, grid: Grid) -> Tensor:
        """Return for which of the N steps the scheduler draws noise: booleans of shape (N,).

        The generator must be left where the sequential loop leaves it, so this includes steps that multiply their noise
        by zero. The default is every step; on `Sigmas`, as in k-diffusion, every step that ends above zero.
        """
        # `casts` is False on `Sigmas` only.
        return (grid.stop.sigma > 0) | grid.casts

    def base_nodes(self, grid: Grid) -> Sequence[int]:
        """Return the node whose state each of the N steps starts from.

        That is the step's own node, except in methods whose steps span several nodes and start from the first of them.
        Slice boundaries are preferably put at such first nodes, where the memory is empty.
        """
        return range(grid.steps)

    def node_sigmas(self, sigmas: Tensor) -> Tensor:
        """Return the sigmas of the nodes to step over, from the N + 1 levels of `Sigmas`.

        A method with intermediate stages adds nodes for them, because the network is evaluated at nodes only.
        """
        return sigmas

    def node_and_target_sigmas(self, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the sigmas of the nodes, and with churn the sigma that each step aims at before noise, else None."""
        return self.node_sigmas(sigmas), None

    def grid_on(self, sigmas: Sigmas) -> Grid:
        """Return the grid of this solver's nodes on the levels of `Sigmas`."""
        sigma, down = self.node_and_target_sigmas(sigmas.values)
        start, stop = Levels.exploding(sigma[:-1]), Levels.exploding(sigma[1:])
        return Grid(sigma[:-1], start, stop, "sample", down=down, casts=False)

    def initial_noise_std(self, grid: Grid) -> float | None:
        """Return the standard deviation of the noise added to the latents before the first step.

        None if none is drawn. Only churn, which adds noise before each step, needs it.
        """
        return None

    def linear(self, interval: StepInterval) -> Linear:
        """Return the coefficients of the steps as linear maps, with the predicted clean sample held fixed.

        A step is then x -> decay * x + ... + std * noise. The noise of a coarse jump is the sum of the noises of its
        fine steps, propagated by these decays (docs/explained/history-and-noise.md, eq. 14). It affects how fast the
        iteration converges, not to which sample. The default is DDPM's step with the posterior variance.

        Returns:
            `Linear(decay, std)`, both of shape (R, 1).
        """
        return posterior(interval.s, interval.t)

    def noise_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype in which the scheduler draws noise for network outputs of dtype `dtype`."""
        return dtype


def check_variance_preserving(solver: Solver, grid: Grid) -> None:
    """Raise `ValueError` unless alpha^2 + sigma^2 = 1, which the solver's variance formula assumes."""
    if not grid.variance_preserving:
        raise ValueError(
            f"the noise of {type(solver).__name__} is defined for schedules with alpha^2 + sigma^2 = 1, which a flow's "
            "is not, and Euler's is not either: use DPMSolver(algorithm_type='sde-dpmsolver++'), a solver without "
            "noise, or, on the nodes of an Euler scheduler, Euler(ancestral=True)"
        )


class CoarseMemory(NamedTuple):
    """The memory of coarse jumps: the solvers' own memories, and the network's predictions at the last jump's start."""

    memory: Memory
    """memory of the coarse solver"""
    embedded: Memory
    """memory of the embedded solver, whose difference from the coarse solver estimates errors"""
    clean: Tensor | None
    """the clean sample predicted at the start of the last jump; None if the fine solver has no memory to correct"""
    noise: Tensor | None
    """the noise predicted there; None likewise"""


@final
class SolverStepper(Stepper):
    """The fine propagator: a solver on a grid, with a network and a source of noise, as a stepper of the engine."""

    per_sample: ClassVar[bool] = True

    def __init__(
        self, solver: Solver, grid: Grid, denoiser: Callable[..., Tensor], noise_source: NoiseSource | None = None
    ):
        self.solver, self.grid, self.noise_source = solver, grid, noise_source
        # F and G share first evaluations because both steppers have the same object here.
        self.evaluate = denoiser

    def begin(self, state: Tensor) -> Memory:
        """Return the solver's memory before the first step."""
        return self.solver.begin(state)

    def step(self, state: Tensor, memory: Memory, start: Nodes, stop: Nodes, sample: Nodes) -> StepGenerator:  # pyright: ignore
        """Advance every row by the solver; the engine passes `sample` because of `per_sample`."""
        return start_step(
            self.solver, state, memory, StepInterval(self.grid, start, stop, sample, state, self.noise_source)
        )

    def correct(
        self, memory: Memory, change: Tensor, node: int, coarse_memories: tuple[CoarseMemory, CoarseMemory]
    ) -> Memory:
        """Correct the solver's memory, given the network's predictions at the starts of the two coarse jumps."""
        current, previous = coarse_memories
        # The coarse stepper records predictions whenever the fine solver has a memory to correct.
        assert current.clean is not None
        assert current.noise is not None
        assert previous.clean is not None
        assert previous.noise is not None
        clean, noise = current.clean - previous.clean, current.noise - previous.noise
        # The levels of the step that ends at this boundary's node.
        s, t = (levels.map(lambda x: x[node - 1]) for levels in (self.grid.start, self.grid.stop))
        # DDIM's step gives t.alpha * clean + t.sigma * noise. Solve for the increment of the noise that makes this
        # `change`, and evaluate the same expression at level s: the state one step earlier. If the step ends at zero
        # noise, `change` does not determine the increment of the noise, and the network's own is used.
        along = torch.where(t.sigma > 0, (change - t.alpha * clean) / t.sigma, noise)
        return self.solver.correct(memory, change, Shift(clean, noise, s.alpha * clean + s.sigma * along))


def start_step(solver: Solver, state: Tensor, memory: Memory, interval: StepInterval) -> StepGenerator:
    """Return a solver's step as a generator that has not run yet."""
    generator = solver.step(state, memory, interval)
    # A `step` without a yield returns its result at once.
    if not isinstance(generator, Generator):
        name = type(solver).__name__
        raise TypeError(f"{name}.step must be a generator: call the network with `yield from interval.predict(x)`")
    return generator
