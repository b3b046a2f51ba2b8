"""One plan of a diffusion policy, an MLP: wall-clock in parallel in time against the unmodified scheduler's loop.

    python benchmarks/diffusion/policy.py              # some minutes
    python benchmarks/diffusion/policy.py --write      # and puts the table into docs/results/benchmarks.md
    python benchmarks/diffusion/policy.py --profile    # and where the time of one solve goes

The shipped model of the maze, DDIM, one trajectory, one process. A few settings are tried on four trajectories; the
fastest whose worst error is within 1e-2 is then run, in turn with the sequential loop, on as many others as `--runs`
says, from ends that were kept from training. A ratio is to the median of the sequential loop on the threads that are
best for it; planning is not in the times, nor is trying.
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
from parareal_diffusers.bench.harness.command import about, device_named
from parareal_diffusers.bench.harness.timing import took
from parareal_diffusers.testing import relative_error, scheduler_loop
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

sys.path.insert(0, str(DOCS.parent / "examples" / "maze"))
from mazes import POINTS, plans

TOLERANCE = 1e-2
ONE = {"criterion": parareal.Iterations(1)}
STOP = {"tolerance": TOLERANCE, "speculate_until": 1}
SETTINGS: dict[int, list[dict[str, Any]]] = {
    100: [
        {"slices": 10, "coarse": "ddim", **ONE},
        {"slices": 10, "coarse": "ddim", **STOP},
        {"slices": 12, **STOP},
        {"levels": (4, 5), "coarse": "ddim", **ONE},
        {"levels": (5, 4), "coarse": "ddim", **ONE},
        {"levels": (3, 3, 3), "coarse": "ddim", **ONE},
        {"levels": (3, 2, 3), "coarse": "ddim", **ONE},
        {"levels": (3, 2, 3), "coarse": "ddim", **STOP},
        {"levels": (2, 3, 3), "coarse": "ddim", **ONE},
        {"levels": (4, 3, 3), "coarse": "ddim", **ONE},
    ],
    1000: [
        {"slices": 31, "coarse": "ddim", **ONE},
        {"slices": 31, **STOP},
        {"levels": (12, 9), "coarse": "ddim", **ONE},
        {"levels": (5, 5, 5), "coarse": "ddim", **ONE},
        {"levels": (5, 5, 5), "coarse": "ddim", **STOP},
        {"levels": (6, 6, 6), "coarse": "ddim", **ONE},
    ],
}


@dataclass(frozen=True)
class Task:
    """Trajectories to plan, one at a time."""

    net: Any
    scheduler: Any
    steps: int
    noise: Tensor
    """shape (trajectories, POINTS, 2)"""
    ends: Tensor
    """shape (trajectories, 4)"""

    @staticmethod
    def of(net: Any, scheduler: Any, steps: int, count: int, seed: int) -> "Task":
        """Draw noise, and ends that were kept from training."""
        noise = torch.randn(count, POINTS, 2, generator=torch.Generator().manual_seed(seed))
        device = next(net.parameters()).device
        return Task(net, scheduler, steps, noise.to(device), plans(count, seed, seen=False)[1].to(device))

    def sequential(self, i: int) -> Tensor:
        """Plan one trajectory by the scheduler's own loop."""
        ends = self.ends[i : i + 1]
        return scheduler_loop(lambda x, t: self.net(x, t, ends=ends), self.noise[i : i + 1], self.scheduler, self.steps)

    def parallel(self, i: int, setting: dict[str, Any]) -> parareal.Solution:
        """Plan one trajectory in parallel in time."""
        kwargs = {"ends": self.ends[i : i + 1]}
        noise = self.noise[i : i + 1]
        return sample(self.net, noise, self.scheduler, num_inference_steps=self.steps, model_kwargs=kwargs, **setting)


@dataclass
class Runs:
    """What a setting on some threads took."""

    setting: dict[str, Any]
    threads: int
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    solutions: list[parareal.Solution] = field(default_factory=list)

    def add(self, task: Task, i: int, answer: Tensor) -> None:
        """Plan trajectory i, on the threads set, and compare it with the sequential answer."""
        seconds, solution = took(lambda: task.parallel(i, self.setting), task.noise.device)
        self.seconds.append(seconds)
        self.solutions.append(solution)
        self.errors.append(relative_error(solution.final_state, answer))


