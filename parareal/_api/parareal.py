"""`Parareal`: a solve as an object, and a propagator, so that levels nest."""

from dataclasses import dataclass
from typing import Any, final

from parareal._api.solve import solve
from parareal._problem.levels import Level
from parareal._results.solution import Solution
from parareal._state import State, Time


@final
@dataclass(frozen=True)
class Parareal(Level):
    """A solve as an object, and a propagator: `solve(Parareal(fine, coarse, 9), coarse, u, boundaries)` has two levels.

    Within an outer solve each slice is divided into `slices`, evenly (where any propagator is steppable, at whole
    nodes; a slice that has fewer steps has as many slices). Its solve starts from the trajectory that the
    iteration before it left there. Steppers of all levels share ticks and evaluations.

    An inner solve that stops before its end does not count as exact: the next outer iteration goes on with it, also
    from an unchanged state, and no boundary settles by an answer that the inner criterion has not accepted. Run to the
    end on all levels, as by `Iterations(number of slices)`, the result is the sequential one.

    Args:
        fine: defines the answer; any propagator, also another `Parareal`.
        coarse: any propagator, or None where the correction uses none.
        slices: how many.
        criterion: when an inner solve stops; None to follow the outer one (`AbstractCriterion.nested`).
        inner_iterations: how many iterations an inner solve makes, at most, in one outer iteration; None for as many
            as its criterion asks. Few are best: the outer level's error would undo what more of them gain
            (docs/how-to/levels.md). A criterion that fixes the number has the last word.
        correction: as for `solve`; None to follow the outer level.
    """

    def solve(self, initial: State, start: Time, stop: Time, **options: Any) -> Solution:
        """Solve from `start` to `stop` and return a `Solution`; options as for `parareal.solve`."""
        options.setdefault("criterion", self.criterion)
        options.setdefault("correction", self.correction)
        return solve(self.fine, self.coarse, initial, self.edges(start, stop), **options)

    def __call__(self, state: State, t0: Time, t1: Time) -> State:
        """Propagate, as any function `f(state, t0, t1)` does."""
        return self.solve(state, t0, t1).final_state
