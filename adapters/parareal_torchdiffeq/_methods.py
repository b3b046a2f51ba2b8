"""The explicit Runge-Kutta methods of torchdiffeq on a fixed grid, as steppers of the engine.

Every step makes the operations of `torchdiffeq._impl.fixed_grid` in that order, on all rows at once. One code serves
NumPy arrays and torch tensors: y has shape (rows, *state), t0, t1 and dt shape (rows,), and h is dt shaped and cast to
multiply y.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch

from parareal import Stepper

Array = Any  # NumPy array or torch tensor

_1_3, _2_3 = 1 / 3, 2 / 3


class Method(Stepper):
    """A one-step method over the nodes of a grid.

    Args:
        evaluate: the right-hand side, `evaluate(y, t)` for rows y of shape (rows, *state) and times of shape (rows,).
        times: the time at every node, shape (steps + 1,), in the library of the states; real, of any dtype.
        dtype: the real dtype of the states, in which the right-hand side is told the time.
        perturb: tell it times next to the ends of a step from inside the step, as torchdiffeq does for right-hand
            sides that jump there.
        embedded: make every step by a method of lower order too, from the same evaluations, for estimates of errors
            (`parareal.Tolerance`). Euler's method has none.
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

    def with_embedded(self) -> "Method":
        """Return this method, making every step by one of lower order too; it shares evaluations with this one."""
        return type(self)(self.evaluate, self.times, self.dtype, self.perturb, embedded=True)

    def ended(self, y: Array, memory: None, second: Callable[[], Array]) -> Any:
        """Return what a step returns, with the result of lower order that `second` computes where it is wanted."""
        return (y, memory, second()) if self.embedded else (y, memory)

    @abstractmethod
    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:  # pyright: ignore
        """Advance every row from its node `start` to its node `stop`."""

    def interval(self, y: Array, start: Array, stop: Array) -> tuple[Array, Array, Array, Array]:
        """Return t0, t1, dt and h."""
        t0, t1 = self.times[start], self.times[stop]
        dt = t1 - t0
        return t0, t1, dt, self.at(dt).reshape(-1, *[1] * (y.ndim - 1))

    def at(self, t: Array) -> Array:
        """Return times in the dtype of the states."""
        if t.dtype == self.dtype:
            return t
        return t.to(self.dtype) if isinstance(t, torch.Tensor) else t.astype(self.dtype)

    def after(self, t: Array) -> Array:
        """Return times, nudged by one unit in the last place into the step that begins there."""
        return _nextafter(self.at(t), 1) if self.perturb else self.at(t)

    def before(self, t: Array) -> Array:
        """Return times, nudged into the step that ends there."""
        return _nextafter(self.at(t), -1) if self.perturb else self.at(t)


def _nextafter(t: Array, direction: int) -> Array:
    nextafter = torch.nextafter if isinstance(t, torch.Tensor) else np.nextafter
    return nextafter(t, t + direction)


def _damped(second: Array, first: Array) -> Array:
    """Return the error of a second-order method, scaled down as it is smaller than a first-order one's.

    Four stages have no embedded method of third order but their own. The errors of orders 1 and 2 go down by a factor;
    going on by it gives the size of an error of order 3. By its root the estimate is between the two, which was found
    to be safer (docs/explained/estimates.md).
    """
    axes = tuple(range(1, second.ndim))
    two, one = ((abs(x) ** 2).sum(axes) ** 0.5 if axes else abs(x) for x in (second, first))
    ratio = two / (one + (one == 0))
    return second * (ratio.clip(max=1) ** 0.5).reshape(-1, *[1] * len(axes))


@final
class Euler(Method):
    """Euler's method, first order (Euler 1768)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row; one evaluation."""
        t0, _, _, h = self.interval(y, start, stop)
        k1 = yield y, self.after(t0)
        return y + h * k1, memory


@final
class Midpoint(Method):
    """The midpoint rule, second order (Runge 1895)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row; two evaluations."""
        t0, _, dt, h = self.interval(y, start, stop)
        k1 = yield y, self.after(t0)
        k2 = yield y + k1 * (0.5 * h), self.at(t0 + 0.5 * dt)
        return self.ended(y + h * k2, memory, lambda: y + h * k1)


@final
class Heun2(Method):
    """The trapezoidal predictor-corrector, second order (Heun 1900)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row; two evaluations."""
        t0, _, dt, h = self.interval(y, start, stop)
        k1 = yield y, self.after(t0)
        k2 = yield y + h * k1, self.before(t0 + dt)
        return self.ended(y + h * (k1 * 0.5 + k2 * 0.5), memory, lambda: y + h * k1)


@final
class Heun3(Method):
    """Heun's third-order method (Heun 1900)."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row; three evaluations."""
        t0, _, dt, h = self.interval(y, start, stop)
        k1 = yield y, self.after(t0)
        k2 = yield y + h * k1 * _1_3, self.at(t0 + dt * _1_3)
        k3 = yield y + h * (k2 * _2_3), self.at(t0 + dt * _2_3)
        return self.ended(y + h * (k1 * 0.25 + k3 * 0.75), memory, lambda: y + h * (1.5 * k2 - 0.5 * k1))


@final
class RK4(Method):
    """The 3/8 rule, fourth order (Kutta 1901); torchdiffeq's `rk4` is this one, not the classical method."""

    def step(self, y: Array, memory: None, start: Array, stop: Array) -> Any:
        """Advance every row; four evaluations."""
        t0, t1, dt, h = self.interval(y, start, stop)
        k1 = yield y, self.after(t0)
        k2 = yield y + h * k1 * _1_3, self.at(t0 + dt * _1_3)
        k3 = yield y + h * (k2 - k1 * _1_3), self.at(t0 + dt * _2_3)
        k4 = yield y + h * (k1 - k2 + k3), self.before(t1)
        new = y + (k1 + 3 * (k2 + k3) + k4) * h * 0.125
        return self.ended(
            new, memory, lambda: new + _damped(h * (k1 + k2 + k3 + k4) * 0.25 + y - new, h * k1 + y - new)
        )


METHODS: dict[str, type[Method]] = {"euler": Euler, "midpoint": Midpoint, "heun2": Heun2, "heun3": Heun3, "rk4": RK4}
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
"""evaluations of a step"""
