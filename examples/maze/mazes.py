"""A maze, and how an expert walks it: shortest paths that keep off the walls, smoothed to way points.

Coordinates are those of the plans: x to the right and y downwards, the maze's square from -1 to 1.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

MAZE = """
#########
#...#...#
#.#.#.#.#
#.#...#.#
#.###.#.#
#.....#.#
#.#.#.#.#
#...#...#
#########
"""
WALLS = np.array([[c == "#" for c in line] for line in MAZE.split()])
SIZE = len(WALLS)
FINE = 6  # grid points along the side of a cell
POINTS = 32  # way points of a plan
HELD_OUT = 10  # one pair of ends in so many is kept from training


def crosses(plans: np.ndarray, each: int = 12) -> np.ndarray:
    """Say which plans touch a wall: booleans (n,) for plans (n, points, 2), looked at `each` times between points."""
    share = np.linspace(0, 1, each, endpoint=False)[:, None]
    between = plans[:, :-1, None] * (1 - share) + plans[:, 1:, None] * share
    dense = np.concatenate([between.reshape(len(plans), -1, 2), plans[:, -1:]], 1)
    cells = np.floor((dense + 1) * SIZE / 2).astype(int)
    outside = ((cells < 0) | (cells >= SIZE)).any(-1)
    x, y = np.clip(cells, 0, SIZE - 1).transpose(2, 0, 1)
    return np.asarray((WALLS[y, x] | outside).any(1))


@final
@dataclass(frozen=True)
class Expert:
    """Someone who knows the maze, and has a taste: cells that are dear to cross, drawn with a seed."""

    taste: int

    @cached_property
    def places(self) -> np.ndarray:
        """Grid points that are not too near a wall: (places, 2), row and column."""
        return np.argwhere(self._clearance > 2)

    @cached_property
    def _clearance(self) -> np.ndarray:
        fine = np.kron(WALLS, np.ones((FINE, FINE), bool))
        return np.asarray(distance_transform_edt(~fine))

    @cached_property
    def _tree(self) -> np.ndarray:
        """The place before each on the shortest path from each other: (places, places), from SciPy's Dijkstra."""
        rng, side = np.random.default_rng(self.taste), SIZE * FINE
        dear = np.kron(rng.uniform(1, 1.6, (SIZE, SIZE)), np.ones((FINE, FINE)))
        price = dear * (1 + 2 * np.exp(-self._clearance / 2))
        index = np.full((side, side), -1)
        index[tuple(self.places.T)] = np.arange(len(self.places))
        heads, tails, lengths = [], [], []
        for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
            there = self.places + step
            other = index[tuple(there.T)]
            here = np.flatnonzero(other >= 0)
            cost = (price[tuple(self.places[here].T)] + price[tuple(there[here].T)]) / 2
            heads, tails = [*heads, here], [*tails, other[here]]
            lengths.append(np.hypot(*step) * cost)
        graph = coo_array((np.concatenate(lengths), (np.concatenate(heads), np.concatenate(tails))))
        graph.resize(len(self.places), len(self.places))
        return dijkstra(graph.tocsr(), directed=False, return_predecessors=True)[1]

    def path(self, start: int, goal: int) -> np.ndarray:
        """Return the way from a place to another, smoothed: (POINTS, 2)."""
        tree, steps = self._tree[start], [goal]
        while steps[-1] != start:
            steps.append(tree[steps[-1]])
        way = (self.places[steps[::-1]][:, ::-1] + 0.5) / FINE * 2 / SIZE - 1  # x, y
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(way, axis=0).T))])
        at = np.linspace(0, length[-1], 4 * POINTS)
        dense = np.stack([np.interp(at, length, way[:, i]) for i in (0, 1)], 1)
        smooth = gaussian_filter1d(dense, 3.0, axis=0, mode="nearest")
        smooth[[0, -1]] = dense[[0, -1]]
        return smooth[np.linspace(0, 4 * POINTS - 1, POINTS).round().astype(int)]


def plans(count: int, seed: int, seen: bool = True, experts: int = 2) -> tuple[Tensor, Tensor]:
    """Return plans, float32 of shape (count, POINTS, 2), and their ends, (count, 4): x, y of start and goal.

    `seen` says whether the pairs of ends are those of training or those that are kept from it. Each pair goes to one
    of the experts, by chance.
    """
    rng, masters = np.random.default_rng(seed), [Expert(i) for i in range(experts)]
    places, made = len(masters[0].places), []
    while len(made) < count:
        start, goal = rng.choice(places, 2, replace=False)
        if ((start * places + goal) % HELD_OUT != 0) != seen:
            continue
        made.append(masters[rng.integers(experts)].path(start, goal))
    array = np.stack(made)
    if crosses(array).any():
        raise RuntimeError("an expert's path crosses a wall: smooth less, or keep further off")
    plan = torch.from_numpy(array).float()
    return plan, torch.cat([plan[:, 0], plan[:, -1]], 1)
