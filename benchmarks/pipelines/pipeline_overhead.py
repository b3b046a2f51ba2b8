"""Overhead of `parallelize` with one slice, against the unmodified pipeline.

    python benchmarks/pipelines/pipeline_overhead.py
    python benchmarks/pipelines/pipeline_overhead.py --runs 9 --write    # also writes docs/results/benchmarks.md

With one slice the engine makes exactly the steps of the sequential loop, one evaluation after another, so any
difference is overhead. The pipeline is the class-conditional one of examples/pipeline.py with guidance, on the shipped
network (2.7 million parameters, 28 x 28). This network is small: a larger one takes longer per step, and the overhead
stays the same.

The two pipelines are called in turn. The processor time outside the network is measured for each call. The time within
the network is left out, because it is the same work in both, and its noise on a busy machine exceeds the overhead. The
overhead is the difference of the medians, per step and relative to the unmodified pipeline's whole processor time. Also
printed is the median ratio of the wall times of neighbouring calls, with the interquartile range. Takes about two
minutes on one core.
"""

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from parareal_diffusers import parallelize
from parareal_diffusers._commands.report import markdown

from benchmarks.tools.pages import DOCS, put

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from pipeline import ClassConditionalPipeline, build

STEPS = 50
OPTIONS = ("beta_start", "beta_end", "beta_schedule", "prediction_type")


class PipelineClock:
    """Wall and processor times of a pipeline's calls, and the processor time within its network."""

    def __init__(self, pipe: ClassConditionalPipeline):
        self.pipe, self.network_time, self.start_time = pipe, 0.0, 0.0
        network: torch.nn.Module = pipe.unet
        network.register_forward_pre_hook(self._start)
        network.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self.start_time = time.process_time()

    def _stop(self, *_: Any) -> None:
        self.network_time += time.process_time() - self.start_time

    def call(self) -> tuple[float, float, float]:
        """Call the pipeline; return wall time, processor time, and processor time outside the network, in seconds."""
        self.network_time = 0.0
        wall_start, processor_start = time.perf_counter(), time.process_time()
        self.pipe([4, 7], num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
        processor_time = time.process_time() - processor_start
        return time.perf_counter() - wall_start, processor_time, processor_time - self.network_time


def measure(clock: PipelineClock, runs: int) -> dict[str, str]:
    """Return the columns of the overhead of one slice."""
    plain, ours = [], []  # the first calls warm up
    for _ in range(runs + 1):
        plain.append(clock.call())
        with parallelize(clock.pipe, slices=1, verify=True) as handle:
            handle._verifier = None  # the pipeline is accepted with verify=True, but verification is not timed
            ours.append(clock.call())
    # Columns: wall time, processor time, processor time outside the network.
    plain, ours = (np.array(x[1:]) for x in (plain, ours))
    added = np.median(ours[:, 2]) - np.median(plain[:, 2])
    share, wall = added / np.median(plain[:, 1]), np.median(ours[:, 0] / plain[:, 0]) - 1
    step = np.median(plain[:, 1]) / STEPS
    low, high = (100 * (np.quantile(ours[:, 0] / plain[:, 0], q) - 1) for q in (0.25, 0.75))
    return {
        "time per step": f"{1e3 * step:.1f} ms",
        "added processor time per step": f"{1e3 * added / STEPS:.2f} ms, {100 * share:.1f} %",
        "wall time": f"{100 * wall:+.1f} %",
        "interquartile range": f"{low:+.1f} % to {high:+.1f} %",
    }


def main() -> None:
    """Print one row per scheduler, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="timed calls per pipeline and scheduler")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/benchmarks.md")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    clock, own = PipelineClock(pipe), pipe.scheduler
    config = {name: own.config[name] for name in OPTIONS}
    rows = []
    for scheduler in (own, DPMSolverMultistepScheduler(**config), EulerDiscreteScheduler(**config)):
        pipe.scheduler = scheduler
        rows.append({"scheduler": type(scheduler).__name__, **measure(clock, options.runs)})
        print(rows[-1], flush=True)
    if options.write:
        put(DOCS / "results/benchmarks.md", "pipeline overhead", markdown(rows))


if __name__ == "__main__":
    main()
