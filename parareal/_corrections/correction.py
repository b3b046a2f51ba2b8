"""The correction C: what distinguishes one method of the family from another."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from parareal._state import Layout, State


class Point(NamedTuple):
    """An iterate U at the left boundary of a slice, and what the propagators made of it."""

    state: State
    """U; None unless the correction `uses_states`"""
    coarse: State
    """G(U); None unless the correction `uses_coarse`"""
    fine: State = None
    """F(U); None where it is not known yet, as for the newer iterate"""


class AbstractCorrection(ABC):
    """The map C in U(k, n+1) = F(k-1, n) + C(U(k, n)) - C(U(k-1, n)).

    The bracket predicts F(U(k, n)) - F(U(k-1, n)) before F(U(k, n)) is known. Whatever it is, the iteration ends with
    the sequential solution after as many iterations as there are slices, because the bracket is skipped where the two
    iterates agree bitwise; a better prediction ends it sooner. Choices of C (docs/explained/theory.md): a coarse propagator
    (Parareal), the identity (Picard), zero (Jacobi); a derivative of F (Newton), or a model of F - G fitted to pairs.

    To implement one:

    1. `uses_coarse` and `uses_states`: what the points must hold. G is only run on new iterates if the correction
       `uses_coarse`, and earlier iterates are only kept if it `uses_states`.
    2. `difference(slice, now, then)`: C(U(k, n)) - C(U(k-1, n)), for U(k, n) in `now` and U(k-1, n) in `then`. F of the
       latter is known, in `then.fine`. Return a state like those in the points, or None for zero. It is asked at most
       once per slice and iteration, and not where the two iterates agree.
    3. `begin(layout, slices)`, where something is learned during a solve: the object that one sample's solve uses, or
       one inner solve of nested levels, whose `slices` are its own. Solves that shall learn from each other share what
       they know through the object that makes them.
    4. `estimates_errors` and `value`: set `estimates_errors = True` only if the error estimates of docs/explained/estimates.md,
       eq. 15 to 19, have been measured to hold for it. They assume that an iterate is much better than the one before
       it. Without them estimates are infinite, and `Tolerance` is refused. `value(point)` is C(U), where C is a map
       that can be evaluated: the estimate of the first iteration needs it.
    """

    uses_coarse: ClassVar[bool] = True
    """whether G must be run on every new iterate"""
    uses_states: ClassVar[bool] = False
    """whether the iterates themselves are needed, not only what the propagators made of them"""
    estimates_errors: ClassVar[bool] = False
    """whether error estimates hold for this correction"""

    def begin(self, layout: Layout, slices: int) -> "AbstractCorrection":
        """Return the correction that the solve of one sample uses: itself, unless it learns."""
        return self

    @abstractmethod
    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return C(U(k, n)) - C(U(k-1, n)) for slice n; None for zero."""

    def value(self, point: Point) -> State:
        """Return C(U), or None where it is not known."""
        return None
