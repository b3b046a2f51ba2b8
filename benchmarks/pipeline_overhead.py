"""What `parallelize` costs where it gains nothing: one slice, against the unmodified pipeline.

    python benchmarks/pipeline_overhead.py
    python benchmarks/pipeline_overhead.py --runs 3

With one slice the engine makes the very steps of the sequential loop, one evaluation after the other, so that all that
is added shows. The pipeline is the class-conditional one of examples/pipeline.py on the shipped network (2.7 million
parameters, 28 x 28), guided, which is small: a step of a larger network takes longer, and what is added does not. The
two are timed in turn, whole calls, and the figures are median ratios: of wall times, and of processor times, which
other work on the machine disturbs less.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from parareal_diffusers import parallelize

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from pipeline import ClassConditionalPipeline, build

STEPS = 50
OPTIONS = ("beta_start", "beta_end", "beta_schedule", "prediction_type")


def seconds(pipe: ClassConditionalPipeline) -> tuple[float, float]:
    """Return the wall time and the processor time of a call."""
    began = time.perf_counter(), time.process_time()
    pipe([4, 7], num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0))
    return time.perf_counter() - began[0], time.process_time() - began[1]


def ratios(pipe: ClassConditionalPipeline, runs: int) -> list[tuple[float, float]]:
    """Return the ratios of both times for each pair of calls; one pair before is thrown away."""
    found = []
    for _ in range(runs + 1):
        plain = seconds(pipe)
        with parallelize(pipe, slices=1, verify=True) as handle:
            handle._verifier = None  # has its own time
            ours = seconds(pipe)
        found.append((ours[0] / plain[0], ours[1] / plain[1]))
    return found[1:]


def main() -> None:
    """Print a line for each scheduler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    pipe = build()
    pipe.set_progress_bar_config(disable=True)
    own = pipe.scheduler
    config = {name: own.config[name] for name in OPTIONS}
    for scheduler in (own, DPMSolverMultistepScheduler(**config), EulerDiscreteScheduler(**config)):
        pipe.scheduler = scheduler
        for name, found in zip(("wall", "processor"), zip(*ratios(pipe, given.runs), strict=True), strict=True):
            middle, low, high = (100 * (f(found) - 1) for f in (statistics.median, min, max))
            print(
                f"{type(scheduler).__name__}: {name} time {middle:.1f} % over the unmodified pipeline "
                f"({low:.1f} to {high:.1f} over {len(found)} runs)"
            )


if __name__ == "__main__":
    main()
