"""Shared code of the solver examples: command line, comparison with the scheduler's loop, figure of the iterates."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from parareal_diffusers import models, sample
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal

LABELS = torch.tensor([0, 3, 7, 9])  # T-shirt, dress, sneaker, ankle boot


def parse_options(description: str | None, model: str = "fashion-mnist") -> argparse.Namespace:
    """Parse the command line.

    Args:
        description: the script's docstring, for `--help`.
        model: name of the shipped model; it is returned as `options.model`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of the solvers")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error, by estimate")
    parser.add_argument("--slices", type=int, help="by default the rounded root of three times the steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the figure")
    parser.set_defaults(model=model)
    options = parser.parse_args()
    # Not "auto", which would choose a sequential run wherever that is faster, and there is nothing to see then.
    options.slices = options.slices or min(options.steps, round((3 * options.steps) ** 0.5))
    return options


def compare(
    name: str, options: argparse.Namespace, solver: Any, scheduler: Any, **step_options: Any
) -> list[torch.Tensor]:
    """Sample sequentially and in parallel in time from equal generators, and print cost and error.

    Args:
        name: the solver's name, for the output.
        options: as of `parse_options`.
        solver: the solver or scheduler that is run in parallel in time.
        scheduler: the scheduler of the sequential loop.
        step_options: keyword arguments of the scheduler's `step`.

    Returns:
        The iterates, the coarse prediction first, and the sequential solution last, each (4, 1, 28, 28).
    """
    net, _ = models.load(options.model)
    latents = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(options.seed))

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return net(x, t, class_labels=LABELS).sample

    start_time = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed + 1)
    reference = scheduler_loop(model, latents, scheduler, options.steps, generator, **step_options)
    sequential = time.perf_counter() - start_time
    iterates: list[torch.Tensor] = []

    def store_iterate(refinement: parareal.Refinement) -> None:
        iterates.append(refinement.final_state)

    solution = sample(
        net,
        latents,
        solver,
        num_inference_steps=options.steps,
        slices=options.slices,
        model_kwargs={"class_labels": LABELS},
        generator=torch.Generator().manual_seed(options.seed + 1),
        tolerance=options.tolerance,
        callback=store_iterate,
        progress=True,
    )
    stats = solution.stats
    print(
        f"{name}: {solution.message} {solution.iterations} iterations, worst relative error "
        f"{relative_error(solution.final_state, reference):.1e}; span {stats.span:.0f} of {stats.sequential_span:.0f}, "
        f"work {stats.work / stats.sequential_work:.2f} times; {stats.wall_time:.1f} s, sequential {sequential:.1f} s"
    )
    return [*iterates, reference]


def draw(path: Path, rows: dict[str, list[torch.Tensor]], reference: str = "scheduler") -> None:
    """Draw two samples per solver: coarse prediction, iterates and reference, each iterate under its relative error.

    Args:
        path: file of the figure.
        rows: the states of `compare`, by the solver's name.
        reference: title of the last column.
    """
    columns = max(map(len, rows.values()))
    lines = [(name, states, i) for name, states in rows.items() for i in range(2)]
    figure = Figure(figsize=(1.3 * columns + 1.6, 1.4 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (name, states, i) in zip(axes, lines, strict=True):
        for axis in line:
            axis.axis("off")
        cells = [*((f"iteration {k}" if k else "coarse prediction", x) for k, x in enumerate(states[:-1]))]
        # Solvers with fewer iterations leave cells empty, so that the references share a column.
        for axis, (title, x) in zip(line, cells, strict=False):
            error = relative_error(x[i : i + 1], states[-1][i : i + 1])
            axis.imshow(x[i, 0], cmap="gray", vmin=-1, vmax=1)
            axis.set_title(f"{title}\n{error:.0e}", fontsize=8)
        line[-1].imshow(states[-1][i, 0], cmap="gray", vmin=-1, vmax=1)
        line[-1].set_title(f"{reference}\n", fontsize=8)
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"figure: {path}")
