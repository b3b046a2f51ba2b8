"""Wall-clock of one picture in parallel in time, as planned, against the best sequential run; how good plans are.

    python benchmarks/diffusion/speedup.py [--write]

For each number of steps and threads: `parareal_diffusers.plan` learns from four others; then each of some samples
is drawn step by step by the loop over the unmodified scheduler and in parallel in time with `slices="auto"`, in turn.
Printed are the plan, predicted and measured times (medians), and the ratio to the sequential loop on the threads that
are best for it. Planning is not in the times; what it took is shown. `--write` puts the table into
docs/results/planning.md.
"""

import argparse
import platform
import statistics
import time
from dataclasses import dataclass, field

import torch
from parareal_diffusers import models, plan, sample
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal
from benchmarks.tools.pages import DOCS, put

TOLERANCE = 1e-2
COARSE = "extrapolated"


@dataclass
class Setting:
    """One number of steps on some threads, and what was found."""

    steps: int
    threads: int
    advice: parareal.Plan
    planning: float
    sequential: list[float] = field(default_factory=list)
    parallel: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)


def latents(count: int, seed: int) -> torch.Tensor:
    """Return noise."""
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def planned(net, scheduler, steps: int, threads: int) -> Setting:
    """Plan on four samples."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    labels = {"class_labels": torch.arange(4)}
    given = {"num_inference_steps": steps, "model_kwargs": labels, "tolerance": TOLERANCE, "coarse": COARSE}
    advice = plan(net, latents(4, 99), scheduler, **given)
    return Setting(steps, threads, advice, time.perf_counter() - began)


def measure(setting: Setting, net, scheduler, runs: int) -> None:
    """Draw samples both ways, in turn."""
    torch.set_num_threads(setting.threads)
    for run in range(runs):
        x, labels = latents(1, run), torch.tensor([run % 10])

        def model(x, t, labels=labels):
            return net(x, t, class_labels=labels).sample

        began = time.perf_counter()
        answer = scheduler_loop(model, x, scheduler, setting.steps)
        setting.sequential.append(time.perf_counter() - began)
        began = time.perf_counter()
        kwargs = {"class_labels": labels}
        given = {"num_inference_steps": setting.steps, "model_kwargs": kwargs, "tolerance": TOLERANCE, "coarse": COARSE}
        found = sample(net, x, scheduler, **given)
        setting.parallel.append(time.perf_counter() - began)
        setting.errors.append(relative_error(found.final_state, answer))
        setting.iterations.append(found.iterations)
        setting.work.append(found.stats.work / setting.steps)


def row(setting: Setting, best: float) -> str:
    """Return a line of the table; `best` is the best sequential median for its steps."""
    took, advice = statistics.median(setting.parallel), setting.advice
    ratios = sorted(best / t for t in setting.parallel)
    cells = (
        setting.steps,
        setting.threads,
        advice.slices if advice.worthwhile else "sequential",
        f"{statistics.fmean(setting.iterations):.1f}",
        f"{statistics.fmean(setting.work):.2f}",
        f"{statistics.median(setting.sequential):.3f} s",
        f"{advice.predicted_wall_time:.3f} s",
        f"{took:.3f} s",
        f"{100 * (advice.predicted_wall_time / took - 1):+.0f} %",
        f"{best / took:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{max(setting.errors):.1e}",
        f"{setting.planning:.0f} s",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 35, 50, 100, 150, 196, 961])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/planning.md")
    given = parser.parse_args()
    net, scheduler = models.load("fashion-mnist")
    machine = (
        f"{platform.machine()}, torch {torch.__version__}, tolerance {TOLERANCE:g}, coarse={COARSE!r}, "
        f"{given.runs} samples one by one"
    )
    print(machine, flush=True)
    names = "steps, threads, slices, iterations, work/N, sequential, predicted, measured, off by, ratio to the best "
    names += "sequential (spread), worst error, planning"
    lines = ["| " + " | ".join(names.split(", ")) + " |", "|---" * len(names.split(", ")) + "|"]
    off, best_ratios = [], []
    for steps in given.steps:
        threads = given.threads if steps <= 500 else given.threads[-1:]
        if steps > 500:  # "trailing" gives 961 steps one more, from timestep -1 (docs/reference/upstream.md)
            scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="leading")
        settings = [planned(net, scheduler, steps, count) for count in threads]
        for setting in settings:
            measure(setting, net, scheduler, given.runs)
        best = min(statistics.median(s.sequential) for s in settings)
        for setting in settings:
            off.append(abs(setting.advice.predicted_wall_time / statistics.median(setting.parallel) - 1))
            lines.append(row(setting, best))
            print(lines[-1], flush=True)
        best_ratios.append(f"{best / min(statistics.median(s.parallel) for s in settings):.2f} with {steps} steps")
    summary = (
        f"Predictions are off by {100 * statistics.median(off):.0f} % (median of {len(off)} settings, worst "
        f"{100 * max(off):.0f} %). Best ratios: {', '.join(best_ratios)}."
    )
    print(summary)
    if given.write:
        put(DOCS / "results/planning.md", "speedup", "\n".join([*lines, "", summary, f"Machine: {machine}."]))
