"""Search for slice boundaries with a small error after one iteration, by moving steps between slices.

    python benchmarks/diffusion/spacing.py                          # 25 steps, 10 slices of at most 3
    python benchmarks/diffusion/spacing.py --steps 100 --levels 12 3 --max-steps 12 --move 2 --minutes 15
    python benchmarks/diffusion/spacing.py --write                  # also writes docs/results/extrapolated.md

The model is the shipped network with coarse jumps that extrapolate DDIM's own steps. The longest slice determines the
span of an iteration, so its length is an option and a bound of the search. The search minimises the error on
`--samples` samples. The worst error is then measured on the eight samples of the comparison
(`bench/cases/problems.py`), which have no part in the search. Prints the rows of all runs so far, which are cached in
`--cache`. Takes little more than `--minutes`.
"""

import argparse
import itertools
import json
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from parareal_diffusers import boundaries, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import PROBLEMS, BenchProblem, select_samples
from parareal_diffusers.testing import relative_errors, scheduler_loop
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

NUM_TEST_SAMPLES = 8  # samples of the comparison; the search uses those after them

Sizes = tuple[int, ...]
"""number of steps of each slice"""
COLUMNS = (
    "steps",
    "slices",
    "spacing",
    "steps of each slice",
    "span",
    "worst error, search samples",
    "worst error, comparison samples",
)


