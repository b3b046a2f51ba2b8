"""Comparison of our settings with published parallel samplers on the same problems, noise and stop rules.

    python benchmarks/diffusion/compare.py --short      # two samples of the mixture, 25 steps: some seconds
    python benchmarks/diffusion/compare.py --problems maze --steps 25 100 --samples 2
    python benchmarks/diffusion/compare.py --no-run     # only tabulate cached runs
    python benchmarks/diffusion/compare.py --time --write

The same as `parareal bench`, with its options. `--write` puts the tables into docs/results/benchmarks.md and
docs/results/benchmarks-full.md, and the figures into docs/images. Runs are cached in build/bench, so an interrupted
comparison continues. Without a cache all of it takes some hours on one core.
"""

import argparse
import sys

from parareal_diffusers.bench.harness.command import command, compute_outcome, describe_machine

from benchmarks.tools.pages import DOCS, put

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = command(parser)
    parser.add_argument("--write", action="store_true", help="write tables and figures into the documentation")
    options = parser.parse_args()
    if not options.write:
        sys.exit(run(options))
    outcome = compute_outcome(options)
    figures = [f"![Span against work, {f.stem}](../images/{f.name})" for f in outcome.draw_figures(DOCS / "images")]
    machine = describe_machine(outcome.selection.device)
    put(DOCS / "results/benchmarks.md", "compare", "\n\n".join([outcome.format_summary(), *figures, machine]))
    put(DOCS / "results/benchmarks-full.md", "compare", f"{outcome.format_all()}\n\n{machine}")
