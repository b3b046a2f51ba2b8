"""`Parareal`: a solve as an object, which is itself a propagator."""

from dataclasses import dataclass
from typing import Any, final

from parareal._api.solve import solve
from parareal._problem.levels import Level
from parareal._results.solution import Solution
from parareal._state import State, Time


@final
@dataclass(frozen=True)
class Parareal(Level):
    """A Parareal solve as an object, and as a propagator that can be nested.

    As the fine propagator of another solve it adds a level: each slice of the outer solve is divided into `slices`
    inner slices of equal length and solved by Parareal itself. Where a propagator is `Steps`, the inner boundaries are
    integer nodes, and a slice with fewer steps than `slices` has one inner slice per step. The inner solve of an outer
    iteration starts from the trajectory that the previous outer iteration left in that slice. (As a coarse propagator
    it starts from its own prediction every time, because G must be the same map in every iteration.) Steppers of all
    levels share batched calls and evaluations.

    An inner solve that stops before its end is not exact. The next outer iteration continues it even if its input has
    not changed, and no outer boundary (except the last, with `Tolerance`) settles on a result that the inner criterion
    has not accepted. If all levels run to their ends, as with `Iterations(number of slices)`, the result is the
    sequential solution.

    Args:
        fine: the propagator that defines the answer; of any form, another `Parareal` included.
        coarse: a propagator of any form, or None if the correction uses none.
        slices: number of inner slices, 1 or more.
        criterion: the criterion of the inner solves; None to derive it from the outer criterion
            (`AbstractCriterion.for_inner_solves`).
        inner_iterations: the largest number of iterations of an inner solve per outer iteration; None for no limit
            besides the criterion. The default, 1, is usually best, because the error of the outer level limits what
            further inner iterations gain (docs/how-to/levels.md). Ignored if the criterion fixes the number itself, as
            `Iterations` does.
        correction: as for `solve`; None for the correction of the outer level.

    Raises:
        ValueError: for `slices` or `inner_iterations` below 1, a criterion that makes no iteration, or a correction
            that needs the coarse propagator that is missing.
        TypeError: for a criterion or a correction of another type.

    Examples:
        Two levels, 12 outer slices of 9 inner slices each:
        `parareal.solve(parareal.Parareal(fine, coarse, 9), coarse, u, (t0, t1), slices=12)`
    """

    def solve(self, initial: State, start: Time, stop: Time, **options: Any) -> Solution:
        """Solve over `slices` slices from `start` to `stop`.

        Args:
            initial: the state at `start`.
            start: left end of the interval; an integer node if a propagator is `Steps`.
            stop: right end of the interval.
            **options: keywords of `parareal.solve`. `criterion` and `correction` are by default those of this object.

        Raises:
            ValueError, TypeError, PararealError: as `parareal.solve`.
        """
        # a keyword of this call takes precedence over the field
        options.setdefault("criterion", self.criterion)
        options.setdefault("correction", self.correction)
        return solve(self.fine, self.coarse, initial, self.edges(start, stop), **options)

    def __call__(self, state: State, t0: Time, t1: Time) -> State:
        """Return the state at `t1`, so that this object can be used as any function `f(state, t0, t1)`."""
        return self.solve(state, t0, t1).final_state
