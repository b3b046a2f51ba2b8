"""What is to be solved, checked."""

from dataclasses import dataclass
from typing import Any, final

from parareal._checks import check_boundaries, check_initial
from parareal._executors import AbstractExecutor, BatchedExecutor, Runner
from parareal._propagators import Propagator, check_propagator
from parareal._state import Layout, State, stack
from parareal._values import Kind


@final
@dataclass(frozen=True)
class Problem:
    """A checked problem: samples split, boundaries listed."""

    propagators: dict[Kind, Propagator]
    samples: list[State]
    layout: Layout
    boundaries: list[Any]
    batch_dims: int

    @staticmethod
    def checked(propagators: dict[Kind, Propagator], initial: State, boundaries: Any, batch_dims: int) -> "Problem":
        """Check everything that can be checked before any work."""
        times = check_boundaries(boundaries)
        for kind, propagator in propagators.items():
            check_propagator(kind.value, propagator, times)
        samples, layout = check_initial(initial, batch_dims)
        return Problem(propagators, samples, layout, times, batch_dims)

    @property
    def slices(self) -> int:
        """The number of slices."""
        return len(self.boundaries) - 1

    def runner(self, executor: AbstractExecutor | None) -> Runner:
        """Return what runs the propagations."""
        executor = BatchedExecutor() if executor is None else executor
        if not isinstance(executor, AbstractExecutor):
            raise TypeError(
                f"executor must be SerialExecutor() or BatchedExecutor(max_batch=...), not {type(executor).__name__}"
            )
        return executor.runner(self.propagators, self.boundaries, self.layout)

    def join(self, samples: list[State]) -> State:
        """Join the states of all samples into one of the shape the caller gave."""
        return stack(samples) if self.batch_dims else samples[0]

    def stack(self, trajectories: list[list[State]]) -> State:
        """Join `trajectories[sample][boundary]` to arrays of shape (boundaries, [samples,] *shape)."""
        return stack([self.join(list(states)) for states in zip(*trajectories, strict=True)])
