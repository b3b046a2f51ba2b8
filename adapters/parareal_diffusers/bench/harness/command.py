"""The subcommand `parareal bench`: run the comparison, print its tables and draw its figures.

    parareal bench --short                 # two samples of the mixture, 25 steps; some seconds
    parareal bench --problems maze --steps 100
    parareal bench --no-run                # only tabulate cached runs

Prints the summary tables, and writes them with all other tables and one figure per problem into `--out`. Without a
cache all problems, methods and steps take some hours on one core.
"""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch

from parareal_diffusers.bench.cases.problems import PROBLEMS, STEPS
from parareal_diffusers.bench.harness.cells import count_complete_samples
from parareal_diffusers.bench.harness.collect import MethodRuns, RunSelection, RunStore, TableKey, collect
from parareal_diffusers.bench.harness.methods import METHODS, TOLERANCES
from parareal_diffusers.bench.harness.tables import (
    format_full_table,
    format_speedups,
    format_summary,
    format_verdict,
    problem_title,
)
from parareal_diffusers.bench.harness.timing import MAX_TIMED_STEPS, measure_speedups


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Compare our settings with published parallel samplers: tables, and span against work at equal error."""
    # The first line of the docstring is the subcommand's help text.
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), help="what to sample")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of DDIM steps")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="methods, by parts of their names")
    parser.add_argument("--samples", type=int, default=8, help="samples per problem")
    parser.add_argument("--tolerances", type=float, nargs="+", default=list(TOLERANCES), help="relative errors")
    parser.add_argument("--time", action="store_true", help="also time the methods: tolerance 1e-2, five runs each")
    parser.add_argument(
        "--time-max-steps", type=int, default=MAX_TIMED_STEPS, help="the largest number of steps that is timed"
    )
    parser.add_argument("--no-run", action="store_true", help="only show cached runs")
    parser.add_argument("--short", action="store_true", help="two samples of the mixture, 25 steps: some seconds")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="folder of the cached runs")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of tables and figures")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    parser.add_argument("--device", default="cpu", help="device of networks and states; use one cache per device")
    return run


@final
@dataclass(frozen=True)
class BenchOutcome:
    """The results of a comparison: its selection, the runs by table, and speed-ups."""

    selection: RunSelection
    tables: Mapping[TableKey, Sequence[MethodRuns]]
    speedups: Mapping[str, Any]
    """as of `measure_speedups`; empty if nothing has been timed"""

    def format_summary(self, tolerance: float = 1e-2) -> str:
        """Return one table per problem for one tolerance, the tables of speed-ups, and the verdict."""
        parts = []
        for problem in self.selection.problems:
            counts = {
                k.steps: self.count_samples(k) for k in self.tables if k.problem == problem and self.count_samples(k)
            }
            if counts:
                listing = ", ".join(f"{count} at N={steps}" for steps, count in counts.items())
                table = format_summary(self.tables, problem, tolerance, self.selection.tolerances)
                parts.append(f"**{problem_title(problem)}**, tolerance {tolerance:g}; samples: {listing}.\n\n{table}")
        parts += format_speedups(self.tables, self.selection.problems, self.speedups)
        parts.append(format_verdict(self.tables, self.selection.tolerances))
        return "\n\n".join(parts)

    def format_all(self) -> str:
        """Return one table per problem, number of steps and tolerance, with all numbers."""
        parts = []
        for key, results in self.tables.items():
            count = self.count_samples(key)
            for tolerance in self.selection.tolerances if count else ():
                head = f"### {problem_title(key.problem)}, N = {key.steps}, tolerance {tolerance:g}"
                table = format_full_table(key, results, tolerance, count, self.speedups)
                parts.append(f"{head}\n\n{count} samples.\n\n{table}")
        return "\n\n".join(parts)

    def count_samples(self, key: TableKey) -> int:
        """Return the number of samples of a table that all methods have completed."""
        return count_complete_samples(self.tables[key], self.selection.tolerances)

    def draw_figures(self, folder: Path) -> list[Path]:
        """Draw one figure per problem and return the files; none without matplotlib."""
        if find_spec("matplotlib") is None:
            return []
        # Matplotlib is an optional requirement of the package.
        from parareal_diffusers.bench.harness.frontier import plot_frontiers

        files = []
        for problem in self.selection.problems:
            if any(self.count_samples(k) for k in self.tables if k.problem == problem):
                files.append(folder / f"frontier-{problem}.png")
                plot_frontiers(self.tables, problem, self.selection.tolerances).savefig(files[-1], dpi=90)
        return files


def run(options: argparse.Namespace) -> int:
    """Print the summary tables, and write all tables and figures to a folder."""
    outcome = compute_outcome(options)
    options.out.mkdir(parents=True, exist_ok=True)
    files = outcome.draw_figures(options.out)
    figures = "\n\n".join(f"![{f.stem}]({f.name})" for f in files)
    page = options.out / "bench.md"
    machine, summary = describe_machine(outcome.selection.device), outcome.format_summary()
    page.write_text(f"# Bench\n\n{machine}\n\n{summary}\n\n{figures}\n\n{outcome.format_all()}\n")
    print(f"\n{summary}\n\n{machine}\n\nreport: {', '.join(map(str, [page, *files]))}")
    return 0


def compute_outcome(options: argparse.Namespace) -> BenchOutcome:
    """Make the selected runs that are not cached, and return all results."""
    selection = _parse_selection(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    store = RunStore(options.cache)
    tables = collect(selection, store, run=not options.no_run)
    time = options.time and not options.no_run
    speedups = measure_speedups(selection, store, options.time_max_steps) if time else store.update_notes("walls")
    return BenchOutcome(selection, tables, speedups)


def _parse_selection(options: argparse.Namespace) -> RunSelection:
    """Check the options and return the selection; errors are raised before any run."""
    device = resolve_device(options.device)
    if options.short:
        return RunSelection(["mixture"], [25], list(METHODS), 2, [1e-2], device)
    # Oracles stop at the smallest tolerance of the tables, so their runs say nothing of smaller ones.
    if any(not t >= min(TOLERANCES) for t in options.tolerances):
        raise ValueError(
            f"--tolerances must be at least {min(TOLERANCES):g}, where oracle runs end, but were {options.tolerances}"
        )
    if any(not 8 <= n <= 1000 for n in options.steps):
        raise ValueError(f"--steps must be between 8 and 1000, but were {options.steps}")
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, but was {options.samples}")
    methods = [name for name in METHODS if any(part in name for part in options.methods)]
    if not methods:
        raise ValueError(f"--methods must be parts of {', '.join(METHODS)}, but were {options.methods}")
    return RunSelection(options.problems, options.steps, methods, options.samples, options.tolerances, device)


def resolve_device(name: str) -> torch.device:
    """Return the device of a name, and turn TF32 off for convolutions on it.

    With TF32, calls of different sizes would differ by 1e-3.

    Raises:
        ValueError: if torch has no such device on this machine.
    """
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device must be a device that torch has on this machine, such as cpu or cuda, not {name}: {error}"
        ) from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def describe_machine(device: torch.device) -> str:
    """Return a sentence that names device, processor, threads and torch's version."""
    card = f"{torch.cuda.get_device_name(device)}, float32; " if device.type == "cuda" else ""
    return f"Machine: {card}{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}."
