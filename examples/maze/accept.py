r"""Tell whether the planner is good enough to ship, and draw what it plans.

    python examples/maze/accept.py                       # the shipped model
    python examples/maze/accept.py --model runs/maze --picture docs/images/maze.png

Samples 500 plans, between ends that were kept from training, by the loop over the unmodified scheduler, and prints the
share that goes from start to goal, both within a third of a cell, without touching a wall. The picture shows plans of
the sequential loop, the sketch of the solve in parallel in time and its first iteration.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from mazes import POINTS, SIZE, WALLS, crosses, plans
from parareal_diffusers import models, sample
from parareal_diffusers.models import load_folder
from parareal_diffusers.testing import relative_error, scheduler_loop
from torch import Tensor

import parareal

NEAR = 2 / SIZE / 3  # a third of a cell


def succeed(planned: Tensor, ends: Tensor) -> np.ndarray:
    """Say which plans (n, POINTS, 2) lead from start to goal, both in `ends` (n, 4), past no wall: booleans (n,)."""
    off = torch.stack([planned[:, 0] - ends[:, :2], planned[:, -1] - ends[:, 2:]]).norm(dim=-1).amax(0)
    return (off < NEAR).numpy() & ~crosses(planned.double().numpy())


def draw(columns: dict[str, Tensor], ends: Tensor, file: Path) -> None:
    """Write a picture: the maze, a column for each way of planning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(columns), 3.3), layout="constrained")
    for axes, (name, planned) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        axes.imshow(WALLS, cmap="Greys", extent=(-1, 1, 1, -1), alpha=0.75)
        for i, (plan, (x0, y0, x1, y1)) in enumerate(zip(planned, ends, strict=True)):
            axes.plot(*plan.T, color=f"C{i}", linewidth=1.5)
            axes.plot(x0, y0, "o", color=f"C{i}", markersize=5)
            axes.plot(x1, y1, "*", color=f"C{i}", markersize=10)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Plan, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model; by default the shipped one")
    parser.add_argument("--plans", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="where to draw some plans")
    given = parser.parse_args()
    net, scheduler = models.load("maze") if given.model is None else load_folder(given.model)
    experts, ends = plans(given.plans, given.seed, seen=False)
    noise = torch.randn(given.plans, POINTS, 2, generator=torch.Generator().manual_seed(given.seed))
    planned = scheduler_loop(lambda x, t: net(x, t, ends=ends), noise, scheduler, given.steps)
    good = succeed(planned, ends)
    print(f"{good.mean():.1%} of {given.plans} plans reach the goal past no wall")
    print(f"and of the experts' {succeed(experts, ends).mean():.1%}")
    if given.picture is None:
        return
    few = 5
    iterates: list[Tensor] = []
    sample(
        net,
        noise[:few],
        scheduler,
        num_inference_steps=given.steps,
        model_kwargs={"ends": ends[:few]},
        slices=min(12, given.steps // 2),
        criterion=parareal.Iterations(1),
        callback=lambda refinement: iterates.append(refinement.final_state),
    )
    names = ("sketch", "iteration 1")
    columns = {"sequential": planned[:few]}
    for name, x in zip(names, iterates, strict=True):
        columns[f"{name}, worst relative error {relative_error(x, planned[:few]):.0e}"] = x
    draw(columns, ends[:few], given.picture)


if __name__ == "__main__":
    main()
