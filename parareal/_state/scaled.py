"""Norms by component: every component of a state is measured in a unit of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, final

import numpy as np
import torch

from parareal._state.norms import largest_value
from parareal._state.trees import State, tree_leaves


def component_units(states: Sequence[State], offset: float, least: Sequence[float]) -> list[Any]:
    """Return the units in which the components of differences of states are measured, one array per leaf.

    The unit of a component is the largest of its absolute values in `states` plus `offset`, and at least the number in
    `least` that belongs to its leaf.
    """
    leaves = zip(*map(tree_leaves, states), strict=True)
    return [_units(same_leaf, offset, lowest) for same_leaf, lowest in zip(leaves, least, strict=True)]


def largest_ratio(difference: State, units: Sequence[Any]) -> float:
    """Return the largest absolute value of a component in its unit; 0 for a component of 0 in a unit of 0."""
    return largest_value(_ratio(x, unit) for x, unit in zip(tree_leaves(difference), units, strict=True))


@final
@dataclass(frozen=True)
class ScaledNorm:
    """The norm of a difference of states: its largest component, each in a unit of its own."""

    units: Sequence[Any]
    """one array per leaf"""
    roundings: Sequence[float]
    """rounding error of every leaf, in the units of the state"""

    def __call__(self, difference: State) -> float:
        return largest_ratio(difference, self.units)

    @property
    def rounding(self) -> float:
        """The largest norm that the rounding of one component has."""
        parts = zip(self.roundings, map(_smallest, self.units), strict=True)
        return largest_value(rounding / unit for rounding, unit in parts if unit > 0)


def _smallest(unit: Any) -> float:
    count = unit.numel() if isinstance(unit, torch.Tensor) else np.size(unit)
    return float(unit.min()) if count else float("inf")


def _units(leaves: Sequence[Any], offset: float, lowest: float) -> Any:
    if isinstance(leaves[0], torch.Tensor):
        return (reduce(torch.maximum, (x.abs() for x in leaves)) + offset).clamp(min=lowest)
    return np.maximum(reduce(np.maximum, map(np.abs, leaves)) + offset, lowest)


def _ratio(x: Any, unit: Any) -> float:
    if isinstance(x, torch.Tensor):
        size = x.abs()
        return float(torch.where(size == 0, 0.0, size / unit).max()) if x.numel() else 0.0
    size = np.abs(x)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.where(size == 0, 0.0, size / unit).max()) if np.size(x) else 0.0
