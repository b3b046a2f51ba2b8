"""Overhead of queues: many slices of a plain function, and many samples with a bound on the batch.

    python benchmarks/engine/queues.py
    python benchmarks/engine/queues.py --slices 1000 --runs 3

Part 1: `Iterations(2)` over many slices of a plain function (10 or 100 explicit Euler steps of an oscillator in NumPy;
the coarse function makes 4), compared with a bare loop of the same calls. Both are timed in turn; their difference per
call is the time of the engine.

Part 2: engine time per evaluation with `max_batch=4`, a network that takes no time and states of 16 kB, for rising
numbers of samples, relative to the first number. Every round runs all numbers of samples in turn.

The script uses public names only, so it also measures other commits: put their checkout first on PYTHONPATH.
"""

import argparse
import platform
import statistics
import time

import numpy as np

import parareal


def make_euler(steps):
    """Return a plain function of explicit Euler steps."""

    def propagate(u, t0, t1):
        h = (t1 - t0) / steps
        for _ in range(steps):
            u = u + h * np.array([u[1], -u[0]])
        return u

    return propagate


class Free(parareal.Stepper):
    """A step whose evaluation takes no time."""

    def __init__(self):
        self.evaluate = lambda state, where: state

    def step(self, state, memory, start, stop):
        """Advance every row by one step, with one evaluation."""
        value = yield state, start
        return value * 0.999, memory


def measure(function):
    """Return the seconds of a call."""
    start_time = time.perf_counter()
    function()
    return time.perf_counter() - start_time


def format_spread(values, form="{:.2f}"):
    """Return the median, the least and the largest value as text."""
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def compare_many_slices(slices, steps, runs):
    """Print the results of part 1."""
    fine, coarse, start = make_euler(steps), make_euler(4), np.array([1.0, 0.0])
    times = np.linspace(0.0, 10.0, slices + 1)
    calls = []

    def record_calls(function):
        def record(u, t0, t1):
            calls.append((function, u, t0, t1))
            return function(u, t0, t1)

        return record

    parareal.solve(record_calls(fine), record_calls(coarse), start, times, criterion=parareal.Iterations(2))

    def run_bare():
        for function, u, t0, t1 in calls:
            function(u, t0, t1)

    ratios, overheads, alone = [], [], 0.0
    for _ in range(runs):
        alone = measure(run_bare)
        wall = measure(lambda: parareal.solve(fine, coarse, start, times, criterion=parareal.Iterations(2)))
        ratios.append(wall / alone)
        overheads.append((wall - alone) / len(calls) * 1e6)
    call = f"calls of {alone / len(calls) * 1e6:.0f} us in the mean"
    print(f"{slices} slices, {len(calls)} {call}: {format_spread(ratios)} times the bare loop,")
    print(f"    {format_spread(overheads, '{:.0f}')} us per call for the engine")


def compare_many_samples(counts, runs):
    """Print the results of part 2."""
    stepper, nodes = Free(), range(0, 97, 12)
    executor = parareal.BatchedExecutor(max_batch=4)
    times = {count: [] for count in counts}
    for _ in range(runs):
        for count in counts:
            states = np.random.default_rng(0).standard_normal((count, 2048))
            arguments = parareal.Steps(stepper), parareal.Steps(stepper, 1), states, nodes
            stats = parareal.solve(*arguments, batch_dims=1, criterion=parareal.Iterations(2), executor=executor).stats
            times[count].append(stats.wall_time / stats.work * 1e6)
    for count in counts:
        ratios = [a / b for a, b in zip(times[count], times[counts[0]], strict=True)]
        microseconds = format_spread(times[count], "{:.0f}")
        print(f"max_batch=4, {count:3} samples: {microseconds} us per evaluation, {format_spread(ratios)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=5000)
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, {options.runs} runs: median (least to largest)")
    for steps in (10, 100):
        compare_many_slices(options.slices, steps, options.runs)
    compare_many_samples(options.samples, options.runs)
