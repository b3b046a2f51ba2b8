"""Wall time of one plan of a diffusion policy: parallel in time against the unmodified scheduler's loop.

    python benchmarks/diffusion/policy.py              # some minutes
    python benchmarks/diffusion/policy.py --write      # also writes the tables into docs/results/benchmarks.md
    python benchmarks/diffusion/policy.py --profile    # also prints a profile of one solve

The model is the shipped planner of the maze with DDIM; one trajectory at a time, in one process. The candidate settings
are run on four trajectories. The fastest one whose worst error is at most 1e-2 is then run, in turn with the sequential
loop, on `--runs` other trajectories between ends that were held out of training. Prints both tables. Speed-ups are over
the median of the sequential loop on the number of threads that is best for it. The time to choose a setting is not
included.
"""

import argparse
import cProfile
import pstats
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from parareal_diffusers import models, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.harness.command import describe_machine, resolve_device
from parareal_diffusers.bench.harness.timing import time_call
from parareal_diffusers.testing import relative_error, scheduler_loop
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

sys.path.insert(0, str(DOCS.parent / "examples" / "maze"))
from mazes import POINTS, build_plans

TOLERANCE = 1e-2
ONE_ITERATION = {"criterion": parareal.Iterations(1)}
UNTIL_TOLERANCE = {"tolerance": TOLERANCE, "speculate_until": 1}
SETTINGS: dict[int, list[dict[str, Any]]] = {  # candidates, by number of steps
    100: [
        {"slices": 10, "coarse": "ddim", **ONE_ITERATION},
        {"slices": 10, "coarse": "ddim", **UNTIL_TOLERANCE},
        {"slices": 12, **UNTIL_TOLERANCE},
        {"levels": (4, 5), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (5, 4), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (3, 3, 3), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (3, 2, 3), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (3, 2, 3), "coarse": "ddim", **UNTIL_TOLERANCE},
        {"levels": (2, 3, 3), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (4, 3, 3), "coarse": "ddim", **ONE_ITERATION},
    ],
    1000: [
        {"slices": 31, "coarse": "ddim", **ONE_ITERATION},
        {"slices": 31, **UNTIL_TOLERANCE},
        {"levels": (12, 9), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (5, 5, 5), "coarse": "ddim", **ONE_ITERATION},
        {"levels": (5, 5, 5), "coarse": "ddim", **UNTIL_TOLERANCE},
        {"levels": (6, 6, 6), "coarse": "ddim", **ONE_ITERATION},
    ],
}


@dataclass(frozen=True)
class PlanningTask:
    """Trajectories to plan, one at a time: the policy, its scheduler, noise and ends."""

    net: Any
    scheduler: Any
    steps: int
    noise: Tensor
    """shape (trajectories, POINTS, 2)"""
    ends: Tensor
    """x and y of start and goal, shape (trajectories, 4)"""

    @staticmethod
    def of(net: Any, scheduler: Any, steps: int, count: int, seed: int) -> "PlanningTask":
        """Draw noise, and ends that were held out of training."""
        noise = torch.randn(count, POINTS, 2, generator=torch.Generator().manual_seed(seed))
        device = next(net.parameters()).device
        ends = build_plans(count, seed, training=False)[1]
        return PlanningTask(net, scheduler, steps, noise.to(device), ends.to(device))

    def solve_sequentially(self, i: int) -> Tensor:
        """Plan one trajectory by the scheduler's own loop."""
        ends = self.ends[i : i + 1]
        return scheduler_loop(lambda x, t: self.net(x, t, ends=ends), self.noise[i : i + 1], self.scheduler, self.steps)

    def solve_in_parallel(self, i: int, setting: dict[str, Any]) -> parareal.Solution:
        """Plan one trajectory in parallel in time."""
        kwargs = {"ends": self.ends[i : i + 1]}
        noise = self.noise[i : i + 1]
        return sample(self.net, noise, self.scheduler, num_inference_steps=self.steps, model_kwargs=kwargs, **setting)


@dataclass
class SettingRuns:
    """Times, errors and solutions of one setting on a number of threads."""

    setting: dict[str, Any]
    threads: int
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    solutions: list[parareal.Solution] = field(default_factory=list)

    def add(self, task: PlanningTask, i: int, reference: Tensor) -> None:
        """Plan trajectory i, on the current number of threads, and compare it with the sequential solution."""
        seconds, solution = time_call(lambda: task.solve_in_parallel(i, self.setting), task.noise.device)
        self.seconds.append(seconds)
        self.solutions.append(solution)
        self.errors.append(relative_error(solution.final_state, reference))


