"""Problems and propagators that the tests share: right-hand sides, plain functions, and steppers of four methods."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import torch

import parareal


def euler_propagator(rhs: Callable[[Any, Any], Any], steps: int) -> Callable[[Any, Any, Any], Any]:
    """Return a plain function that makes `steps` explicit Euler steps per slice, for any pytree of arrays."""

    def propagate(u, t0, t1):
        h = (t1 - t0) / steps
        for i in range(steps):
            u = optree.tree_map(lambda x, dx: x + h * dx, u, rhs(t0 + i * h, u))
        return u

    return propagate


@dataclass(frozen=True)
class InitialValueProblem:
    """u' = rhs(t, u) with an initial state."""

    rhs: Callable[[Any, Any], Any]
    initial: Any


def decay(t, u):
    return -u + 0.5 * t


def logistic(t, u):
    return u * (1 - u)


def rotation(t, u):
    return 1j * u - 0.1 * u


def pendulum(t, u):
    angle, speed = u
    return (speed, -angle * angle * angle - 0.1 * speed)


def decay_pair(t, u):
    return {"x": -u["x"] + u["y"], "y": -0.5 * u["y"] * u["y"]}


PROBLEMS = {
    "float": InitialValueProblem(decay, 1.0),
    "int": InitialValueProblem(decay, 1),
    "complex": InitialValueProblem(rotation, 1.0 + 0.5j),
    "numpy": InitialValueProblem(logistic, np.array([0.1, 0.7, 1.3])),
    "numpy scalar": InitialValueProblem(logistic, np.array(0.3)),
    "numpy complex": InitialValueProblem(rotation, np.array([[1.0 + 1j, 0.2]])),
    "float32": InitialValueProblem(logistic, np.array([0.1, 0.7], dtype=np.float32)),
    "torch": InitialValueProblem(logistic, torch.tensor([[0.2, 0.4], [0.6, 1.1]], dtype=torch.float64)),
    "torch32": InitialValueProblem(logistic, torch.tensor(0.2)),
    "tuple": InitialValueProblem(pendulum, (1.0, 0.0)),
    "dict": InitialValueProblem(decay_pair, {"x": np.array([1.0, 2.0]), "y": np.array([1.5, 0.5])}),
}


class GridStepper(parareal.Stepper):
    """A method on a grid of times, for a right-hand side `evaluate(u, t)` of stacked rows."""

    def __init__(self, evaluate, grid):
        self.evaluate, self.grid = evaluate, grid

    def _time(self, node, state):
        """Return the times of the nodes, one per row, in a shape that broadcasts over the state."""
        return self.grid[node].reshape(-1, *[1] * (state.ndim - 1))


class EulerStepper(GridStepper):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        slope = yield state, t
        return state + (end - t) * slope, memory


class HeunStepper(GridStepper):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        first = yield state, t
        second = yield state + (end - t) * first, end
        return state + (end - t) / 2 * (first + second), memory


class RungeKutta4Stepper(GridStepper):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        h = end - t
        a = yield state, t
        b = yield state + h / 2 * a, t + h / 2
        c = yield state + h / 2 * b, t + h / 2
        d = yield state + h * c, end
        return state + h / 6 * (a + 2 * b + 2 * c + d), memory


class AdamsBashforth2Stepper(GridStepper):
    """The two-step Adams-Bashforth method. Its memory is the previous slope and a count of steps.

    The first step, at a count of zero, is explicit Euler.
    """

    def begin(self, state):
        zeros = state * 0
        return zeros, zeros.reshape(len(state), -1)[:, 0]

    def step(self, state, memory, start, stop):
        previous, count = memory
        t, end = self._time(start, state), self._time(stop, state)
        slope = yield state, t
        # rows of slices at different steps share this call, so the choice is made per row
        has_previous = (count > 0).reshape(-1, *[1] * (state.ndim - 1))
        extrapolated = slope + 0.5 * (slope - previous)
        where = torch.where if isinstance(state, torch.Tensor) else np.where
        return state + (end - t) * where(has_previous, extrapolated, slope), (slope, count + 1)


METHODS = {"euler": EulerStepper, "heun": HeunStepper, "rk4": RungeKutta4Stepper, "ab2": AdamsBashforth2Stepper}
STAGES = {"euler": 1, "heun": 2, "rk4": 4, "ab2": 1}


def edges(steps: int, slices: int) -> list[int]:
    """Return the nodes round(n N / M) that bound M slices on a grid of N steps."""
    return [round(n * steps / slices) for n in range(slices + 1)]


def identical(a: Any, b: Any) -> bool:
    """Return whether two states are equal bit by bit, in type, too."""
    xs, tree = optree.tree_flatten(a)
    ys, other = optree.tree_flatten(b)
    return tree == other and all(
        type(x) is type(y) and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(xs, ys, strict=True)
    )


def smooth_network(x, t):
    """Return a smooth function of rows x and timesteps t that stands in for a diffusion model."""
    return 0.8 * x - 0.3 * x.tanh() * (t.reshape(-1, *[1] * (x.ndim - 1)) / 1000)
