"""Wall time of every method of the comparison against the sequential loop, on any device.

    python benchmarks/diffusion/walls.py --device cuda          # with an accelerator: some minutes
    python benchmarks/diffusion/walls.py --device cuda --write  # also writes the table into docs/results/benchmarks.md
    python benchmarks/diffusion/walls.py --device cuda --no-run # only shows cached times, on any machine

Each method is run with its stop rule and tolerance 1e-2, once to warm up and then five times, each time on another
sample. The time of the loop over the unmodified scheduler is at most ten seconds older. All numbers are float32: with
TF32, calls of different sizes differ by 1e-3. On an accelerator the network is first called once with every batch size,
because the first call of a size plans its kernels; the time that this takes is printed. Times are kept in `--cache`,
with the machine's name.
"""

import argparse
import statistics
from pathlib import Path

import torch
from parareal_diffusers.bench.cases.problems import PROBLEMS, STEPS, BenchProblem
from parareal_diffusers.bench.harness.collect import RunSelection, RunStore, collect
from parareal_diffusers.bench.harness.command import describe_machine, resolve_device
from parareal_diffusers.bench.harness.methods import METHODS
from parareal_diffusers.bench.harness.tables import format_speedups
from parareal_diffusers.bench.harness.timing import RUNS, TOLERANCE, measure_speedups, time_call

from benchmarks.tools.pages import DOCS, put

WIDEST = 196
"""the largest batch size with which the network is warmed up, in rows"""


def warm_up(problem: BenchProblem, steps: int) -> str:
    """Call the network with every batch size up to the widest.

    Returns:
        A sentence with the times of a first and of a second call.
    """
    network, device = problem.select_sample(0).build_parts(steps).denoiser, problem.latents.device
    first, second = [], []
    for size in range(1, WIDEST + 1):
        index = torch.zeros(size, dtype=torch.long, device=device)
        x = problem.latents[:1].expand(size, *problem.latents.shape[1:])
        with torch.no_grad():
            times = [time_call(lambda x=x, index=index: network(x, index, index), device)[0] for _ in range(2)]
        first.append(1e3 * times[0])
        second.append(1e3 * times[1])
    # The very first call also initialises the device, so size 1 is left out of the median of first calls.
    sentence = "The first call with a batch size takes {:.0f} ms (median of sizes 2 to {}), later calls {:.1f} ms."
    return sentence.format(statistics.median(first[1:]), WIDEST, statistics.median(second[1:]))


def main() -> None:
    """Time what has not been timed yet, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="device of networks and states")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["fashion-mnist-1"])
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of DDIM steps")
    parser.add_argument("--methods", nargs="+", default=[""], help="methods, by parts of their names")
    parser.add_argument("--cache", type=Path, default=None, help="by default build/walls-DEVICE")
    parser.add_argument("--no-run", action="store_true", help="only show cached times")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/benchmarks.md")
    options = parser.parse_args()
    store = RunStore(options.cache or Path("build") / f"walls-{options.device}")
    names = [name for name in METHODS if any(part in name for part in options.methods)]
    if not options.no_run:
        torch.set_num_threads(1)
        device = resolve_device(options.device)
        selection = RunSelection(options.problems, options.steps, names, RUNS, [TOLERANCE], device)
        store.update_notes("machine", {"name": describe_machine(selection.device)})
        if selection.device.type != "cpu":
            sentences = {p: warm_up(selection.build_problem(p), min(options.steps)) for p in options.problems}
            store.update_notes("machine", sentences)
        measure_speedups(selection, store, max(options.steps))
    # Without a device, so that times of an accelerator can be tabulated on a machine that has none.
    tables = collect(RunSelection(options.problems, options.steps, names, 1, [TOLERANCE]), store, run=False)
    parts = format_speedups(tables, options.problems, store.update_notes("walls"))
    text = "\n\n".join([*parts, " ".join(store.update_notes("machine").values())])
    print(text)
    if options.write:
        put(DOCS / "results/benchmarks.md", f"walls {options.device}", text)


if __name__ == "__main__":
    main()
