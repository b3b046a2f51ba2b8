"""`parareal demo`: ten images, each sampled by four methods, and one table."""

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
    """Sample ten images sequentially and in parallel in time, and write a report."""
    # The first line of the docstring is the subcommand's help text.
    parser.add_argument("--steps", type=int, default=196, help="number of DDIM steps")
    parser.add_argument("--slices", default="auto", help="number of slices of our best setting, or auto")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error to stop at; 0 runs to the end")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    return run


def run(options: argparse.Namespace) -> int:
    """Sample the images one at a time, print the table and write the report; return the exit status.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for an invalid option; the command line prints the message.
    """
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
    with torch.no_grad():  # warm-up, which would otherwise count as time of the first method
        net(noise[:1], torch.zeros(1, dtype=torch.int64), class_labels=torch.tensor([0]))
    if slices == "auto" and options.tolerance:
        # `sample` would plan within its first call. Planned here, the times in the table are those of sampling only.
        labels = {"class_labels": torch.tensor([0, 1])}
        setting = {"num_inference_steps": options.steps, "tolerance": options.tolerance, "model_kwargs": labels}
        advice = plan(net, noise[:2], scheduler, coarse=BEST, progress=True, **setting)
        print(advice.explain().splitlines()[0])
    with tqdm(total=10 * len(methods), unit="image") as bar:
        # The methods alternate within each image, so that a slow phase of the machine affects all of them.
        for label in range(10):
            for method in methods:
                bar.set_description(f"{models.FASHION_MNIST_CLASSES[label]}, {method.name}")
                _sample_image(method, net, scheduler, options.steps, noise[label : label + 1], label)
                bar.update()
    rows = build_table(methods)
    text = report.markdown(rows)
    print(f"\n{text}\n\n{format_legend(options.steps)}")
    files = report.write(options.out, methods, rows, format_legend(options.steps), models.FASHION_MNIST_CLASSES)
    print("\nreport: " + ", ".join(str(f) for f in files))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raise `ImportError` or `ValueError` for options with which the demo would fail later."""
    if find_spec("matplotlib") is None:
        raise ImportError("the report needs matplotlib: install the extra parareal-torch[plot]")
    if not 1 <= options.steps <= 1000:
        raise ValueError(
            f"--steps must be between 1 and 1000, the steps the model was trained on, but was {options.steps}"
        )
    if options.slices != "auto" and not (options.slices.isdigit() and 1 <= int(options.slices) <= options.steps):
        raise ValueError(
            f"--slices must be auto or a number between 1 and --steps={options.steps}, but was {options.slices}"
        )
    if options.tolerance != 0 and not 1e-6 < options.tolerance < 1:  # NaN, too
        raise ValueError(
            "--tolerance must be a fraction above 1e-6 and below 1, such as 0.01 for 1 % error, or 0 to run to "
            f"the end, but was {options.tolerance}"
        )
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, but was {options.threads}")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out must name a folder, but {options.out} is a file")


def _sample_image(method: DemoMethod, net: Any, scheduler: Any, steps: int, noise: Tensor, label: int) -> None:
    """Sample one image by a method, and record the image, its iterates and the time in the method."""
    labels = torch.tensor([label])
    iterates: list[Tensor] = []

    def keep(refinement: Refinement) -> None:
        iterates.append(refinement.final_state)

    start_time = time.perf_counter()
    if method.options is None:
        image = ddim_loop(net, scheduler, steps, noise, labels)
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
        image = solution.final_state
    method.seconds += time.perf_counter() - start_time
    method.images.append(image)
    method.iterates.append(iterates)


@torch.no_grad()
def ddim_loop(net: Any, scheduler: Any, steps: int, x: Tensor, labels: Tensor) -> Tensor:
    """Sample sequentially with the unmodified scheduler, by the loop that every pipeline contains."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t, class_labels=labels).sample, t, x).prev_sample
    return x


def build_table(methods: list[DemoMethod]) -> list[dict[str, str]]:
    """Return the rows of the table, one per method: numbers are means per image, errors the worst of all images."""
    reference = methods[0]
    steps = methods[-1].solutions[0].stats.sequential_span
    rows = []
    for method in methods:
        errors = [relative_error(*pair) for pair in zip(method.images, reference.images, strict=True)]
        stats = [s.stats for s in method.solutions]
        iterations = [s.iterations for s in method.solutions]
        count = len(method.images)
        sequential = not stats
        rows.append(
            {
                "method": method.name,
                "slices": "-" if sequential else str(len(method.solutions[0].boundaries) - 1),
                "iterations": "-" if sequential else f"{np.mean(iterations):.1f}",
                "span": f"{steps if sequential else np.mean([s.span for s in stats]):.0f}",
                "work": f"{steps if sequential else np.mean([s.work for s in stats]):.0f}",
                "calls": f"{steps if sequential else np.mean([s.calls for s in stats]):.0f}",
                "wall time": f"{method.seconds / count:.2f} s",
                "ratio to sequential": f"{reference.seconds / method.seconds:.2f}",
                "worst relative error": "0" if sequential else f"{max(errors):.1e}",
            }
        )
    return rows


def format_legend(steps: int) -> str:
    """Return the legend of the table, with the machine."""
    return (
        f"Ten images of 28 x 28 pixels, one at a time, DDIM with {steps} steps. Span, work, calls and wall time are "
        "means per image. The stop rule of SRDS as published is stricter than ours. Span is the number of evaluations "
        "on the critical path with unlimited devices; it is no speed-up, the ratio of wall times is. Machine: "
        f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}."
    )