def shown(setting: dict[str, Any]) -> dict[str, str]:
    """Say what a setting is."""
    levels = setting.get("levels", (setting.get("slices"),))
    stop = f"tolerance {setting['tolerance']:g}" if "tolerance" in setting else "one iteration"
    return {
        "slices": " x ".join(map(str, levels)),
        "coarse": {"ddim": "DDIM"}.get(setting.get("coarse", "auto"), "2M"),
        "stop": stop,
    }


def measure(task: Task, settings: list[dict[str, Any]], threads: list[int], bar: Any) -> tuple[dict, list[Runs]]:
    """Plan every trajectory by the loop and by each setting, in turn; return the loop's times by threads, and runs."""
    loop: dict[int, list[float]] = {count: [] for count in threads}
    runs = [Runs(setting, count) for count in threads for setting in settings]
    for i in range(-1, len(task.noise)):  # the first is the warm-up
        for count in threads:
            torch.set_num_threads(count)
            seconds, answer = took(lambda i=i: task.sequential(max(i, 0)), task.noise.device)
            if i >= 0:
                loop[count].append(seconds)
            for run in runs:
                if run.threads == count and i >= 0:
                    run.add(task, i, answer)
                elif run.threads == count:
                    task.parallel(0, run.setting)
        bar.update()
    return loop, runs


def row(steps: int, run: Runs, loop: dict[int, list[float]]) -> dict[str, str]:
    """Return a line of the table."""
    best = min(statistics.median(x) for x in loop.values())
    took = statistics.median(run.seconds)
    ratios = sorted(best / x for x in run.seconds)
    stats = [s.stats for s in run.solutions]
    return {
        "steps": str(steps),
        "threads": str(run.threads),
        **shown(run.setting),
        "iterations": f"{statistics.fmean(s.iterations for s in run.solutions):.1f}",
        "calls": f"{statistics.fmean(s.calls for s in stats):.0f}",
        "work/N": f"{statistics.fmean(s.work for s in stats) / steps:.2f}",
        "sequential, here and at best": f"{1e3 * statistics.median(loop[run.threads]):.0f} ms, {1e3 * best:.0f} ms",
        "parallel": f"{1e3 * took:.1f} ms",
        "ratio to the best": f"{best / took:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
        "worst error": f"{max(run.errors):.1e}",
    }


def profile(task: Task, setting: dict[str, Any], count: int = 20) -> None:
    """Print where the time of a solve goes."""
    torch.set_num_threads(1)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(count):
        task.parallel(0, setting)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    """Try, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", action="store_true", help="show where the time of one solve goes")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/benchmarks.md")
    given = parser.parse_args()
    net, scheduler = models.load("maze")
    device = device_named(given.device)
    net = net.to(device)
    tried, chosen = [], []
    with tqdm(total=len(given.steps) * (4 + 1 + given.runs + 1)) as bar:
        for steps in given.steps:
            loop, runs = measure(Task.of(net, scheduler, steps, 4, 100), SETTINGS[steps], given.threads, bar)
            tried += [row(steps, run, loop) for run in runs]
            close = [run for run in runs if max(run.errors) <= TOLERANCE]
            best = min(close, key=lambda run: statistics.median(run.seconds))
            task = Task.of(net, scheduler, steps, given.runs, 200)
            loop, runs = measure(task, [best.setting], given.threads, bar)
            chosen += [row(steps, run, loop) for run in runs]
            if given.profile:
                profile(task, best.setting)
    told = f"{given.runs} trajectories one by one, tolerance {TOLERANCE:g}. {about(device)}"
    text = f"{markdown(chosen)}\n\nWhat was tried, on four others:\n\n{markdown(tried)}\n\n{told}"
    print(text)
    if given.write:
        put(DOCS / "results/benchmarks.md", "policy", text)


if __name__ == "__main__":
    main()
