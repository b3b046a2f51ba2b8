"""Problems and methods that the tests share: right-hand sides, black boxes, and steppers of four kinds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optree
import torch

import parareal


def euler_box(rhs: Callable[[Any, Any], Any], steps: int) -> Callable[[Any, Any, Any], Any]:
    """Explicit Euler with `steps` steps a slice, for any state that optree knows."""

    def propagate(u, t0, t1):
        h = (t1 - t0) / steps
        for i in range(steps):
            u = optree.tree_map(lambda x, dx: x + h * dx, u, rhs(t0 + i * h, u))
        return u

    return propagate


@dataclass(frozen=True)
class Problem:
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


def coupled(t, u):
    return {"x": -u["x"] + u["y"], "y": -0.5 * u["y"] * u["y"]}


PROBLEMS = {
    "float": Problem(decay, 1.0),
    "int": Problem(decay, 1),
    "complex": Problem(rotation, 1.0 + 0.5j),
    "numpy": Problem(logistic, np.array([0.1, 0.7, 1.3])),
    "numpy scalar": Problem(logistic, np.array(0.3)),
    "numpy complex": Problem(rotation, np.array([[1.0 + 1j, 0.2]])),
    "float32": Problem(logistic, np.array([0.1, 0.7], dtype=np.float32)),
    "torch": Problem(logistic, torch.tensor([[0.2, 0.4], [0.6, 1.1]], dtype=torch.float64)),
    "torch32": Problem(logistic, torch.tensor(0.2)),
    "tuple": Problem(pendulum, (1.0, 0.0)),
    "dict": Problem(coupled, {"x": np.array([1.0, 2.0]), "y": np.array([1.5, 0.5])}),
}


class Method(parareal.Stepper):
    """A stepper over the nodes of a time grid for the right-hand side `rhs(t, u)`, rows first."""

    def __init__(self, evaluate, grid):
        self.evaluate, self.grid = evaluate, grid

    def _time(self, node, state):
        return self.grid[node].reshape(-1, *[1] * (state.ndim - 1))


class Euler(Method):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        slope = yield state, t
        return state + (end - t) * slope, memory


class Heun(Method):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        first = yield state, t
        second = yield state + (end - t) * first, end
        return state + (end - t) / 2 * (first + second), memory


class RungeKutta4(Method):
    def step(self, state, memory, start, stop):
        t, end = self._time(start, state), self._time(stop, state)
        h = end - t
        a = yield state, t
        b = yield state + h / 2 * a, t + h / 2
        c = yield state + h / 2 * b, t + h / 2
        d = yield state + h * c, end
        return state + h / 6 * (a + 2 * b + 2 * c + d), memory


class AdamsBashforth2(Method):
    """Two-step Adams-Bashforth; the first step, marked by a count of zero, is Euler's. It remembers a slope."""

    def begin(self, state):
        zeros = state * 0
        return zeros, zeros.reshape(len(state), -1)[:, 0]

    def step(self, state, memory, start, stop):
        before, count = memory
        t, end = self._time(start, state), self._time(stop, state)
        slope = yield state, t
        known = (count > 0).reshape(-1, *[1] * (state.ndim - 1))
        bent = slope + 0.5 * (slope - before)
        where = torch.where if isinstance(state, torch.Tensor) else np.where
        return state + (end - t) * where(known, bent, slope), (slope, count + 1)


METHODS = {"euler": Euler, "heun": Heun, "rk4": RungeKutta4, "ab2": AdamsBashforth2}
STAGES = {"euler": 1, "heun": 2, "rk4": 4, "ab2": 1}


def edges(steps: int, slices: int) -> list[int]:
    """Slice edges round(n N / M) on a grid of N steps."""
    return [round(n * steps / slices) for n in range(slices + 1)]


def identical(a: Any, b: Any) -> bool:
    """Whether two states are equal bit by bit."""
    xs, tree = optree.tree_flatten(a)
    ys, other = optree.tree_flatten(b)
    return tree == other and all(
        type(x) is type(y) and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(xs, ys, strict=True)
    )


def smooth_network(x, t):
    """A tame stand-in for a diffusion model, for rows x at timesteps t."""
    return 0.8 * x - 0.3 * x.tanh() * (t.reshape(-1, *[1] * (x.ndim - 1)) / 1000)
