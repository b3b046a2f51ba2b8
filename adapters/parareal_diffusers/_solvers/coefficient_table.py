"""Tables of step coefficients per grid, computed once per kind of step, to save CPU time.

The fine solver always steps from a node to the next, and the coarse jumps recur in every iteration, so a solve has few
kinds of steps. Two steps are of one kind if they span the same number of nodes and their predictions lie at the same
distances before the start, in nodes. For each kind the coefficients of all N start nodes are computed together, which
takes about as long as computing them for one row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, final

import optree
import torch
from torch import Tensor

from parareal_diffusers._solvers.step_interval import StepInterval

T = TypeVar("T")


def look_up_coefficients(
    interval: StepInterval, compute: Callable[..., T], nodes: Tensor | None = None, *integers: Tensor
) -> T:
    """Return `compute(interval, nodes, *integers)`, from a table that the grid keeps.

    On a device other than the CPU the coefficients are computed at every call, because looking a node up would wait for
    the device.

    Args:
        interval: the steps of R rows.
        compute: a bound method of a solver whose result depends on the interval's grid and nodes only. It returns a
            tree of tensors with a leading axis of length R, or None.
        nodes: nodes of the predictions in the rows' histories, int64 of shape (R, h), -1 for no prediction; None for a
            solver without memory.
        integers: further arguments of `compute` that its result depends on, int64 of shape (R,).
    """
    if interval.start.device.type != "cpu":
        return compute(interval, nodes, *integers)
    # A bound method is a key per solver object; a solve uses the same objects throughout. Dimensions and dtype of the
    # states are part of the key because the shapes and dtypes of coefficients follow from them.
    key = (compute, interval.state.ndim, interval.state.dtype)
    if key not in interval.grid.tables:
        interval.grid.tables[key] = _Table(compute)
    return interval.grid.tables[key](interval, nodes, integers)


class _Kind(NamedTuple):
    """The common properties of steps that differ only in their start node."""

    length: int
    """length of the step in nodes"""
    distances: tuple[int, ...] | None
    """distances in nodes from the start back to each prediction in the history, 0 for none; None without memory"""
    integers: tuple[int, ...]
    """further arguments of the computation"""

    def arguments(self, like: StepInterval) -> tuple[Any, ...]:
        """Return the arguments of the computation for the steps of this kind from all N start nodes.

        Steps that would leave the grid are cut short; their coefficients are never looked up.
        """
        start = torch.arange(like.grid.steps)
        stop = (start + self.length).clamp(max=like.grid.steps)
        state = like.state.new_zeros(len(start), *[1] * (like.state.ndim - 1))
        nodes = None
        if self.distances is not None:
            distances = torch.tensor(self.distances, dtype=torch.int64)
            # -1 where the history has no prediction, and where its node would lie before the grid.
            nodes = torch.where(distances > 0, start[:, None] - distances, -1).clamp(min=-1)
        interval = StepInterval(like.grid, start, stop, torch.zeros_like(start), state)
        return interval, nodes, *(torch.full_like(start, x) for x in self.integers)


@final
class _Table:
    """The coefficients of one method of a solver: N rows for each kind of step, kind after kind."""

    def __init__(self, compute: Callable[..., Any]):
        self.compute = compute
        self.offsets: dict[_Kind, int] = {}
        """the first row of each kind"""
        self.leaves: list[Tensor] = []
        """the leaves of the coefficients' tree, each with a leading axis over all rows"""
        self.structure: Any = None
        """the structure of the coefficients' tree"""

    def __call__(self, interval: StepInterval, nodes: Tensor | None, integers: tuple[Tensor, ...]) -> Any:
        """Return the coefficients of the rows of an interval, computing those of new kinds first."""
        indices = []
        histories = [None] * len(interval.start) if nodes is None else nodes.tolist()
        columns = (interval.start.tolist(), interval.stop.tolist(), histories, *(x.tolist() for x in integers))
        for start, stop, history, *others in zip(*columns, strict=True):
            distances = None if history is None else tuple([start - n if n >= 0 else 0 for n in history])
            kind = _Kind(stop - start, distances, tuple(others))
            if kind not in self.offsets:
                self._add(kind, interval)
            indices.append(self.offsets[kind] + start)
        # One gather per leaf for all rows, whatever their kinds.
        index = torch.tensor(indices)
        return optree.tree_unflatten(self.structure, [x.index_select(0, index) for x in self.leaves])

    def _add(self, kind: _Kind, like: StepInterval) -> None:
        leaves, self.structure = optree.tree_flatten(self.compute(*kind.arguments(like)))
        self.offsets[kind] = like.grid.steps * len(self.offsets)  # every kind has N rows
        self.leaves = [torch.cat(x) for x in zip(self.leaves, leaves, strict=True)] if self.leaves else leaves
