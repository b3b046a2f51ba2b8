"""Wall time of every method of the comparison against the sequential loop, on any device.

    python benchmarks/diffusion/walls.py --device cuda          # with an accelerator: some minutes
    python benchmarks/diffusion/walls.py --device cuda --write  # and puts the table into docs/results/benchmarks.md

Each method as run, with 1e-2, five times after one to warm up, each on another sample, against the loop over the
unmodified scheduler at most ten seconds before. float32 throughout: with TF32, calls of different sizes differ by 1e-3.
On an accelerator the network is first called once with every batch size, for there the first call of a size plans its
kernels; what that takes is printed. What was timed is kept in `--cache`, with the machine's name, and can be shown
elsewhere with `--no-run`.
"""

import argparse
import statistics
from pathlib import Path

import torch
from parareal_diffusers.bench.cases.problems import PROBLEMS, STEPS, Problem
from parareal_diffusers.bench.harness.collect import Choice, Store, collect
from parareal_diffusers.bench.harness.command import about, device_named
from parareal_diffusers.bench.harness.methods import METHODS
from parareal_diffusers.bench.harness.tables import wall_ratios
from parareal_diffusers.bench.harness.timing import RUNS, TOLERANCE, measure, took

from benchmarks.tools.pages import DOCS, put

WIDEST = 196
"""rows of the largest batch that is warmed up for"""


def warmed(problem: Problem, steps: int) -> str:
    """Call the network with every batch size up to the widest, and say what a first call takes, and a second."""
    network, device = problem.sample(0).parts(steps).denoiser, problem.latents.device
    first, second = [], []
    for size in range(1, WIDEST + 1):
        index = torch.zeros(size, dtype=torch.long, device=device)
        x = problem.latents[:1].expand(size, *problem.latents.shape[1:])
        with torch.no_grad():
            times = [took(lambda x=x, index=index: network(x, index, index), device)[0] for _ in range(2)]
        first.append(1e3 * times[0])
        second.append(1e3 * times[1])
    told = "A call with a batch size that is new takes {:.0f} ms (median of sizes 2 to {}), later {:.1f} ms."
    return told.format(statistics.median(first[1:]), WIDEST, statistics.median(second[1:]))


def main() -> None:
    """Time what has not been timed, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=["fashion-mnist-1"])
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--methods", nargs="+", default=[""], help="parts of methods' names")
    parser.add_argument("--cache", type=Path, default=None, help="by default build/walls-DEVICE")
    parser.add_argument("--no-run", action="store_true", help="only show what the cache has")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/benchmarks.md")
    given = parser.parse_args()
    store = Store(given.cache or Path("build") / f"walls-{given.device}")
    names = [name for name in METHODS if any(part in name for part in given.methods)]
    if not given.no_run:
        torch.set_num_threads(1)
        choice = Choice(given.problems, given.steps, names, RUNS, [TOLERANCE], device_named(given.device))
        store.note("machine", {"name": about(choice.device)})
        if choice.device.type != "cpu":
            store.note("machine", {p: warmed(choice.problem(p), min(given.steps)) for p in given.problems})
        measure(choice, store, max(given.steps))
    tables = collect(Choice(given.problems, given.steps, names, 1, [TOLERANCE]), store, run=False)
    parts = wall_ratios(tables, given.problems, store.note("walls"))
    text = "\n\n".join([*parts, " ".join(store.note("machine").values())])
    print(text)
    if given.write:
        put(DOCS / "results/benchmarks.md", f"walls {given.device}", text)


if __name__ == "__main__":
    main()
