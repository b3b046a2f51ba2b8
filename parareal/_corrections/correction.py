"""The correction C, in which the methods of the Parareal family differ."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from parareal._state import Layout, State


class Point(NamedTuple):
    """An iterate U at the left boundary of a slice, with the results of the propagators on it."""

    state: State
    """U; may be None unless the correction `uses_states`"""
    coarse: State
    """G(U); None unless the correction `uses_coarse`"""
    fine: State = None
    """F(U); None where it is not known yet, as for the newer iterate"""


class AbstractCorrection(ABC):
    """The map C in U(k, n+1) = F(k-1, n) + C(U(k, n)) - C(U(k-1, n)).

    The bracket predicts F(U(k, n)) - F(U(k-1, n)) before F(U(k, n)) is known. With M slices the iteration ends with the
    sequential solution after at most M iterations, whatever C is, because the bracket is skipped where the two iterates
    agree bitwise. A better prediction ends it sooner. Choices of C (docs/explained/theory.md): a coarse propagator
    (Parareal), the identity (Picard), zero (Jacobi); a derivative of F (Newton), or a model of F - G fitted to pairs.

    To implement a correction:

    1. Set `uses_coarse` and `uses_states` to the parts that the points must hold. G runs on new iterates only if the
       correction `uses_coarse`, and earlier iterates are kept only if it `uses_states`.
    2. Define `difference(slice, now, then)`: C(U(k, n)) - C(U(k-1, n)), for U(k, n) in `now` and U(k-1, n) in `then`.
       F of the latter is in `then.fine`. Return a state like those in the points, or None for zero. The engine calls it
       at most once per slice and iteration, and not where the two iterates agree. Results of F and G need not be
       finite; where F plus the difference is not, the engine drops the difference.
    3. Define `begin(layout, slices)` if the correction learns during a solve. It returns the object for the solve of
       one sample, or for one inner solve of nested levels, whose `slices` are its own. Let these objects refer to the
       one that made them if solves are to learn from each other.
    4. Set `estimates_errors = True` only if the error estimates of docs/explained/estimates.md, eq. 15 to 19, have been
       measured to hold for the correction. They assume that an iterate is much better than the one before it. Without
       them estimates are infinite, and `Tolerance` is refused. Define `value(point)`, which is C(U), if C is a map that
       can be evaluated: the estimate of the first iteration needs it.
    """

    uses_coarse: ClassVar[bool] = True
    """whether G must run on every new iterate"""
    uses_states: ClassVar[bool] = False
    """whether the iterates themselves are needed, not only the results of the propagators on them"""
    estimates_errors: ClassVar[bool] = False
    """whether error estimates hold for this correction"""

    def begin(self, layout: Layout, slices: int) -> "AbstractCorrection":
        """Return the correction for the solve of one sample; by default this object.

        Args:
            layout: structure, shapes and dtypes of the states.
            slices: number of slices of the solve.
        """
        return self

    @abstractmethod
    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return C(U(k, n)) - C(U(k-1, n)) for slice n; None for zero.

        Args:
            slice: n, from 0.
            now: U(k, n); its `fine` is None.
            then: U(k-1, n).
        """

    def value(self, point: Point) -> State:
        """Return C(U), or None where it is not known."""
        return None
