"""`parareal demo`: ten pictures, four ways, one table."""

import argparse
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from parareal import Refinement
from parareal_diffusers import models
from parareal_diffusers._commands import report
from parareal_diffusers._commands.report import DemoMethod
from parareal_diffusers._sampling.plan import plan
from parareal_diffusers._sampling.presets import srds
from parareal_diffusers._sampling.sample import sample
from parareal_diffusers.testing import relative_error

BEST = "extrapolated"
"""the coarse solver of our best setting (docs/results/solvers.md)"""


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Draw ten pictures sequentially and in parallel in time, and report."""
    parser.add_argument("--steps", type=int, default=196, help="DDIM steps")
    parser.add_argument("--slices", default="auto", help="slices of our best setting: a number, or auto")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error to stop at; 0 runs to the end")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    return run


def run(options: argparse.Namespace) -> int:
    """Draw the pictures one at a time, as someone who waits for one would."""
    _check(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    net, scheduler = models.load("fashion-mnist")
    options.out.mkdir(parents=True, exist_ok=True)
    slices: int | str = options.slices if options.slices == "auto" else int(options.slices)
    methods = [
        DemoMethod("sequential", None),
        DemoMethod("SRDS as published", srds()),
        DemoMethod("SRDS, our stop rule", {"slices": "sqrt", "coarse": "same", "tolerance": options.tolerance}),
        DemoMethod("parareal, our best", {"slices": slices, "coarse": BEST, "tolerance": options.tolerance}),
    ]
    noise = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(options.seed))
    with torch.no_grad():
        net(noise[:1], torch.zeros(1, dtype=torch.int64), class_labels=torch.tensor([0]))  # warm-up
    if slices == "auto" and options.tolerance:
        labels = {"class_labels": torch.tensor([0, 1])}
        given = {"num_inference_steps": options.steps, "tolerance": options.tolerance, "model_kwargs": labels}
        advice = plan(net, noise[:2], scheduler, coarse=BEST, progress=True, **given)
        print(advice.explain().splitlines()[0])
    with tqdm(total=10 * len(methods), unit="picture") as bar:
        for label in range(10):
            for method in methods:
                bar.set_description(f"{models.FASHION_MNIST_CLASSES[label]}, {method.name}")
                _draw(method, net, scheduler, options.steps, noise[label : label + 1], label)
                bar.update()
    rows = table(methods)
    text = report.markdown(rows)
    print(f"\n{text}\n\n{about(options.steps)}")
    files = report.write(options.out, methods, rows, about(options.steps), models.FASHION_MNIST_CLASSES)
    print("\nreport: " + ", ".join(str(f) for f in files))
    return 0


def _check(options: argparse.Namespace) -> None:
    if find_spec("matplotlib") is None:
        raise ImportError("the report needs matplotlib: install the extra parareal-torch[plot]")
    if not 1 <= options.steps <= 1000:
        raise ValueError(f"--steps must be between 1 and 1000, the steps the model was trained on, got {options.steps}")
    if options.slices != "auto" and not (options.slices.isdigit() and 1 <= int(options.slices) <= options.steps):
        raise ValueError(
            f"--slices must be auto or a number between 1 and --steps={options.steps}, got {options.slices}"
        )
    if options.tolerance != 0 and not options.tolerance > 1e-6:
        raise ValueError(f"--tolerance must be above 1e-6, or 0 to run to the end, got {options.tolerance}")
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out must name a folder, but {options.out} is a file")


def _draw(method: DemoMethod, net: Any, scheduler: Any, steps: int, noise: Tensor, label: int) -> None:
    labels = torch.tensor([label])
    iterates: list[Tensor] = []

    def keep(refinement: Refinement) -> None:
        iterates.append(refinement.final_state)

    began = time.perf_counter()
    if method.options is None:
        picture = ddim_loop(net, scheduler, steps, noise, labels)
    else:
        solution = sample(
            net,
            noise,
            scheduler,
            num_inference_steps=steps,
            model_kwargs={"class_labels": labels},
            callback=keep,
            **method.options,
        )
        method.solutions.append(solution)
        picture = solution.final_state
    method.seconds += time.perf_counter() - began
    method.pictures.append(picture)
    method.iterates.append(iterates)


@torch.no_grad()
def ddim_loop(net: Any, scheduler: Any, steps: int, x: Tensor, labels: Tensor) -> Tensor:
    """Sample with the unmodified scheduler, the way every pipeline does."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t, class_labels=labels).sample, t, x).prev_sample
    return x


def table(methods: list[DemoMethod]) -> list[dict[str, str]]:
    """Return the rows of the table."""
    reference = methods[0]
    steps = methods[-1].solutions[0].stats.sequential_span
    rows = []
    for method in methods:
        errors = [relative_error(*pair) for pair in zip(method.pictures, reference.pictures, strict=True)]
        stats = [s.stats for s in method.solutions]
        made = [s.iterations for s in method.solutions]
        count = len(method.pictures)
        sequential = not stats
        rows.append(
            {
                "method": method.name,
                "slices": "-" if sequential else str(len(method.solutions[0].boundaries) - 1),
                "iterations": "-" if sequential else f"{np.mean(made):.1f}",
                "span": f"{steps if sequential else np.mean([s.span for s in stats]):.0f}",
                "work": f"{steps if sequential else np.mean([s.work for s in stats]):.0f}",
                "calls": f"{steps if sequential else np.mean([s.calls for s in stats]):.0f}",
                "wall time": f"{method.seconds / count:.2f} s",
                "ratio to sequential": f"{reference.seconds / method.seconds:.2f}",
                "worst relative error": "0" if sequential else f"{max(errors):.1e}",
            }
        )
    return rows


def about(steps: int) -> str:
    """Say what the table shows, and on what machine."""
    return (
        f"Ten pictures of 28 x 28, one at a time, DDIM with {steps} steps; span, work, calls and wall time are means "
        "per picture. SRDS's own stop rule is the stricter one. Span counts evaluations on the critical path with "
        f"unlimited devices and is no speed-up; the ratio of wall times is. Machine: {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}."
    )
