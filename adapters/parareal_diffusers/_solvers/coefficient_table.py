"""Coefficients of steps, made once per kind of step on a grid and looked up by where a row starts: it spares CPU time.

The fine solver always goes from a node to the next, and coarse jumps recur in every iteration, so that a solve has few
kinds of steps: two are of one kind if they go equally far, and what they remember lies equally far behind. For each
kind the coefficients of all starts are made together, which takes about as long as for one row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, final

import optree
import torch
from torch import Tensor

from parareal_diffusers._solvers.step_interval import Leg

T = TypeVar("T")


def once(leg: Leg, make: Callable[..., T], nodes: Tensor | None = None, *same: Tensor) -> T:
    """Return `make(leg, nodes, *same)`, made once for each kind of step.

    Args:
        leg: the steps of R rows.
        make: a method of a solver that depends on the leg by its grid and nodes only; it returns a tree of tensors with
            a leading axis of length R, or None.
        nodes: where what is remembered was made, int64 of shape (R, h); -1 for nothing, and None for no memory.
        same: other whole numbers that it depends on, int64 of shape (R,).

    On a device that is not the CPU it is made for every leg: to look nodes up there is to wait for the device.
    """
    if leg.start.device.type != "cpu":
        return make(leg, nodes, *same)
    key = (make, leg.state.ndim, leg.state.dtype)
    if key not in leg.grid.tables:
        leg.grid.tables[key] = _Table(make)
    return leg.grid.tables[key](leg, nodes, same)


class _Kind(NamedTuple):
    """What steps have in common that differ only in where they start."""

    length: int
    """in nodes"""
    behind: tuple[int, ...] | None
    """how many nodes ago what is remembered was made; 0 for nothing"""
    same: tuple[int, ...]

    def legs(self, like: Leg) -> tuple[Any, ...]:
        """Return leg, nodes and other numbers of the steps of this kind from all N nodes.

        Those that would leave the grid are cut short, and never asked for.
        """
        start = torch.arange(like.grid.steps)
        stop = (start + self.length).clamp(max=like.grid.steps)
        state = like.state.new_zeros(len(start), *[1] * (like.state.ndim - 1))
        nodes = None
        if self.behind is not None:
            behind = torch.tensor(self.behind, dtype=torch.int64)
            nodes = torch.where(behind > 0, start[:, None] - behind, -1).clamp(min=-1)
        leg = Leg(like.grid, start, stop, torch.zeros_like(start), state)
        return leg, nodes, *(torch.full_like(start, x) for x in self.same)


@final
class _Table:
    """What one method makes, for the kinds of steps that were asked for, one below the other."""

    def __init__(self, make: Callable[..., Any]):
        self.make = make
        self.first: dict[_Kind, int] = {}
        """where each kind begins"""
        self.parts: list[Tensor] = []
        self.structure: Any = None

    def __call__(self, leg: Leg, nodes: Tensor | None, same: tuple[Tensor, ...]) -> Any:
        """Return the rows of a leg."""
        places = []
        behind = [None] * len(leg.start) if nodes is None else nodes.tolist()
        columns = (leg.start.tolist(), leg.stop.tolist(), behind, *(x.tolist() for x in same))
        for start, stop, made, *others in zip(*columns, strict=True):
            ago = None if made is None else tuple([start - n if n >= 0 else 0 for n in made])
            kind = _Kind(stop - start, ago, tuple(others))
            if kind not in self.first:
                self._add(kind, leg)
            places.append(self.first[kind] + start)
        index = torch.tensor(places)
        return optree.tree_unflatten(self.structure, [x.index_select(0, index) for x in self.parts])

    def _add(self, kind: _Kind, like: Leg) -> None:
        parts, self.structure = optree.tree_flatten(self.make(*kind.legs(like)))
        self.first[kind] = like.grid.steps * len(self.first)
        self.parts = [torch.cat(x) for x in zip(self.parts, parts, strict=True)] if self.parts else parts
