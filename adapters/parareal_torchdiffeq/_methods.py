"""The explicit Runge-Kutta methods of torchdiffeq on a fixed grid, as steppers of the engine.

Every step makes the operations of `torchdiffeq._impl.fixed_grid` and `rk_common`, in their order, on all rows at once.
The same code serves NumPy arrays and torch tensors. Shapes: y is (rows, *state); t0, t1 and dt are (rows,); h is dt in
the dtype of the state, of shape (rows, 1, ..., 1), so that it multiplies y.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch

from parareal import Stepper

Array = Any  # NumPy array or torch tensor

_1_3, _2_3 = 1 / 3, 2 / 3


class RungeKuttaMethod(Stepper):
    """An explicit Runge-Kutta method over the nodes of a grid.

    Args:
        evaluate: the right-hand side, `evaluate(y, t)` for rows y of shape (rows, *state) and times of shape (rows,).
        times: the time at every node, shape (steps + 1,), in the array library of the states; of any real dtype.
        dtype: the real dtype of the states; times are cast to it before the right-hand side is evaluated.
        perturb: evaluate the ends of a step at the neighbouring floating-point times inside the step, as torchdiffeq
            does for right-hand sides that jump at nodes.
        embedded: return the result of an embedded method of lower order with every step, from the same evaluations.
            `parareal.Tolerance` estimates errors from it. Euler's method has no embedded method and ignores this.
    """

    def __init__(
        self,
        evaluate: Callable[[Array, Array], Array],
        times: Array,
        dtype: Any,
        perturb: bool,
        embedded: bool = False,
    ):
        self.evaluate, self.times, self.dtype, self.perturb = evaluate, times, dtype, perturb
        self.embedded = embedded

    def with_embedded(self) -> "RungeKuttaMethod":
        """Return this method with its embedded method of lower order, sharing evaluations with this one."""
        # Steppers share evaluations if their `evaluate` is the same object, so it is passed on unwrapped.
        return type(self)(self.evaluate, self.times, self.dtype, self.perturb, embedded=True)

    def finish_step(self, y: Array, memory: None, compute_embedded: Callable[[], Array]) -> Any:
        """Return the result of a step, and that of lower order if it is wanted; only then it is computed."""
        return (y, memory, compute_embedded()) if self.embedded else (y, memory)

    @abstractmethod
    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:  # pyright: ignore
        """Advance every row from its node `start` to its node `stop` in one step."""

    def compute_interval(self, y: Array, start: Array, stop: Array) -> tuple[Array, Array, Array, Array]:
        """Return t0, t1, dt and h."""
        t0, t1 = self.times[start], self.times[stop]
        # The difference is taken in the dtype of the times, before the cast, as in torchdiffeq.
        dt = t1 - t0
        return t0, t1, dt, self.cast_time(dt).reshape(-1, *[1] * (y.ndim - 1))

    def cast_time(self, t: Array) -> Array:
        """Return times in the real dtype of the states."""
        if t.dtype == self.dtype:
            return t
        return t.to(self.dtype) if isinstance(t, torch.Tensor) else t.astype(self.dtype)

    def cast_start_time(self, t: Array) -> Array:
        """Return start times of steps; with `perturb`, the next larger floating-point numbers."""
        return _nextafter(self.cast_time(t), 1) if self.perturb else self.cast_time(t)

    def cast_end_time(self, t: Array) -> Array:
        """Return end times of steps; with `perturb`, the next smaller floating-point numbers."""
        return _nextafter(self.cast_time(t), -1) if self.perturb else self.cast_time(t)


def _nextafter(t: Array, direction: int) -> Array:
    """Return the neighbouring floating-point numbers of t, above for a direction of 1 and below for -1."""
    nextafter = torch.nextafter if isinstance(t, torch.Tensor) else np.nextafter
    return nextafter(t, t + direction)


def _scale_difference(second: Array, first: Array) -> Array:
    """Return the embedded difference of order 2, scaled to lie between those of orders 2 and 3.

    The four stages of the 3/8 rule have no embedded method of order 3. Let r be the ratio of the norms of the order-2
    and the order-1 difference. If errors decreased geometrically with the order, `r * second` would be the order-3
    difference. This function returns `sqrt(r) * second`, which lies between orders 2 and 3 and proved safer
    (docs/explained/estimates.md).
    """
    axes = tuple(range(1, second.ndim))
    two, one = ((abs(x) ** 2).sum(axes) ** 0.5 if axes else abs(x) for x in (second, first))
    ratio = two / (one + (one == 0))  # a zero denominator becomes 1, so 0 / 0 is 0
    # Clipped at 1, so that the estimate does not exceed the order-2 difference.
    return second * (ratio.clip(max=1) ** 0.5).reshape(-1, *[1] * len(axes))


@final
class EulerMethod(RungeKuttaMethod):
    """Euler's method, first order (Euler 1768)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row in one step of one evaluation."""
        t0, _, _, h = self.compute_interval(y, start, stop)
        k1 = yield y, self.cast_start_time(t0)
        return y + h * k1, memory


