"""The least span and work of our settings on the trained network, over eight samples and every number of steps.

    python benchmarks/diffusion/records.py            # an hour of one core without a cache; resumes
    python benchmarks/diffusion/records.py --write    # and puts the table into docs/results/benchmarks.md

The comparison (`compare.py`) runs all methods on as many samples as its slowest can be afforded; this runs the settings
of ours with little work and with the least span on eight, on which they were chosen, and on eight others, in the same
store, with the same problems, noise and stops.
"""

import argparse
from pathlib import Path

from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import STEPS
from parareal_diffusers.bench.harness.cells import Cell, cell, complete
from parareal_diffusers.bench.harness.collect import Choice, Found, Store, collect
from parareal_diffusers.bench.harness.tables import iterations

from benchmarks.tools.pages import DOCS, put

PROBLEM = "fashion-mnist-1"
SETTINGS = {1e-2: ("", ", least span"), 1e-3: (", speculating",)}
"""by tolerance, the ends of their names"""


def row(steps: int, tolerance: float, found: Found, first: int, more: int) -> dict[str, str]:
    """Return a line of the table: of the first samples, and of others."""
    oracle, run = (cell(found, rule, tolerance, first) for rule in ("oracle", "estimate"))
    rest = Found(found.method, {(i - first, stop): runs for (i, stop), runs in found.runs.items() if i >= first})
    others = cell(rest, "estimate", tolerance, more) if more else None
    return {
        "tolerance": f"{tolerance:g}",
        "steps": f"{steps}",
        "setting": found.method.name.removeprefix("ours: "),
        "samples": f"{first} and {more}",
        "oracle: span, work/N": _told(oracle, steps),
        "as run: span, work/N": _told(run, steps),
        "iterations": "-" if run is None else iterations(run),
        "worst error": "-" if run is None else f"{run.worst:.1e}",
        "as run on the others": _told(others, steps),
        "worst error there": "-" if others is None else f"{others.worst:.1e}",
    }


def _told(found: Cell | None, steps: int) -> str:
    return "-" if found is None else f"{found.span:.1f}, {found.work / steps:.2f}"


def main() -> None:
    """Run what is missing, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--samples", type=int, default=8, help="and as many others")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="where runs are kept")
    parser.add_argument("--no-run", action="store_true", help="only show what the cache has")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/benchmarks.md")
    given = parser.parse_args()
    lines = []
    for tolerance, ends in SETTINGS.items():
        names = [f"ours: own steps extrapolated{end}" for end in ends]
        choice = Choice([PROBLEM], given.steps, names, 2 * given.samples, (tolerance,))
        tables = collect(choice, Store(given.cache), run=not given.no_run)
        done = [(w.steps, one, complete([one], (tolerance,))) for w, found in tables.items() for one in found]
        lines += [
            row(steps, tolerance, one, min(count, given.samples), max(0, count - given.samples))
            for steps, one, count in done
            if count
        ]
    table = markdown(lines)
    print(table)
    if given.write:
        put(DOCS / "results/benchmarks.md", "records", table)


if __name__ == "__main__":
    main()
