"""A maze, and experts that walk it: shortest paths at a distance from the walls, smoothed to way points.

Plans have coordinates x to the right and y downwards; the maze is the square from -1 to 1.
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
HELD_OUT = 10  # one pair of ends in HELD_OUT is not used in training


def touches_wall(plans: np.ndarray, each: int = 12) -> np.ndarray:
    """Return which plans touch a wall or leave the maze, as booleans of shape (n,).

    Args:
        plans: way points, shape (n, points, 2).
        each: places that are tested on the straight line between two way points.
    """
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
    """A planner that knows the maze. Cells have random costs of its own, so experts prefer different ways."""

    seed: int
    """of the costs"""

    @cached_property
    def nodes(self) -> np.ndarray:
        """Grid points with some distance from the walls, row and column, shape (nodes, 2)."""
        return np.argwhere(self._clearance > 2)

    @cached_property
    def _clearance(self) -> np.ndarray:
        """Distance of every grid point from the nearest wall, in grid points."""
        fine = np.kron(WALLS, np.ones((FINE, FINE), bool))
        return np.asarray(distance_transform_edt(~fine))

    @cached_property
    def _tree(self) -> np.ndarray:
        """The predecessor of node j on the shortest path from node i, shape (nodes, nodes), by SciPy's Dijkstra."""
        rng, side = np.random.default_rng(self.seed), SIZE * FINE
        cell_costs = np.kron(rng.uniform(1, 1.6, (SIZE, SIZE)), np.ones((FINE, FINE)))
        # Grid points near a wall cost more, so that paths keep a distance and stay off the walls after smoothing.
        costs = cell_costs * (1 + 2 * np.exp(-self._clearance / 2))
        index = np.full((side, side), -1)
        index[tuple(self.nodes.T)] = np.arange(len(self.nodes))
        heads, tails, lengths = [], [], []
        # Half of the eight directions: the graph is undirected.
        for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
            neighbours = self.nodes + step
            other = index[tuple(neighbours.T)]  # -1 where the neighbour is no node
            edges = np.flatnonzero(other >= 0)
            cost = (costs[tuple(self.nodes[edges].T)] + costs[tuple(neighbours[edges].T)]) / 2
            heads, tails = [*heads, edges], [*tails, other[edges]]
            lengths.append(np.hypot(*step) * cost)
        graph = coo_array((np.concatenate(lengths), (np.concatenate(heads), np.concatenate(tails))))
        graph.resize(len(self.nodes), len(self.nodes))
        return dijkstra(graph.tocsr(), directed=False, return_predecessors=True)[1]

    def plan(self, start: int, goal: int) -> np.ndarray:
        """Return the smoothed path from one node to another, x and y, shape (POINTS, 2)."""
        # Predecessors lead from the goal back to the start.
        tree, steps = self._tree[start], [goal]
        while steps[-1] != start:
            steps.append(tree[steps[-1]])
        path = (self.nodes[steps[::-1]][:, ::-1] + 0.5) / FINE * 2 / SIZE - 1  # x, y
        # Way points are evenly spaced by length: dense ones are smoothed, then every fourth is kept.
        length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
        at = np.linspace(0, length[-1], 4 * POINTS)
        dense = np.stack([np.interp(at, length, path[:, i]) for i in (0, 1)], 1)
        smooth = gaussian_filter1d(dense, 3.0, axis=0, mode="nearest")
        smooth[[0, -1]] = dense[[0, -1]]  # smoothing moves the ends, which are given
        return smooth[np.linspace(0, 4 * POINTS - 1, POINTS).round().astype(int)]


def build_plans(count: int, seed: int, training: bool = True, experts: int = 2) -> tuple[Tensor, Tensor]:
    """Return random plans of the experts and their ends.

    Args:
        count: number of plans.
        seed: seed of the ends and of the choice of expert.
        training: whether the pairs of ends are those of training, or those held out of it.
        experts: number of experts; a random one makes each plan.

    Returns:
        Plans, float32 of shape (count, POINTS, 2), and their ends, x and y of start and goal, shape (count, 4).

    Raises:
        RuntimeError: if an expert's plan touches a wall.
    """
    rng, planners = np.random.default_rng(seed), [Expert(i) for i in range(experts)]
    nodes, paths = len(planners[0].nodes), []
    while len(paths) < count:
        start, goal = rng.choice(nodes, 2, replace=False)
        # A fixed function of the pair, so that training and test never share a pair, whatever their seeds.
        if ((start * nodes + goal) % HELD_OUT != 0) != training:
            continue
        paths.append(planners[rng.integers(experts)].plan(start, goal))
    array = np.stack(paths)
    if touches_wall(array).any():
        raise RuntimeError("a plan of an expert touches a wall: smooth less, or raise the costs near walls")
    plans = torch.from_numpy(array).float()
    return plans, torch.cat([plans[:, 0], plans[:, -1]], 1)
