"""Wall time of one image in parallel in time with a plan, against the best sequential run, and the error of plans.

    python benchmarks/diffusion/speedup.py
    python benchmarks/diffusion/speedup.py --steps 25 100 --threads 1 --runs 4
    python benchmarks/diffusion/speedup.py --write    # also writes the table into docs/results/planning.md

For each number of steps and of threads, `parareal_diffusers.plan` measures four samples. Then `--runs` others are
drawn, in turn sequentially by the loop over the unmodified scheduler and in parallel in time with `slices="auto"`.
Prints the plan, predicted and measured times (medians), and the speed-up over the sequential loop on the number of
threads that is best for it. Planning is not included in the times and is shown separately. Takes about ten minutes on
two cores.
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
class PlannedSetting:
    """One number of steps on a number of threads: its plan, and the times, errors and costs of its runs."""

    steps: int
    threads: int
    advice: parareal.Plan
    planning: float
    """seconds"""
    sequential: list[float] = field(default_factory=list)
    parallel: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    work: list[float] = field(default_factory=list)


def draw_latents(count: int, seed: int) -> torch.Tensor:
    """Return initial noise, shape (count, 1, 28, 28)."""
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def plan_setting(net, scheduler, steps: int, threads: int) -> PlannedSetting:
    """Plan on four samples that are not among those timed."""
    torch.set_num_threads(threads)
    start_time = time.perf_counter()
    labels = {"class_labels": torch.arange(4)}
    named = {"num_inference_steps": steps, "model_kwargs": labels, "tolerance": TOLERANCE, "coarse": COARSE}
    advice = plan(net, draw_latents(4, 99), scheduler, **named)
    return PlannedSetting(steps, threads, advice, time.perf_counter() - start_time)


def measure(setting: PlannedSetting, net, scheduler, runs: int) -> None:
    """Draw samples sequentially and in parallel in time, in turn."""
    torch.set_num_threads(setting.threads)
    # In turn, so that a slow phase of the machine meets both.
    for run in range(runs):
        x, labels = draw_latents(1, run), torch.tensor([run % 10])

        def model(x, t, labels=labels):
            return net(x, t, class_labels=labels).sample

        start_time = time.perf_counter()
        reference = scheduler_loop(model, x, scheduler, setting.steps)
        setting.sequential.append(time.perf_counter() - start_time)
        start_time = time.perf_counter()
        kwargs = {"class_labels": labels}
        named = {"num_inference_steps": setting.steps, "model_kwargs": kwargs, "tolerance": TOLERANCE, "coarse": COARSE}
        solution = sample(net, x, scheduler, **named)
        setting.parallel.append(time.perf_counter() - start_time)
        setting.errors.append(relative_error(solution.final_state, reference))
        setting.iterations.append(solution.iterations)
        setting.work.append(solution.stats.work / setting.steps)


def format_row(setting: PlannedSetting, best: float) -> str:
    """Return one row of the table; `best` is the smallest sequential median for its number of steps, in seconds."""
    median, advice = statistics.median(setting.parallel), setting.advice
    ratios = sorted(best / t for t in setting.parallel)
    cells = (
        setting.steps,
        setting.threads,
        advice.slices if advice.worthwhile else "sequential",
        f"{statistics.fmean(setting.iterations):.1f}",
        f"{statistics.fmean(setting.work):.2f}",
        f"{statistics.median(setting.sequential):.3f} s",
        f"{advice.predicted_wall_time:.3f} s",
        f"{median:.3f} s",
        f"{100 * (advice.predicted_wall_time / median - 1):+.0f} %",
        f"{best / median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{max(setting.errors):.1e}",
        f"{setting.planning:.0f} s",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[25, 35, 50, 100, 150, 196, 961], help="numbers of steps"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--runs", type=int, default=8, help="samples that are timed")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/planning.md")
    options = parser.parse_args()
    net, scheduler = models.load("fashion-mnist")
    machine = (
        f"{platform.machine()}, torch {torch.__version__}, tolerance {TOLERANCE:g}, coarse={COARSE!r}, "
        f"{options.runs} samples one by one"
    )
    print(machine, flush=True)
    names = "steps, threads, slices, iterations, work/N, sequential, predicted, measured, prediction error, "
    names += "speed-up over best sequential (range), worst error, planning time"
    lines = ["| " + " | ".join(names.split(", ")) + " |", "|---" * len(names.split(", ")) + "|"]
    prediction_errors, best_speedups = [], []
    for steps in options.steps:
        # Many steps take long, so they are run on the last number of threads only.
        threads = options.threads if steps <= 500 else options.threads[-1:]
        if steps > 500:  # "trailing" gives 961 steps one more, from timestep -1 (docs/reference/upstream.md)
            scheduler = type(scheduler).from_config(scheduler.config, timestep_spacing="leading")
        settings = [plan_setting(net, scheduler, steps, count) for count in threads]
        for setting in settings:
            measure(setting, net, scheduler, options.runs)
        best = min(statistics.median(s.sequential) for s in settings)
        for setting in settings:
            prediction_errors.append(abs(setting.advice.predicted_wall_time / statistics.median(setting.parallel) - 1))
            lines.append(format_row(setting, best))
            print(lines[-1], flush=True)
        best_speedups.append(f"{best / min(statistics.median(s.parallel) for s in settings):.2f} with {steps} steps")
    median, worst = statistics.median(prediction_errors), max(prediction_errors)
    summary = (
        f"Predictions are off by {100 * median:.0f} % (median of {len(prediction_errors)} settings, worst "
        f"{100 * worst:.0f} %). Best speed-ups: {', '.join(best_speedups)}."
    )
    print(summary)
    if options.write:
        put(DOCS / "results/planning.md", "speedup", "\n".join([*lines, "", summary, f"Machine: {machine}."]))
