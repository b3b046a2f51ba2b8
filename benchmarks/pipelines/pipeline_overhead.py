"""What `parallelize` costs where it gains nothing: one slice, against the unmodified pipeline.

    python benchmarks/pipelines/pipeline_overhead.py
    python benchmarks/pipelines/pipeline_overhead.py --runs 9 --write    # into docs/results/benchmarks.md

With one slice the engine makes the very steps of the sequential loop, one evaluation after the other, so that all that
is added shows. The pipeline is the class-conditional one of examples/pipeline.py on the shipped network (2.7 million
parameters, 28 x 28), guided, which is small: a step of a larger network takes longer, and what is added does not. The
two are called in turn; of each call, the processor time outside the network is taken (that within is the same work in
both, and its noise on a busy machine is larger than what is looked for). The figure is the difference of the medians
over the unmodified pipeline's whole processor time. The median ratio of the wall times of neighbouring calls stands
beside it, with its middle half.
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


class Clock:
    """Wall and processor time of calls of a pipeline, and the processor time within its network."""

    def __init__(self, pipe: ClassConditionalPipeline):
        self.pipe, self.within, self.began = pipe, 0.0, 0.0
        network: torch.nn.Module = pipe.unet
        network.register_forward_pre_hook(self._start)
        network.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self.began = time.process_time()

    def _stop(self, *_: Any) -> None:
        self.within += time.process_time() - self.began

    def call(self) -> tuple[float, float, float]:
        """Return wall time, processor time, and processor time outside the network of a call."""
        self.within = 0.0
        began = time.perf_counter(), time.process_time()
        self.pipe([4, 7], num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
        whole = time.process_time() - began[1]
        return time.perf_counter() - began[0], whole, whole - self.within


def measure(clock: Clock, runs: int) -> dict[str, str]:
    """Return what one slice adds."""
    plain, ours = [], []
    for _ in range(runs + 1):
        plain.append(clock.call())
        with parallelize(clock.pipe, slices=1, verify=True) as handle:
            handle._verifier = None  # has its own time
            ours.append(clock.call())
    plain, ours = (np.array(x[1:]) for x in (plain, ours))
    added = np.median(ours[:, 2]) - np.median(plain[:, 2])
    share, wall = added / np.median(plain[:, 1]), np.median(ours[:, 0] / plain[:, 0]) - 1
    step = np.median(plain[:, 1]) / STEPS
    low, high = (100 * (np.quantile(ours[:, 0] / plain[:, 0], q) - 1) for q in (0.25, 0.75))
    return {
        "a step": f"{1e3 * step:.1f} ms",
        "added, processor time": f"{1e3 * added / STEPS:.2f} ms, {100 * share:.1f} %",
        "wall time": f"{100 * wall:+.1f} %",
        "middle half of calls": f"{low:+.1f} % to {high:+.1f} %",
    }


def main() -> None:
    """Print a row for each scheduler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/benchmarks.md")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    clock, own = Clock(pipe), pipe.scheduler
    config = {name: own.config[name] for name in OPTIONS}
    rows = []
    for scheduler in (own, DPMSolverMultistepScheduler(**config), EulerDiscreteScheduler(**config)):
        pipe.scheduler = scheduler
        rows.append({"scheduler": type(scheduler).__name__, **measure(clock, given.runs)})
        print(rows[-1], flush=True)
    if given.write:
        put(DOCS / "results/benchmarks.md", "pipeline overhead", markdown(rows))


if __name__ == "__main__":
    main()
