"""The cost of what waits: many slices of a plain function, many samples with a bound on the batch.

    python benchmarks/engine/queues.py
    python benchmarks/engine/queues.py --slices 1000 --runs 3

Part 1: `Iterations(2)` over many slices of a plain function (10 or 100 explicit Euler steps of an oscillator, NumPy;
the coarse function makes 4), against a bare loop of the same calls. The two are timed in turn; their difference per
call is the engine's own time.

Part 2: engine time per evaluation with `max_batch=4`, a free network and states of 16 kB, for more and more samples,
in units of that for the first number of samples. Rounds go over all numbers of samples in turn.

Both use public names only, so the script also measures other commits: put their checkout first on PYTHONPATH.
"""

import argparse
import platform
import statistics
import time

import numpy as np

import parareal


def euler(steps):
    """Return a plain function of explicit Euler steps."""

    def propagate(u, t0, t1):
        h = (t1 - t0) / steps
        for _ in range(steps):
            u = u + h * np.array([u[1], -u[0]])
        return u

    return propagate


class Free(parareal.Stepper):
    """A step whose evaluation costs nothing."""

    def __init__(self):
        self.evaluate = lambda state, where: state

    def step(self, state, memory, start, stop):
        """Advance every row."""
        value = yield state, start
        return value * 0.999, memory


def seconds(function):
    """Return the time of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def spread(values, form="{:.2f}"):
    """Return the median, and the least and the largest."""
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})"


def many_slices(slices, steps, runs):
    """Print part 1."""
    fine, coarse, start = euler(steps), euler(4), np.array([1.0, 0.0])
    times = np.linspace(0.0, 10.0, slices + 1)
    calls = []

    def recorded(function):
        def record(u, t0, t1):
            calls.append((function, u, t0, t1))
            return function(u, t0, t1)

        return record

    parareal.solve(recorded(fine), recorded(coarse), start, times, criterion=parareal.Iterations(2))

    def bare():
        for function, u, t0, t1 in calls:
            function(u, t0, t1)

    ratios, own, alone = [], [], 0.0
    for _ in range(runs):
        alone = seconds(bare)
        wall = seconds(lambda: parareal.solve(fine, coarse, start, times, criterion=parareal.Iterations(2)))
        ratios.append(wall / alone)
        own.append((wall - alone) / len(calls) * 1e6)
    call = f"calls of {alone / len(calls) * 1e6:.0f} us in the mean"
    print(f"{slices} slices, {len(calls)} {call}: {spread(ratios)} times the bare loop,")
    print(f"    {spread(own, '{:.0f}')} us per call for the engine")


def many_samples(counts, runs):
    """Print part 2."""
    stepper, nodes = Free(), range(0, 97, 12)
    executor = parareal.BatchedExecutor(max_batch=4)
    found = {count: [] for count in counts}
    for _ in range(runs):
        for count in counts:
            states = np.random.default_rng(0).standard_normal((count, 2048))
            arguments = parareal.Steps(stepper), parareal.Steps(stepper, 1), states, nodes
            stats = parareal.solve(*arguments, batch_dims=1, criterion=parareal.Iterations(2), executor=executor).stats
            found[count].append(stats.wall_time / stats.work * 1e6)
    for count in counts:
        ratios = [a / b for a, b in zip(found[count], found[counts[0]], strict=True)]
        print(f"max_batch=4, {count:3} samples: {spread(found[count], '{:.0f}')} us per evaluation, {spread(ratios)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=5000)
    parser.add_argument("--samples", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, {options.runs} runs: median (least to largest)")
    for steps in (10, 100):
        many_slices(options.slices, steps, options.runs)
    many_samples(options.samples, options.runs)
