"""Wall time of `parareal_torchdiffeq.odeint` against `torchdiffeq.odeint`, on the same grid.

    python benchmarks/ode/odeint.py                              # every problem with its best number of slices
    python benchmarks/ode/odeint.py --slices 64 128 256 --only lorenz
    python benchmarks/ode/odeint.py --slices auto                # automatic number; 1 means torchdiffeq's own loop
    python benchmarks/ode/odeint.py --levels 128 4 --only van-der-pol
    python benchmarks/ode/odeint.py --coarse euler --runs 9

Method rk4, float64, t = [0, T], `step_size` = T / steps, default tolerances. Both solvers run in turn. The ratio is
torchdiffeq's wall time divided by ours: median over the runs, smallest and largest. The first three problems have small
states. The others show losses: undamped oscillations over many periods, where the phases of coarse steps are wrong; a
short interval; and a state so large that one row occupies the machine, so that all work counts.

The table is published in docs/results/odes.md.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchdiffeq
from parareal_diffusers._commands.report import markdown
from parareal_torchdiffeq import odeint
from torch import Tensor
from tqdm.auto import tqdm

import parareal
from parareal.driver import PATIENCE


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of the Lorenz system (Lorenz 1963), with his constants."""
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def lotka_volterra(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of the Lotka-Volterra equations of prey and predators."""
    x, y = u.unbind(-1)
    return torch.stack([1.5 * x - x * y, x * y - 3 * y], -1)


def van_der_pol(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of the van der Pol oscillator with mu = 2."""
    x, v = u.unbind(-1)
    return torch.stack([v, 2 * (1 - x * x) * v - x], -1)


def oscillator(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of the undamped harmonic oscillator of period one."""
    x, v = u.unbind(-1)
    return 2 * torch.pi * torch.stack([v, -x], -1)


def ring(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of a reaction-diffusion equation on a ring of cells."""
    return 0.2 * (u.roll(1, -1) - 2 * u + u.roll(-1, -1)) + u - u**3


@dataclass(frozen=True)
class OdeBenchmark:
    """A problem on [0, end], its number of steps, and the number of slices that was fastest for it."""

    func: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    end: float
    steps: int
    slices: int


COLUMNS = ("iterations", "span", "work", "torchdiffeq", "parareal", "ratio", "relative difference")


def _float64_tensor(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


BENCHMARKS = {
    "lorenz": OdeBenchmark(lorenz, _float64_tensor(1, 1, 1), 5.0, 8192, 160),
    "lotka-volterra": OdeBenchmark(lotka_volterra, _float64_tensor(1, 1), 20.0, 16384, 240),
    "van-der-pol": OdeBenchmark(van_der_pol, _float64_tensor(2, 0), 20.0, 65536, 352),
    "oscillator": OdeBenchmark(oscillator, _float64_tensor(1, 0), 200.0, 16384, 2048),
    "short": OdeBenchmark(van_der_pol, _float64_tensor(2, 0), 1.0, 32, 8),
    "ring": OdeBenchmark(ring, torch.linspace(-1, 1, 100_000, dtype=torch.float64), 2.0, 256, 32),
}


def compare(
    name: str, benchmark: OdeBenchmark, slices: int | str | tuple[int, ...], coarse: str, runs: int, bar: Any
) -> dict[str, str]:
    """Run both solvers on a problem and return a row of the table.

    Args:
        name: name of the problem.
        benchmark: the problem.
        slices: number of slices or `"auto"`; a tuple holds the numbers of nested levels.
        coarse: coarse propagator, as for `odeint`.
        runs: timed runs of each solver.
        bar: progress bar, advanced by one per pair of runs.
    """
    t, options = _float64_tensor(0, benchmark.end), {"step_size": benchmark.end / benchmark.steps}
    layout: dict[str, Any] = {"levels": slices} if isinstance(slices, tuple) else {"slices": slices}
    label = " x ".join(map(str, slices)) if isinstance(slices, tuple) else str(slices)
    arguments: dict[str, Any] = {"method": "rk4", "options": options, **layout, "coarse": coarse}
    seconds: list[tuple[float, float]] = []
    reference: Any = benchmark.y0
    try:
        # Untimed calls first: with "auto" the advisor times func in the first one, and gives up slices only after
        # PATIENCE parallel solves that were slower. What it has learned applies to the timed calls.
        for _ in range(PATIENCE if slices == "auto" else 1):
            odeint(benchmark.func, benchmark.y0, t, **arguments)
        ys, solution = odeint(benchmark.func, benchmark.y0, t, **arguments, return_solution=True)
    except parareal.PararealError:  # a coarse step is too long to be stable
        return {"problem": name, "steps": str(benchmark.steps), "slices": label} | dict.fromkeys(COLUMNS, "fails")
    for _ in range(runs):
        start = time.perf_counter()
        with torch.no_grad():
            reference = torchdiffeq.odeint(benchmark.func, benchmark.y0, t, method="rk4", options=options)
        middle = time.perf_counter()
        odeint(benchmark.func, benchmark.y0, t, **arguments)
        seconds.append((middle - start, time.perf_counter() - middle))
        bar.update()
    theirs, ours = reference[-1], ys[-1]
    ratios = [a / b for a, b in seconds]
    work = solution.stats.work / solution.stats.sequential_work
    return {
        "problem": name,
        "steps": str(benchmark.steps),
        "slices": f"auto: {len(solution.boundaries) - 1}" if slices == "auto" else label,
        "iterations": str(solution.iterations),
        "span": f"{solution.stats.span:.0f}",
        "work": f"{work:.1f} x",
        "torchdiffeq": f"{statistics.median(a for a, _ in seconds) * 1e3:.4g} ms",
        "parareal": f"{statistics.median(b for _, b in seconds) * 1e3:.4g} ms",
        "ratio": f"{statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})",
        "relative difference": f"{float((ours - theirs).norm() / theirs.norm()):.0e}",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--slices", type=lambda x: x if x == "auto" else int(x), nargs="*", help="numbers of slices to try, or auto"
    )
    parser.add_argument("--levels", type=int, nargs="*", help="slices of nested levels, outermost first")
    parser.add_argument("--coarse", default="auto")
    parser.add_argument("--only", choices=list(BENCHMARKS), nargs="*", default=list(BENCHMARKS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    levels = [tuple(arguments.levels)] if arguments.levels else []
    jobs = [
        (name, BENCHMARKS[name], m)
        for name in arguments.only
        for m in levels or arguments.slices or [BENCHMARKS[name].slices]
    ]
    with tqdm(total=len(jobs) * arguments.runs, unit="pair") as bar:
        rows = [compare(*job, arguments.coarse, arguments.runs, bar) for job in jobs]
    print(markdown(rows))
    print(
        f"\n{platform.machine()}, {arguments.threads} thread(s), torch {torch.__version__}, "
        f"parareal {parareal.__version__}, {arguments.runs} runs of each in turn"
    )