def describe(setting: dict[str, Any]) -> dict[str, str]:
    """Return the columns that describe a setting."""
    levels = setting.get("levels", (setting.get("slices"),))
    stop = f"tolerance {setting['tolerance']:g}" if "tolerance" in setting else "one iteration"
    return {
        "slices": " x ".join(map(str, levels)),
        "coarse": {"ddim": "DDIM"}.get(setting.get("coarse", "auto"), "2M"),
        "stop": stop,
    }


def measure(
    task: PlanningTask, settings: list[dict[str, Any]], threads: list[int], bar: Any
) -> tuple[dict, list[SettingRuns]]:
    """Plan every trajectory by the loop and by each setting, in turn.

    Returns:
        The loop's times by number of threads, and the runs of each setting and number of threads.
    """
    loop: dict[int, list[float]] = {count: [] for count in threads}
    runs = [SettingRuns(setting, count) for count in threads for setting in settings]
    for i in range(-1, len(task.noise)):  # the first round is the warm-up
        for count in threads:
            torch.set_num_threads(count)
            seconds, reference = time_call(lambda i=i: task.solve_sequentially(max(i, 0)), task.noise.device)
            if i >= 0:
                loop[count].append(seconds)
            for run in runs:
                if run.threads == count and i >= 0:
                    run.add(task, i, reference)
                elif run.threads == count:  # warms up without a record
                    task.solve_in_parallel(0, run.setting)
        bar.update()
    return loop, runs


def format_row(steps: int, run: SettingRuns, loop: dict[int, list[float]]) -> dict[str, str]:
    """Return one row of the table."""
    # Speed-ups are over the best sequential time, whatever the number of threads of the parallel run.
    best, same = min(statistics.median(x) for x in loop.values()), statistics.median(loop[run.threads])
    median = statistics.median(run.seconds)
    ratios = sorted(best / x for x in run.seconds)
    stats = [s.stats for s in run.solutions]
    return {
        "steps": str(steps),
        "threads": str(run.threads),
        **describe(run.setting),
        "iterations": f"{statistics.fmean(s.iterations for s in run.solutions):.1f}",
        "calls": f"{statistics.fmean(s.calls for s in stats):.0f}",
        "work/N": f"{statistics.fmean(s.work for s in stats) / steps:.2f}",
        "sequential, same and best threads": f"{1e3 * same:.0f} ms, {1e3 * best:.0f} ms",
        "parallel": f"{1e3 * median:.1f} ms",
        "speed-up over best": f"{best / median:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        "worst error": f"{max(run.errors):.1e}",
    }


def profile(task: PlanningTask, setting: dict[str, Any], count: int = 20) -> None:
    """Print the profile of a number of solves, on one thread."""
    torch.set_num_threads(1)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(count):
        task.solve_in_parallel(0, setting)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    """Choose a setting per number of steps, measure it, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="numbers of DDIM steps"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--runs", type=int, default=8, help="trajectories that are timed")
    parser.add_argument("--device", default="cpu", help="device of network and states")
    parser.add_argument("--profile", action="store_true", help="print a profile of one solve")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results/benchmarks.md")
    options = parser.parse_args()
    net, scheduler = models.load("maze")
    device = resolve_device(options.device)
    net = net.to(device)
    candidate_rows, rows = [], []
    with tqdm(total=len(options.steps) * (4 + 1 + options.runs + 1)) as bar:
        for steps in options.steps:
            # Chosen on other trajectories than those reported, so that the choice cannot flatter the result.
            loop, runs = measure(PlanningTask.of(net, scheduler, steps, 4, 100), SETTINGS[steps], options.threads, bar)
            candidate_rows += [format_row(steps, run, loop) for run in runs]
            accurate = [run for run in runs if max(run.errors) <= TOLERANCE]
            best = min(accurate, key=lambda run: statistics.median(run.seconds))
            task = PlanningTask.of(net, scheduler, steps, options.runs, 200)
            loop, runs = measure(task, [best.setting], options.threads, bar)
            rows += [format_row(steps, run, loop) for run in runs]
            if options.profile:
                profile(task, best.setting)
    note = f"{options.runs} trajectories one by one, tolerance {TOLERANCE:g}. {describe_machine(device)}"
    text = f"{markdown(rows)}\n\nAll candidates, on four other trajectories:\n\n{markdown(candidate_rows)}\n\n{note}"
    print(text)
    if options.write:
        put(DOCS / "results/benchmarks.md", "policy", text)


if __name__ == "__main__":
    main()
