"""What the examples share: a shipped model, the loop to compare with, and a picture of the iterates."""

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


def options(description: str | None, model: str = "fashion-mnist") -> argparse.Namespace:
    """Read the command line, and note which of the shipped models it is for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--slices", type=int, help="by default the rounded root of three times the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the picture")
    parser.set_defaults(model=model)
    given = parser.parse_args()
    given.slices = given.slices or min(given.steps, round((3 * given.steps) ** 0.5))  # "auto" might say: step by step
    return given


def compare(name: str, given: argparse.Namespace, solver: Any, scheduler: Any, **step: Any) -> list[torch.Tensor]:
    """Sample sequentially and in parallel in time from the same generator; print both, return iterates and answer."""
    net, _ = models.load(given.model)
    latents = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(given.seed))

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return net(x, t, class_labels=LABELS).sample

    began = time.perf_counter()
    generator = torch.Generator().manual_seed(given.seed + 1)
    answer = scheduler_loop(model, latents, scheduler, given.steps, generator, **step)
    sequential = time.perf_counter() - began
    iterates: list[torch.Tensor] = []

    def keep(refinement: parareal.Refinement) -> None:
        iterates.append(refinement.final_state)

    solution = sample(
        net,
        latents,
        solver,
        num_inference_steps=given.steps,
        slices=given.slices,
        model_kwargs={"class_labels": LABELS},
        generator=torch.Generator().manual_seed(given.seed + 1),
        tolerance=given.tolerance,
        callback=keep,
        progress=True,
    )
    stats = solution.stats
    print(
        f"{name}: {solution.message} {solution.iterations} iterations, worst error "
        f"{relative_error(solution.final_state, answer):.1e}; span {stats.span:.0f} of {stats.sequential_span:.0f}, "
        f"work {stats.work / stats.sequential_work:.2f} times; {stats.wall_time:.1f} s, sequential {sequential:.1f} s"
    )
    return [*iterates, answer]


def draw(path: Path, rows: dict[str, list[torch.Tensor]], answer: str = "scheduler") -> None:
    """Draw a row for each solver and sample: the sketch, the iterates, and the scheduler's own or another answer."""
    columns = max(map(len, rows.values()))
    lines = [(name, stages, i) for name, stages in rows.items() for i in range(2)]
    figure = Figure(figsize=(1.3 * columns + 1.6, 1.4 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (name, stages, i) in zip(axes, lines, strict=True):
        for axis in line:
            axis.axis("off")
        cells = [*((f"iteration {k}" if k else "sketch", x) for k, x in enumerate(stages[:-1]))]
        for axis, (title, x) in zip(line, cells, strict=False):
            error = relative_error(x[i : i + 1], stages[-1][i : i + 1])
            axis.imshow(x[i, 0], cmap="gray", vmin=-1, vmax=1)
            axis.set_title(f"{title}\n{error:.0e}", fontsize=8)
        line[-1].imshow(stages[-1][i, 0], cmap="gray", vmin=-1, vmax=1)
        line[-1].set_title(f"{answer}\n", fontsize=8)
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")
