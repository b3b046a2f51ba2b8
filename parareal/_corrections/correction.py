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

    The difference C(v) - C(u) predicts F(v) - F(u) before F(v) is known. Whatever it is, the iteration ends with the
    sequential solution after as many iterations as there are slices, because the difference is skipped where u and v
    agree bitwise; a better prediction ends it sooner. Choices of C (docs/theory.md): a coarse propagator (Parareal),
    the identity (Picard), zero (Jacobi); a derivative of F (Newton), or a model of F - G fitted to pairs.

    What an implementer owes:

    1. `uses_coarse` and `uses_states`: what the points must hold. G is only run on new iterates if the correction
       `uses_coarse`, and earlier iterates are only kept if it `uses_states`.
    2. `difference(slice, now, then)`: C(v) - C(u), for v = U(k, n) in `now` and u = U(k-1, n) in `then`; F(u) is known,
       in `then.fine`. A state, or None for zero.
    3. `value(point)`, where C is a map that can be evaluated: C(u). It makes error estimates of the first iteration
       sharper. None, the default, where only differences are known.
    4. `begin(layout, slices)`, where something is learned during a solve: the object that this solve uses.
    """

    uses_coarse: ClassVar[bool] = True
    """whether G must be run on every new iterate"""
    uses_states: ClassVar[bool] = False
    """whether the iterates themselves are needed, not only what the propagators made of them"""

    def begin(self, layout: Layout, slices: int) -> "AbstractCorrection":
        """Return the correction that one solve uses: itself, unless it learns."""
        return self

    @abstractmethod
    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return C(U(k, n)) - C(U(k-1, n)) for slice n; None for zero."""

    def value(self, point: Point) -> State:
        """Return C(U), or None where it is not known."""
        return None
