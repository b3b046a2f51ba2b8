"""Least span and work of our settings on the trained network, over eight samples and every number of steps.

    python benchmarks/diffusion/records.py            # an hour of one core without a cache; resumes
    python benchmarks/diffusion/records.py --no-run   # only tabulate cached runs
    python benchmarks/diffusion/records.py --write    # also writes the table into docs/results/benchmarks.md

The comparison (`compare.py`) can afford fewer samples where its slowest method takes long. This script runs only three
of our settings: at a tolerance of 1e-2 the one with little work and the one with the least span, and at 1e-3 the one
that speculates. They are run on the eight samples for which they were chosen and on eight others, with the same store,
problems, noise and stop rules.
"""

import argparse
from pathlib import Path

from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.cases.problems import STEPS
from parareal_diffusers.bench.harness.cells import RunSummary, count_complete_samples, summarize
from parareal_diffusers.bench.harness.collect import MethodRuns, RunSelection, RunStore, collect
from parareal_diffusers.bench.harness.tables import format_iterations

from benchmarks.tools.pages import DOCS, put

PROBLEM = "fashion-mnist-1"
SETTINGS = {1e-2: ("", ", least span"), 1e-3: (", speculating",)}
"""suffixes of the names of the settings, by tolerance"""


def format_row(steps: int, tolerance: float, result: MethodRuns, first: int, more: int) -> dict[str, str]:
    """Return one row of the table, for the first samples and for `more` others."""
    oracle, run = (summarize(result, rule, tolerance, first) for rule in ("oracle", "estimate"))
    # The others get the numbers from 0 on, because `summarize` reads the first samples of a result.
    rest = MethodRuns(result.method, {(i - first, stop): runs for (i, stop), runs in result.runs.items() if i >= first})
    others = summarize(rest, "estimate", tolerance, more) if more else None
    return {
        "tolerance": f"{tolerance:g}",
        "steps": f"{steps}",
        "setting": result.method.name.removeprefix("ours: "),
        "samples": f"{first} and {more}",
        "oracle: span, work/N": _format_costs(oracle, steps),
        "as run: span, work/N": _format_costs(run, steps),
        "iterations": "-" if run is None else format_iterations(run),
        "worst error": "-" if run is None else f"{run.worst_error:.1e}",
        "as run, other samples": _format_costs(others, steps),
        "worst error, other samples": "-" if others is None else f"{others.worst_error:.1e}",
    }


def _format_costs(summary: RunSummary | None, steps: int) -> str:
    return "-" if summary is None else f"{summary.span:.1f}, {summary.work / steps:.2f}"


def main() -> None:
    """Make the missing runs, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of DDIM steps")
    parser.add_argument("--samples", type=int, default=8, help="samples; the same number of others is run, too")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="folder of the cached runs")
    parser.add_argument("--no-run", action="store_true", help="only show cached runs")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/benchmarks.md")
    options = parser.parse_args()
    rows = []
    for tolerance, suffixes in SETTINGS.items():
        names = [f"ours: own steps extrapolated{suffix}" for suffix in suffixes]
        selection = RunSelection([PROBLEM], options.steps, names, 2 * options.samples, (tolerance,))
        tables = collect(selection, RunStore(options.cache), run=not options.no_run)
        complete = [
            (key.steps, result, count_complete_samples([result], (tolerance,)))
            for key, results in tables.items()
            for result in results
        ]
        rows += [
            format_row(steps, tolerance, result, min(count, options.samples), max(0, count - options.samples))
            for steps, result, count in complete
            if count
        ]
    table = markdown(rows)
    print(table)
    if options.write:
        put(DOCS / "results/benchmarks.md", "records", table)


if __name__ == "__main__":
    main()
