"""What is to be solved, checked."""

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, final

from parareal._checks import check_boundaries, check_initial
from parareal._execution.executors import AbstractExecutor, BatchedExecutor
from parareal._execution.pool import PoolExecutor
from parareal._execution.runner import Runner
from parareal._iteration.messages import Kind
from parareal._iteration.slice import Rules
from parareal._problem.levels import check_leaves
from parareal._problem.propagators import Propagator
from parareal._state import Layout, State, stack


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
            check_leaves(kind.value, propagator, times)
        samples, layout = check_initial(initial, batch_dims)
        return Problem(propagators, samples, layout, times, batch_dims)

    @property
    def slices(self) -> int:
        """The number of slices."""
        return len(self.boundaries) - 1

    def runner(self, executor: AbstractExecutor | Executor | None, rules: Rules | None = None) -> Runner:
        """Return what runs the propagations; `rules` are those that inner levels follow."""
        executor = BatchedExecutor() if executor is None else executor
        if isinstance(executor, Executor):
            executor = PoolExecutor(executor)
        if not isinstance(executor, AbstractExecutor):
            raise TypeError(
                "executor must be SerialExecutor(), BatchedExecutor(max_batch=...) or a concurrent.futures.Executor, "
                f"not {type(executor).__name__}"
            )
        return executor.runner(self.propagators, self.layout, rules)

    def join(self, samples: list[State]) -> State:
        """Join the states of all samples into one of the shape the caller gave."""
        return stack(samples) if self.batch_dims else samples[0]

    def stack(self, trajectories: list[list[State]]) -> State:
        """Join `trajectories[sample][boundary]` to arrays of shape (boundaries, [samples,] *shape)."""
        return stack([self.join(list(states)) for states in zip(*trajectories, strict=True)])
