"""Conversion between the user's states and the engine's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Size, Tensor
from torchdiffeq._impl.misc import _flat_to_shape

import parareal
from parareal.driver import check_callback
from parareal_torchdiffeq._methods import METHODS, RungeKuttaMethod
from parareal_torchdiffeq._problem import FixedGridProblem

_SINGLE_THREAD_SIZE = 1 << 15
"""entries up to which torch does not use a second thread"""


@final
@dataclass(frozen=True)
class StateFormat:
    """The form of the engine's states, and conversions to and from the user's.

    The engine's states are torch tensors, or NumPy arrays that share memory with tensors. The leaves of a tuple are
    concatenated into one vector, as in torchdiffeq.

    On the CPU the states are NumPy arrays wherever torch would use one thread only, because a call of NumPy on a small
    array takes about a third of the time of torch's.
    """

    uses_numpy: bool
    """whether the engine's states are NumPy arrays"""
    shapes: list[Size] | None
    """shapes of the leaves of a tuple; None if the user's state is a tensor"""
    user_dtype: torch.dtype
    """dtype of the user's states"""
    real_dtype: Any
    """real dtype of the engine's states, in their array library"""

    @staticmethod
    def choose(problem: FixedGridProblem, rows: int, has_user_coarse: bool) -> "StateFormat":
        """Return the format for a solve.

        Args:
            problem: the problem to solve.
            rows: the number of rows in a call.
            has_user_coarse: whether the caller supplies the coarse propagator. States are then tensors, as documented.
        """
        y = problem.y0
        numpy_has_dtype = problem.times.dtype in (torch.float32, torch.float64)  # the user's times may be bfloat16
        single_thread = y.numel() * rows <= _SINGLE_THREAD_SIZE or torch.get_num_threads() == 1
        uses_numpy = not has_user_coarse and numpy_has_dtype and y.device.type == "cpu" and single_thread
        real_dtype = y.dtype.to_real()
        # "torch.float64" without the first six letters is NumPy's name of the dtype
        numpy_or_torch_dtype = np.dtype(str(real_dtype)[6:]) if uses_numpy else real_dtype
        return StateFormat(uses_numpy, problem.shapes, problem.dtype, numpy_or_torch_dtype)

    def from_tensor(self, tensor: Tensor) -> Any:
        """Return a tensor as an array of the engine's that shares its memory."""
        return tensor.numpy(force=True) if self.uses_numpy else tensor.detach()

    def to_tensor(self, array: Any) -> Tensor:
        """Return an array of the engine's as a tensor that shares its memory."""
        return torch.from_numpy(array) if self.uses_numpy else array

    def from_user(self, state: Any, like: Tensor) -> Tensor:
        """Convert a state from the user's form to the form and dtype of `like`.

        The user's function computed it from `to_user(like)`.
        """
        if self.shapes is not None:
            state = torch.cat([x.reshape(*like.shape[:-1], -1) for x in state], dim=-1)
        return state.to(like.dtype)

    def to_user(self, states: Any) -> Any:
        """Return states with any number of leading axes in the user's form and dtype."""
        y = (states if isinstance(states, Tensor) else torch.from_numpy(states)).to(self.user_dtype)
        return y if self.shapes is None else _flat_to_shape(y, y.shape[:-1], self.shapes)

    def convert_solution(self, solution: parareal.Solution) -> parareal.Solution:
        """Return a solution with its states in the user's form."""
        return replace(solution, final_state=self.to_user(solution.final_state), states=self.to_user(solution.states))

    def wrap_callback(self, callback: Callable[[parareal.Refinement], Any]) -> Callable[[parareal.Refinement], Any]:
        """Return a callback for the engine that calls the user's with states in the user's form.

        Raises:
            TypeError: if the user's callback is not a function.
        """
        check_callback(callback)

        def call_with_user_states(r: parareal.Refinement) -> Any:
            # A refinement stacks the states of all boundaries only when `states` is read, so their conversion waits.
            return callback(
                replace(r, final_state=self.to_user(r.final_state), stack_states=lambda: self.to_user(r.states))
            )

        return call_with_user_states

    def build_method(self, problem: FixedGridProblem, rhs: Callable[[Tensor, Tensor], Tensor]) -> RungeKuttaMethod:
        """Return the fine method for states of this format."""
        evaluate = self._wrap_rhs(rhs, problem.falling)
        times = self.from_tensor(problem.times)
        return METHODS[problem.method](evaluate, times, self.real_dtype, problem.solver.perturb)

    def _wrap_rhs(self, rhs: Callable[[Tensor, Tensor], Tensor], falling: bool) -> Callable[[Any, Any], Any]:
        """Return the right-hand side for the engine's rows.

        The engine's time always rises. If the user's time falls, the right-hand side is -f(-t, y).
        """

        def evaluate(y: Any, t: Any) -> Any:
            if self.uses_numpy:
                y, t = torch.from_numpy(y), torch.from_numpy(t)
            slope = -rhs(-t, y) if falling else rhs(t, y)
            return self.from_tensor(slope)

        return evaluate