@final
class MidpointMethod(RungeKuttaMethod):
    """The midpoint rule, second order (Runge 1895)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row in one step of two evaluations; Euler's method is embedded."""
        t0, _, dt, h = self.compute_interval(y, start, stop)
        k1 = yield y, self.cast_start_time(t0)
        k2 = yield y + k1 * (0.5 * h), self.cast_time(t0 + 0.5 * dt)
        return self.finish_step(y + h * k2, memory, lambda: y + h * k1)


@final
class Heun2Method(RungeKuttaMethod):
    """The trapezoidal predictor-corrector, second order (Heun 1900)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row in one step of two evaluations; Euler's method is embedded."""
        t0, _, dt, h = self.compute_interval(y, start, stop)
        k1 = yield y, self.cast_start_time(t0)
        # t0 + dt as in torchdiffeq, which can differ from t1 by rounding
        k2 = yield y + h * k1, self.cast_end_time(t0 + dt)
        return self.finish_step(y + h * (k1 * 0.5 + k2 * 0.5), memory, lambda: y + h * k1)


@final
class Heun3Method(RungeKuttaMethod):
    """Heun's third-order method (Heun 1900)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row in one step of three evaluations; a second-order method is embedded."""
        t0, _, dt, h = self.compute_interval(y, start, stop)
        k1 = yield y, self.cast_start_time(t0)
        k2 = yield y + h * k1 * _1_3, self.cast_time(t0 + dt * _1_3)
        k3 = yield y + h * (k2 * _2_3), self.cast_time(t0 + dt * _2_3)
        # Embedded weights -1/2 and 3/2 at the nodes 0 and 1/3: their sum is 1 and their first moment 1/2, so order 2.
        return self.finish_step(y + h * (k1 * 0.25 + k3 * 0.75), memory, lambda: y + h * (1.5 * k2 - 0.5 * k1))


@final
class RK4Method(RungeKuttaMethod):
    """The 3/8 rule, fourth order (Kutta 1901); torchdiffeq's `rk4` is this one, not the classical method."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row in one step of four evaluations; the embedded difference lies between orders 2 and 3."""
        t0, t1, dt, h = self.compute_interval(y, start, stop)
        k1 = yield y, self.cast_start_time(t0)
        k2 = yield y + h * k1 * _1_3, self.cast_time(t0 + dt * _1_3)
        k3 = yield y + h * (k2 - k1 * _1_3), self.cast_time(t0 + dt * _2_3)
        # t1 here, and not t0 + dt: torchdiffeq's `rk4_alt_step_func` differs from its other methods in this
        k4 = yield y + h * (k1 - k2 + k3), self.cast_end_time(t1)
        new = y + (k1 + 3 * (k2 + k3) + k4) * h * 0.125
        # Four weights of 1/4 at the nodes 0, 1/3, 2/3 and 1 are of order 2, k1 alone is of order 1.
        return self.finish_step(
            new, memory, lambda: new + _scale_difference(h * (k1 + k2 + k3 + k4) * 0.25 + y - new, h * k1 + y - new)
        )


METHODS: dict[str, type[RungeKuttaMethod]] = {
    "euler": EulerMethod,
    "midpoint": MidpointMethod,
    "heun2": Heun2Method,
    "heun3": Heun3Method,
    "rk4": RK4Method,
}
"""supported methods by torchdiffeq's names"""

STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
"""evaluations per step"""
