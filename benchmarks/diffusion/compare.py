"""Our settings and published parallel samplers on the same problems, noise and stop rules.

    python benchmarks/diffusion/compare.py [--write] [--short] [--time] [--no-run]
        [--problems ..] [--steps ..] [--samples ..]

`parareal bench`, whose options it has; `--write` puts the tables and pictures into docs/results/benchmarks.md,
docs/results/benchmarks-full.md and docs/images. Runs are kept in build/bench, so an interrupted run continues.
Without a cache everything takes some hours on one core.
"""

import argparse
import sys

from parareal_diffusers.bench.harness.command import about, command, outcome_of

from benchmarks.tools.pages import DOCS, put

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = command(parser)
    parser.add_argument("--write", action="store_true", help="write tables and pictures into the documentation")
    given = parser.parse_args()
    if not given.write:
        sys.exit(run(given))
    outcome = outcome_of(given)
    pictures = [f"![Span against work, {f.stem}](images/{f.name})" for f in outcome.pictures(DOCS / "images")]
    machine = about(outcome.choice.device)
    put(DOCS / "results/benchmarks.md", "compare", "\n\n".join([outcome.compact(), *pictures, machine]))
    put(DOCS / "results/benchmarks-full.md", "compare", f"{outcome.whole()}\n\n{machine}")
