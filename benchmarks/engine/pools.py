"""Speed-up of plain functions by a pool of processes: SciPy's adaptive solver as fine and coarse propagator.

    python benchmarks/engine/pools.py

A chain of damped pendulums is solved in three ways, in turn: sequentially, by Parareal in this process, and by
Parareal with the fine propagations in a pool. The table shows the wall time of the first over that of the other two:
medians, with the smallest and the largest ratio.
"""

import argparse
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from parareal_diffusers._commands.report import markdown
from scipy.integrate import solve_ivp

import parareal


def chain(t: float, y: np.ndarray, masses: int) -> np.ndarray:
    """Return the right-hand side of damped pendulums along a line, coupled by springs and driven at one end."""
    angle, speed = y.reshape(2, masses)
    wide = np.concatenate([[np.sin(t)], angle, angle[-1:]])
    return np.concatenate([speed, wide[2:] - 2 * angle + wide[:-2] - np.sin(angle) - 0.5 * speed])


def propagate(u: np.ndarray, t0: float, t1: float, rtol: float, masses: int) -> parareal.Costed:
    """Return the state at t1; its cost is the number of evaluations of the right-hand side."""
    end = solve_ivp(chain, (t0, t1), u, rtol=rtol, atol=rtol, args=(masses,))
    return parareal.Costed(end.y[:, -1], end.nfev)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--slices", type=int, nargs="*", default=[4, 8, 16])
    args = parser.parse_args()
    masses, end = 20, 40.0
    start = np.concatenate([np.linspace(-1, 2, masses), np.zeros(masses)])
    fine, coarse = (partial(propagate, rtol=r, masses=masses) for r in (1e-12, 1e-4))
    rows = []
    with ProcessPoolExecutor(args.workers) as pool:
        list(pool.map(time.sleep, [0.2] * args.workers))  # starts all workers before anything is timed
        for slices in args.slices:
            times, seconds, solution = np.linspace(0, end, slices + 1), [], None
            reference = parareal.sequential(fine, start, times)
            for _ in range(args.runs):
                clock = [time.perf_counter()]
                parareal.sequential(fine, start, times)
                clock.append(time.perf_counter())
                parareal.solve(fine, coarse, start, times)
                clock.append(time.perf_counter())
                solution = parareal.solve(fine, coarse, start, times, executor=pool)
                clock.append(time.perf_counter())
                seconds.append(np.diff(clock))
            assert solution is not None
            here, there = ([s[0] / s[i] for s in seconds] for i in (1, 2))
            rows.append(
                {
                    "slices": str(slices),
                    "iterations": str(solution.iterations),
                    "span / sequential": f"{solution.stats.span / solution.stats.sequential_span:.2f}",
                    "sequential": f"{statistics.median(s[0] for s in seconds):.2f} s",
                    "ratio, this process": f"{statistics.median(here):.2f} ({min(here):.2f} to {max(here):.2f})",
                    f"ratio, {args.workers} processes": f"{statistics.median(there):.2f} "
                    f"({min(there):.2f} to {max(there):.2f})",
                    "difference": f"{np.abs(solution.final_state - reference.final_state).max():.0e}",
                }
            )
    print(markdown(rows))
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {args.runs} runs of each in turn")


if __name__ == "__main__":
    main()
