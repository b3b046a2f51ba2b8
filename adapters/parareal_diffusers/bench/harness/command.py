"""`parareal bench`: run, tabulate and draw."""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch

from parareal_diffusers.bench.cases.problems import PROBLEMS, STEPS
from parareal_diffusers.bench.harness.cells import complete
from parareal_diffusers.bench.harness.collect import Choice, Found, Store, Where, collect
from parareal_diffusers.bench.harness.methods import METHODS, RELATIVE
from parareal_diffusers.bench.harness.tables import full, summary, title, verdict, wall_ratios
from parareal_diffusers.bench.harness.timing import MOST_STEPS, measure


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Compare our settings with published parallel samplers: tables, and span against work at equal error."""
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), help="what to sample")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="numbers of DDIM steps")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="parts of methods' names")
    parser.add_argument("--samples", type=int, default=8, help="samples of each problem")
    parser.add_argument("--tolerances", type=float, nargs="+", default=list(RELATIVE), help="relative errors")
    parser.add_argument("--time", action="store_true", help="time methods, too, with 1e-2 and five runs")
    parser.add_argument("--time-most-steps", type=int, default=MOST_STEPS, help="time up to so many steps")
    parser.add_argument("--no-run", action="store_true", help="only show what the cache has")
    parser.add_argument("--short", action="store_true", help="two samples of the mixture, 25 steps: some seconds")
    parser.add_argument("--cache", type=Path, default=Path("build/bench"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of tables and pictures")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    parser.add_argument("--device", default="cpu", help="where networks and states are; give each a cache of its own")
    return run


@final
@dataclass(frozen=True)
class BenchOutcome:
    """Everything that is shown."""

    choice: Choice
    tables: Mapping[Where, Sequence[Found]]
    walls: Mapping[str, Any]

    def compact(self, tolerance: float = 1e-2) -> str:
        """Return a table a problem for one tolerance, and the verdict."""
        parts = []
        for problem in self.choice.problems:
            counts = {w.steps: self.samples(w) for w in self.tables if w.problem == problem and self.samples(w)}
            if counts:
                told = ", ".join(f"{count} at N={steps}" for steps, count in counts.items())
                table = summary(self.tables, problem, tolerance, self.choice.tolerances)
                parts.append(f"**{title(problem)}**, tolerance {tolerance:g}; samples: {told}.\n\n{table}")
        parts += wall_ratios(self.tables, self.choice.problems, self.walls)
        parts.append(verdict(self.tables, self.choice.tolerances))
        return "\n\n".join(parts)

    def whole(self) -> str:
        """Return all tables."""
        parts = []
        for where, found in self.tables.items():
            count = self.samples(where)
            for tolerance in self.choice.tolerances if count else ():
                head = f"### {title(where.problem)}, N = {where.steps}, tolerance {tolerance:g}"
                parts.append(f"{head}\n\n{count} samples.\n\n{full(where, found, tolerance, count, self.walls)}")
        return "\n\n".join(parts)

    def samples(self, where: Where) -> int:
        """Return how many samples of a table are complete."""
        return complete(self.tables[where], self.choice.tolerances)

    def pictures(self, folder: Path) -> list[Path]:
        """Draw a picture a problem, and return the files; none without matplotlib."""
        if find_spec("matplotlib") is None:
            return []
        from parareal_diffusers.bench.harness.frontier import picture

        files = []
        for problem in self.choice.problems:
            if any(self.samples(w) for w in self.tables if w.problem == problem):
                files.append(folder / f"frontier-{problem}.png")
                picture(self.tables, problem, self.choice.tolerances).savefig(files[-1], dpi=90)
        return files


def run(options: argparse.Namespace) -> int:
    """Print the compact tables, and write all of them and the pictures to a folder."""
    outcome = outcome_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    files = outcome.pictures(options.out)
    pictures = "\n\n".join(f"![{f.stem}]({f.name})" for f in files)
    page = options.out / "bench.md"
    machine, compact = about(outcome.choice.device), outcome.compact()
    page.write_text(f"# Bench\n\n{machine}\n\n{compact}\n\n{pictures}\n\n{outcome.whole()}\n")
    print(f"\n{compact}\n\n{machine}\n\nreport: {', '.join(map(str, [page, *files]))}")
    return 0


def outcome_of(options: argparse.Namespace) -> BenchOutcome:
    """Run what is asked for and not in the cache."""
    choice = _choice(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    store = Store(options.cache)
    tables = collect(choice, store, run=not options.no_run)
    time = options.time and not options.no_run
    walls = measure(choice, store, options.time_most_steps) if time else store.note("walls")
    return BenchOutcome(choice, tables, walls)


def _choice(options: argparse.Namespace) -> Choice:
    device = device_named(options.device)
    if options.short:
        return Choice(["mixture"], [25], list(METHODS), 2, [1e-2], device)
    if any(not t >= min(RELATIVE) for t in options.tolerances):
        raise ValueError(f"--tolerances must be at least {min(RELATIVE):g}, where oracles stop looking")
    if any(not 8 <= n <= 1000 for n in options.steps):
        raise ValueError("--steps must be between 8 and 1000")
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {options.samples}")
    methods = [name for name in METHODS if any(part in name for part in options.methods)]
    if not methods:
        raise ValueError(f"--methods must be parts of {', '.join(METHODS)}")
    return Choice(options.problems, options.steps, methods, options.samples, options.tolerances, device)


def device_named(name: str) -> torch.device:
    """Return a device that is there; float32 is float32 on it, or calls of different sizes would differ by 1e-3."""
    try:
        found = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device must be one that torch has here, as cpu or cuda, not {name}: {error}") from error
    if found.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return found


def about(device: torch.device) -> str:
    """Name the machine."""
    card = f"{torch.cuda.get_device_name(device)}, float32; " if device.type == "cuda" else ""
    return f"Machine: {card}{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}."
