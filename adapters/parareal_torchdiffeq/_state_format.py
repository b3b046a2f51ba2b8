"""How the user's states are written for the engine, and back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _flat_to_shape

import parareal
from parareal_torchdiffeq._methods import METHODS, Method
from parareal_torchdiffeq._problem import Problem

_SMALL = 1 << 15
"""entries up to which torch does not use a second thread"""


@final
@dataclass(frozen=True)
class Arrays:
    """The engine's states: tensors, or NumPy arrays that share their memory; tuples as one vector, as in torchdiffeq.

    On the CPU, where torch would use one thread, they are NumPy arrays: a call on a small array takes NumPy about a
    third of torch's time.
    """

    numpy: bool
    shapes: list[Size] | None
    """those of a tuple's leaves; None where the user's state is a tensor"""
    dtype: torch.dtype
    """the user's"""

    real: Any
    """the real dtype of the engine's states, in the library of these"""

    @staticmethod
    def suited(problem: Problem, rows: int, own: bool) -> "Arrays":
        """Choose the library for so many rows; where the caller has a coarse propagator of his `own`, it is torch."""
        y = problem.y0
        known = problem.times.dtype in (torch.float32, torch.float64)  # NumPy lacks some others
        alone = y.numel() * rows <= _SMALL or torch.get_num_threads() == 1
        numpy = not own and known and y.device.type == "cpu" and alone
        real = y.dtype.to_real()
        return Arrays(numpy, problem.shapes, problem.dtype, np.dtype(str(real)[6:]) if numpy else real)

    def of(self, tensor: Tensor) -> Any:
        """Return a tensor as the engine is given it."""
        return tensor.numpy(force=True) if self.numpy else tensor.detach()

    def tensor(self, array: Any) -> Tensor:
        """Return an array of the engine's as a tensor that shares its memory."""
        return torch.from_numpy(array) if self.numpy else array

    def one(self, state: Any, like: Tensor) -> Tensor:
        """Return what the user's function made of `user(like)` as a tensor of the engine's."""
        if self.shapes is not None:
            state = torch.cat([x.reshape(*like.shape[:-1], -1) for x in state], dim=-1)
        return state.to(like.dtype)

    def user(self, states: Any) -> Any:
        """Return states with any leading axes as the user knows them."""
        y = (states if isinstance(states, Tensor) else torch.from_numpy(states)).to(self.dtype)
        return y if self.shapes is None else _flat_to_shape(y, y.shape[:-1], self.shapes)

    def solution(self, solution: parareal.Solution) -> parareal.Solution:
        """Return a solution with the user's states."""
        return replace(solution, final_state=self.user(solution.final_state), states=self.user(solution.states))

    def callback(self, callback: Callable[[parareal.Refinement], Any]) -> Callable[[parareal.Refinement], Any]:
        """Return a callback of the engine's that shows the user's states."""

        def shown(r: parareal.Refinement) -> Any:
            return callback(replace(r, final_state=self.user(r.final_state), stack_states=lambda: self.user(r.states)))

        return shown

    def method(self, problem: Problem, rows: Callable[[Tensor, Tensor], Tensor]) -> Method:
        """Return the fine method on these."""
        evaluate = self.evaluate(rows, problem.falling)
        return METHODS[problem.method](evaluate, self.of(problem.times), self.real, problem.solver.perturb)

    def evaluate(self, rows: Callable[[Tensor, Tensor], Tensor], falling: bool) -> Callable[[Any, Any], Any]:
        """Return the right-hand side for the engine's rows, whose time always rises: -f(-t, y) for time that falls."""

        def evaluate(y: Any, t: Any) -> Any:
            if self.numpy:
                y, t = torch.from_numpy(y), torch.from_numpy(t)
            value = -rows(-t, y) if falling else rows(t, y)
            return self.of(value)

        return evaluate
