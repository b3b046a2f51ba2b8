"""Elementary corrections, which need only the propagators: Parareal, Picard, Jacobi."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

from parareal._corrections.correction import AbstractCorrection, Point
from parareal._state import State, subtract


@final
@dataclass(frozen=True)
class CoarseDifference(AbstractCorrection):
    """C = G, the coarse propagator: Parareal (Lions, Maday, Turinici 2001)."""

    estimates_errors: ClassVar[bool] = True

    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return G(U(k, n)) - G(U(k-1, n))."""
        return subtract(now.coarse, then.coarse)

    def value(self, point: Point) -> State:
        """Return G(U)."""
        return point.coarse


@final
@dataclass(frozen=True)
class Identity(AbstractCorrection):
    """C(u) = u: Picard iteration; with one step per slice and a window, ParaDiGMS (Shih et al. 2023).

    Where the flow decays or grows fast, small increments say little about the error: estimates are infinite.
    """

    uses_coarse: ClassVar[bool] = False
    uses_states: ClassVar[bool] = True

    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return U(k, n) - U(k-1, n)."""
        return subtract(now.state, then.state)

    def value(self, point: Point) -> State:
        """Return U."""
        return point.state


@final
@dataclass(frozen=True)
class Zero(AbstractCorrection):
    """C = 0: block Jacobi iteration, U(k, n+1) = F(k-1, n). It predicts nothing, and is a reference for the others.

    An error moves on by one slice per iteration, so small increments say nothing about it: estimates are infinite.
    """

    uses_coarse: ClassVar[bool] = False

    def difference(self, slice: int, now: Point, then: Point) -> State:
        """Return None, which means zero."""
        return None


def check_correction(correction: Any, coarse: Any) -> AbstractCorrection:
    """Return the correction, by default `CoarseDifference`.

    Raises:
        TypeError: if `correction` is no correction.
        ValueError: if it uses the coarse propagator and `coarse` is None.
    """
    correction = CoarseDifference() if correction is None else correction
    if not isinstance(correction, AbstractCorrection):
        raise TypeError(
            "correction must be CoarseDifference(), Identity(), Zero() or an AbstractCorrection of your own, "
            f"not {type(correction).__name__}"
        )
    if correction.uses_coarse and coarse is None:
        raise ValueError(
            f"coarse is None, but {type(correction).__name__} uses it: pass a coarse propagator, or "
            "correction=Identity()"
        )
    return correction
