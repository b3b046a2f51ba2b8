"""Acceptance test of the planner: the share of plans that reach the goal, and a figure of some plans.

    python examples/maze/accept.py                       # the shipped model; ten seconds
    python examples/maze/accept.py --model runs/maze --picture docs/images/maze.png

Samples 500 plans between ends that were held out of training, by the loop over the unmodified scheduler. Prints the
share that leads from start to goal, both within a third of a cell, without touching a wall. The figure shows plans of
the sequential loop, and the coarse prediction and the first iteration of a solve in parallel in time.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from mazes import POINTS, SIZE, WALLS, build_plans, touches_wall
from parareal_diffusers import models, sample
from parareal_diffusers.models import load_folder
from parareal_diffusers.testing import relative_error, scheduler_loop
from torch import Tensor

import parareal

NEAR = 2 / SIZE / 3  # a third of a cell


def judge(plans: Tensor, ends: Tensor) -> np.ndarray:
    """Return which plans lead from start to goal without touching a wall, as booleans of shape (n,).

    Args:
        plans: way points, shape (n, POINTS, 2).
        ends: x and y of start and goal, shape (n, 4).
    """
    distance = torch.stack([plans[:, 0] - ends[:, :2], plans[:, -1] - ends[:, 2:]]).norm(dim=-1).amax(0)
    return (distance < NEAR).numpy() & ~touches_wall(plans.double().numpy())


def draw(columns: dict[str, Tensor], ends: Tensor, file: Path) -> None:
    """Draw a figure of plans in the maze, with one column per entry of `columns`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(columns), 3.3), layout="constrained")
    for axes, (name, plans) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        axes.imshow(WALLS, cmap="Greys", extent=(-1, 1, 1, -1), alpha=0.75)
        for i, (plan, (x0, y0, x1, y1)) in enumerate(zip(plans, ends, strict=True)):
            axes.plot(*plan.T, color=f"C{i}", linewidth=1.5)
            axes.plot(x0, y0, "o", color=f"C{i}", markersize=5)
            axes.plot(x1, y1, "*", color=f"C{i}", markersize=10)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Sample plans, print the share of good ones, and draw some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model; by default the shipped one")
    parser.add_argument("--plans", type=int, default=500, help="number of plans")
    parser.add_argument("--steps", type=int, default=100, help="steps of DDIM")
    parser.add_argument("--seed", type=int, default=1, help="seed of ends and noise")
    parser.add_argument("--picture", type=Path, help="file of the figure; none by default")
    options = parser.parse_args()
    net, scheduler = models.load("maze") if options.model is None else load_folder(options.model)
    expert_plans, ends = build_plans(options.plans, options.seed, training=False)
    noise = torch.randn(options.plans, POINTS, 2, generator=torch.Generator().manual_seed(options.seed))
    plans = scheduler_loop(lambda x, t: net(x, t, ends=ends), noise, scheduler, options.steps)
    good = judge(plans, ends)
    print(f"{good.mean():.1%} of {options.plans} plans reach the goal without touching a wall")
    print(f"of the experts' plans {judge(expert_plans, ends).mean():.1%} do")
    if options.picture is None:
        return
    num_shown = 5  # plans in the figure
    iterates: list[Tensor] = []
    sample(
        net,
        noise[:num_shown],
        scheduler,
        num_inference_steps=options.steps,
        model_kwargs={"ends": ends[:num_shown]},
        slices=min(12, options.steps // 2),
        criterion=parareal.Iterations(1),
        callback=lambda refinement: iterates.append(refinement.final_state),
    )
    names = ("coarse prediction", "iteration 1")
    columns = {"sequential": plans[:num_shown]}
    for name, x in zip(names, iterates, strict=True):
        columns[f"{name}, worst relative error {relative_error(x, plans[:num_shown]):.0e}"] = x
    draw(columns, ends[:num_shown], options.picture)


if __name__ == "__main__":
    main()
