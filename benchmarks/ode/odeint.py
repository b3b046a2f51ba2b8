"""Wall time of `parareal_torchdiffeq.odeint` against `torchdiffeq.odeint`, on the same grid.

    python benchmarks/ode/odeint.py                              # every problem with the slices that served it best
    python benchmarks/ode/odeint.py --slices 64 128 256 --only lorenz
    python benchmarks/ode/odeint.py --slices auto                # what it takes by itself; 1 is torchdiffeq's own loop
    python benchmarks/ode/odeint.py --levels 128 4 --only van-der-pol
    python benchmarks/ode/odeint.py --coarse euler --runs 9

Method rk4, float64, t = [0, T], `step_size` = T / steps, default tolerances. The two are run in turn; the ratio is
the median over the runs of torchdiffeq's wall time by ours, with the smallest and the largest. The first three problems
have small states. The others show where it loses: undamped oscillations over many periods, where the phases of coarse
steps are wrong, and a state so large that one row keeps the machine busy, where all work counts.
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
    """Lorenz 1963, with his constants."""
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def lotka_volterra(t: Tensor, u: Tensor) -> Tensor:
    """Predator and prey."""
    x, y = u.unbind(-1)
    return torch.stack([1.5 * x - x * y, x * y - 3 * y], -1)


def van_der_pol(t: Tensor, u: Tensor) -> Tensor:
    """Relaxation oscillations, mu = 2."""
    x, v = u.unbind(-1)
    return torch.stack([v, 2 * (1 - x * x) * v - x], -1)


def oscillator(t: Tensor, u: Tensor) -> Tensor:
    """Undamped, of period one."""
    x, v = u.unbind(-1)
    return 2 * torch.pi * torch.stack([v, -x], -1)


def ring(t: Tensor, u: Tensor) -> Tensor:
    """Diffusion and growth on a ring of cells."""
    return 0.2 * (u.roll(1, -1) - 2 * u + u.roll(-1, -1)) + u - u**3


@dataclass(frozen=True)
class Case:
    """A problem and the slices that served it best."""

    func: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    end: float
    steps: int
    slices: int


COLUMNS = ("iterations", "span", "work", "torchdiffeq", "parareal", "ratio", "relative difference")


def _numbers(*x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


CASES = {
    "lorenz": Case(lorenz, _numbers(1, 1, 1), 5.0, 8192, 160),
    "lotka-volterra": Case(lotka_volterra, _numbers(1, 1), 20.0, 16384, 240),
    "van-der-pol": Case(van_der_pol, _numbers(2, 0), 20.0, 65536, 352),
    "oscillator": Case(oscillator, _numbers(1, 0), 200.0, 16384, 2048),
    "short": Case(van_der_pol, _numbers(2, 0), 1.0, 32, 8),
    "ring": Case(ring, torch.linspace(-1, 1, 100_000, dtype=torch.float64), 2.0, 256, 32),
}


def compare(
    name: str, case: Case, slices: int | str | tuple[int, ...], coarse: str, runs: int, bar: Any
) -> dict[str, str]:
    """Return a row of the table."""
    t, options = _numbers(0, case.end), {"step_size": case.end / case.steps}
    layout: dict[str, Any] = {"levels": slices} if isinstance(slices, tuple) else {"slices": slices}
    shown = " x ".join(map(str, slices)) if isinstance(slices, tuple) else str(slices)
    given: dict[str, Any] = {"method": "rk4", "options": options, **layout, "coarse": coarse}
    seconds: list[tuple[float, float]] = []
    whole: Any = case.y0
    try:  # untimed: what was found by calls and times of func is kept for those that follow
        for _ in range(PATIENCE if slices == "auto" else 1):
            odeint(case.func, case.y0, t, **given)
        ys, solution = odeint(case.func, case.y0, t, **given, return_solution=True)
    except parareal.PararealError:  # a coarse step too long for its method
        return {"problem": name, "steps": str(case.steps), "slices": shown} | dict.fromkeys(COLUMNS, "fails")
    for _ in range(runs):
        began = time.perf_counter()
        with torch.no_grad():
            whole = torchdiffeq.odeint(case.func, case.y0, t, method="rk4", options=options)
        between = time.perf_counter()
        odeint(case.func, case.y0, t, **given)
        seconds.append((between - began, time.perf_counter() - between))
        bar.update()
    theirs, ours = whole[-1], ys[-1]
    ratios = [a / b for a, b in seconds]
    work = solution.stats.work / solution.stats.sequential_work
    return {
        "problem": name,
        "steps": str(case.steps),
        "slices": f"auto: {len(solution.boundaries) - 1}" if slices == "auto" else shown,
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
    parser.add_argument("--only", choices=list(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    levels = [tuple(given.levels)] if given.levels else []
    jobs = [(name, CASES[name], m) for name in given.only for m in levels or given.slices or [CASES[name].slices]]
    with tqdm(total=len(jobs) * given.runs, unit="pair") as bar:
        rows = [compare(*job, given.coarse, given.runs, bar) for job in jobs]
    print(markdown(rows))
    print(
        f"\n{platform.machine()}, {given.threads} thread(s), torch {torch.__version__}, "
        f"parareal {parareal.__version__}, {given.runs} runs of each in turn"
    )
