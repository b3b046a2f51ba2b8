"""Where slices begin, learned: the boundaries with the least error after one iteration, by moving steps between slices.

    python benchmarks/diffusion/spacing.py                                            # 25 steps, 10 slices of at most 3
    python benchmarks/diffusion/spacing.py --steps 100 --levels 12 3 --most 12 --move 2 --minutes 15
    python benchmarks/diffusion/spacing.py --write  # and puts all lines into docs/results/extrapolated.md

The shipped network, DDIM's own steps extrapolated. The longest slice fixes the span of an iteration, so it is given;
boundaries move below it. What is learned from are `--samples` samples; the worst error is then measured on the eight
samples of the comparison (`bench/cases/problems.py`), which have no part in the choice.
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
from typing import Any

import torch
from parareal_diffusers import boundaries, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import PROBLEMS, Problem, part
from parareal_diffusers.testing import relative_errors, scheduler_loop
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

TESTED = 8  # samples of the comparison; those after them are learned from

Sizes = tuple[int, ...]


@dataclass
class Spacings:
    """One iteration of some samples, with slices of given sizes in steps; what was tried is remembered."""

    problem: Problem
    steps: int
    levels: Sizes
    tried: dict[Sizes, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = self.problem.scheduler_for(self.steps)
        network = self.problem.network(self.steps)
        self.answer = scheduler_loop(network, self.problem.latents, self.scheduler, self.steps)

    def errors(self, sizes: Sizes) -> Tensor:
        """Return the relative errors of all samples after one iteration."""
        if sizes not in self.tried:
            self.tried[sizes] = relative_errors(self.solve(sizes).final_state, self.answer)
        return self.tried[sizes]

    def solve(self, sizes: Sizes) -> parareal.Solution:
        """Make one iteration."""
        given, named = self.problem.arguments(self.steps)
        named = {**named, "levels": self.levels} if len(self.levels) > 1 else named
        nodes = [0, *itertools.accumulate(sizes)]
        one = parareal.Iterations(1)
        return sample(*given, **named, boundaries=nodes, coarse="extrapolated", criterion=one, throw=False)

    def loss(self, sizes: Sizes) -> float:
        """Return the fourth-power mean of the errors: the worst of them, smoothly."""
        return float((self.errors(sizes) ** 4).mean() ** 0.25)


def samples(rows: slice) -> Problem:
    """Return the shipped network with some of the comparison's samples, and of those that would follow."""
    return part(PROBLEMS["fashion-mnist-1"](rows.stop), rows)


def starts(rule: Sizes, most: int) -> list[Sizes]:
    """Return spacings to begin with, of no longer slices: the rule's, and even ones with the shorter last."""
    steps, slices, capped = sum(rule), len(rule), list(rule)
    while max(capped) > most:
        long, short = capped.index(max(capped)), capped.index(max(size for size in capped if size < most))
        capped[long], capped[short] = capped[long] - 1, capped[short] + 1
    each, longer = divmod(steps, slices)
    return [tuple(capped), tuple([each + 1] * longer + [each] * (slices - longer))]


def moves(sizes: Sizes, most: int, by: int) -> Iterator[Sizes]:
    """Yield spacings in which one slice has given steps to another."""
    for i, j in itertools.permutations(range(len(sizes)), 2):
        for n in range(by, 0, -1):
            if sizes[i] > n and sizes[j] + n <= most:
                yield tuple(s + n * ((k == j) - (k == i)) for k, s in enumerate(sizes))


def climb(search: Spacings, sizes: Sizes, most: int, by: int, minutes: float) -> Sizes:
    """Take moves, in random order, that lessen the loss, until none does or the time is up."""
    end, order = time.monotonic() + 60 * minutes, random.Random(0)
    with tqdm(desc="spacing", unit="trial") as bar:
        better = True
        while better:
            better = False
            choices = list(moves(sizes, most, by))
            order.shuffle(choices)
            for other in choices:
                if time.monotonic() > end:
                    return sizes
                bar.update()
                if search.loss(other) < search.loss(sizes):
                    sizes, better = other, True
                    bar.set_postfix_str(f"{search.loss(sizes):.2e} {sizes}")
                    break
    return sizes


def row(learned: Spacings, tested: Spacings, sizes: Sizes, name: str) -> dict[str, str]:
    """Return a line of the table."""
    return {
        "steps": str(learned.steps),
        "slices": " x ".join(map(str, learned.levels)),
        "spacing": name,
        "steps of each slice": " ".join(map(str, sizes)),
        "span": f"{tested.solve(sizes).stats.span:.0f}",
        "worst error, learned from": f"{learned.errors(sizes).max():.1e}",
        "worst error, of the comparison": f"{tested.errors(sizes).max():.1e}",
    }


def main() -> None:
    """Learn, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--levels", type=int, nargs="+", default=[10], help="slices, and slices within each")
    parser.add_argument("--most", type=int, default=3, help="steps of a slice")
    parser.add_argument("--move", type=int, default=1, help="steps that are moved at once, at most")
    parser.add_argument("--samples", type=int, default=12, help="to learn from")
    parser.add_argument("--minutes", type=float, default=10.0, help="to search for, at most")
    parser.add_argument("--kept", type=Path, default=Path("build/spacing.json"), help="lines of all runs so far")
    parser.add_argument("--write", action="store_true", help="put them into docs/results/extrapolated.md")
    given = parser.parse_args()
    if given.most * given.levels[0] < given.steps:
        parser.error(f"{given.levels[0]} slices of at most {given.most} steps do not reach over {given.steps}")
    levels = tuple(given.levels)
    learned = Spacings(samples(slice(TESTED, TESTED + given.samples)), given.steps, levels)
    tested = Spacings(samples(slice(0, TESTED)), given.steps, levels)
    rule = boundaries(tested.scheduler, levels[0], num_inference_steps=given.steps, log_snr=0.4)
    rule = tuple(b - a for a, b in itertools.pairwise(rule))
    begin = min(starts(rule, given.most), key=learned.loss)
    found = climb(learned, begin, given.most, given.move, given.minutes)
    lines: dict[str, Any] = json.loads(given.kept.read_text()) if given.kept.exists() else {}
    names = {
        "`boundaries(..., log_snr=0.4)`": rule,
        "to begin with": begin,
        f"learned, {len(learned.tried)} tried": found,
    }
    key = f"{given.steps}|{levels}|{given.most}"
    lines[key] = [row(learned, tested, sizes, name) for name, sizes in names.items()]
    given.kept.parent.mkdir(parents=True, exist_ok=True)
    given.kept.write_text(json.dumps(lines))
    about = f"{given.samples} samples to learn from. Machine: {platform.machine()}, torch {torch.__version__}."
    text = f"{markdown([line for part in lines.values() for line in part])}\n\n{about}"
    print(text)
    if given.write:
        put(DOCS / "results/extrapolated.md", "spacing", text)


if __name__ == "__main__":
    main()