@dataclass
class SpacingErrors:
    """Errors of some samples after one iteration, for slices of different sizes; every size is solved once only."""

    problem: BenchProblem
    steps: int
    levels: Sizes
    cache: dict[Sizes, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = self.problem.scheduler_for(self.steps)
        network = self.problem.build_network(self.steps)
        self.reference = scheduler_loop(network, self.problem.latents, self.scheduler, self.steps)

    def compute_errors(self, sizes: Sizes) -> Tensor:
        """Return the relative errors of all samples after one iteration."""
        if sizes not in self.cache:
            self.cache[sizes] = relative_errors(self.solve(sizes).final_state, self.reference)
        return self.cache[sizes]

    def solve(self, sizes: Sizes) -> parareal.Solution:
        """Return the solution after one iteration."""
        positional, named = self.problem.build_arguments(self.steps)
        named = {**named, "levels": self.levels} if len(self.levels) > 1 else named
        nodes = [0, *itertools.accumulate(sizes)]
        criterion = parareal.Iterations(1)
        return sample(*positional, **named, boundaries=nodes, coarse="extrapolated", criterion=criterion, throw=False)

    def compute_loss(self, sizes: Sizes) -> float:
        """Return the fourth-power mean of the errors, a smooth substitute for the largest."""
        return float((self.compute_errors(sizes) ** 4).mean() ** 0.25)


def build_problem(rows: slice) -> BenchProblem:
    """Return the shipped network with some samples: those of the comparison first, then further ones."""
    return select_samples(PROBLEMS["fashion-mnist-1"](rows.stop), rows)


def list_initial_sizes(rule: Sizes, most: int) -> list[Sizes]:
    """Return the initial candidates of the search, with slices of at most `most` steps.

    They are the sizes by the rule `boundaries`, with longer slices cut, and even sizes with the shorter slices last.
    """
    steps, slices, capped = sum(rule), len(rule), list(rule)
    while max(capped) > most:
        # One step from a longest slice goes to the longest slice that has room.
        long, short = capped.index(max(capped)), capped.index(max(size for size in capped if size < most))
        capped[long], capped[short] = capped[long] - 1, capped[short] + 1
    each, longer = divmod(steps, slices)
    return [tuple(capped), tuple([each + 1] * longer + [each] * (slices - longer))]


def list_moves(sizes: Sizes, most: int, by: int) -> Iterator[Sizes]:
    """Yield the sizes after a move of at most `by` steps from one slice to another."""
    for i, j in itertools.permutations(range(len(sizes)), 2):
        for n in range(by, 0, -1):
            if sizes[i] > n and sizes[j] + n <= most:
                yield tuple(s + n * ((k == j) - (k == i)) for k, s in enumerate(sizes))


def descend(search: SpacingErrors, sizes: Sizes, most: int, by: int, minutes: float) -> Sizes:
    """Make moves that reduce the loss, in random order, until no move does or the time is up."""
    end, order = time.monotonic() + 60 * minutes, random.Random(0)
    with tqdm(desc="spacing", unit="trial") as bar:
        better = True
        while better:
            better = False
            choices = list(list_moves(sizes, most, by))
            order.shuffle(choices)
            for other in choices:
                if time.monotonic() > end:
                    return sizes
                bar.update()
                # Take the first improvement and list the moves from there again.
                if search.compute_loss(other) < search.compute_loss(sizes):
                    sizes, better = other, True
                    bar.set_postfix_str(f"{search.compute_loss(sizes):.2e} {sizes}")
                    break
    return sizes


def format_row(search: SpacingErrors, test: SpacingErrors, sizes: Sizes, name: str) -> dict[str, str]:
    """Return one row of the table."""
    values = (
        str(search.steps),
        " x ".join(map(str, search.levels)),
        name,
        " ".join(map(str, sizes)),
        f"{test.solve(sizes).stats.span:.0f}",
        f"{search.compute_errors(sizes).max():.1e}",
        f"{test.compute_errors(sizes).max():.1e}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def load_rows(file: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of earlier runs, by setting.

    Rows of older versions have other headings, but the same columns in the same order.
    """
    stored = json.loads(file.read_text()) if file.exists() else {}
    return {key: [dict(zip(COLUMNS, row.values(), strict=True)) for row in rows] for key, rows in stored.items()}


def main() -> None:
    """Search, measure, and print the rows of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25, help="steps of DDIM")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[10], help="number of slices per level, outermost first"
    )
    parser.add_argument("--max-steps", type=int, default=3, help="the largest number of steps of a slice")
    parser.add_argument("--move", type=int, default=1, help="the largest number of steps of one move")
    parser.add_argument("--samples", type=int, default=12, help="samples of the search")
    parser.add_argument("--minutes", type=float, default=10.0, help="the longest time of the search, in minutes")
    parser.add_argument("--cache", type=Path, default=Path("build/spacing.json"), help="file with the rows of all runs")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/extrapolated.md")
    options = parser.parse_args()
    if options.max_steps * options.levels[0] < options.steps:
        parser.error(
            f"--max-steps {options.max_steps} is too small: {options.levels[0]} slices must hold {options.steps} steps"
        )
    levels = tuple(options.levels)
    search_rows = slice(NUM_TEST_SAMPLES, NUM_TEST_SAMPLES + options.samples)
    search = SpacingErrors(build_problem(search_rows), options.steps, levels)
    test = SpacingErrors(build_problem(slice(0, NUM_TEST_SAMPLES)), options.steps, levels)
    rule = boundaries(test.scheduler, levels[0], num_inference_steps=options.steps, log_snr=0.4)
    rule = tuple(b - a for a, b in itertools.pairwise(rule))
    initial = min(list_initial_sizes(rule, options.max_steps), key=search.compute_loss)
    best = descend(search, initial, options.max_steps, options.move, options.minutes)
    rows = load_rows(options.cache)
    names = {
        "`boundaries(..., log_snr=0.4)`": rule,
        "initial": initial,
        f"best of {len(search.cache)}": best,
    }
    key = f"{options.steps}|{levels}|{options.max_steps}"
    rows[key] = [format_row(search, test, sizes, name) for name, sizes in names.items()]
    options.cache.parent.mkdir(parents=True, exist_ok=True)
    options.cache.write_text(json.dumps(rows))
    note = f"{options.samples} samples in the search. Machine: {platform.machine()}, torch {torch.__version__}."
    text = f"{markdown([row for part in rows.values() for row in part])}\n\n{note}"
    print(text)
    if options.write:
        put(DOCS / "results/extrapolated.md", "spacing", text)


if __name__ == "__main__":
    main()
