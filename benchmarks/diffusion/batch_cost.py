"""Cost of a batch on this machine: an upper bound on the speed-up that batching rows can give.

    python benchmarks/diffusion/batch_cost.py
    python benchmarks/diffusion/batch_cost.py --runs 30

Times the shipped network for batches of several sizes, on one thread and on torch's default, in turn. Prints the median
time of a call, its cost relative to a call with one row on the same threads, and the throughput relative to single
rows. Takes some seconds.
"""

import argparse
import platform
import statistics
import time

import torch
from parareal_diffusers import models

SIZES = (1, 2, 4, 7, 12, 24, 48)


def time_call(net, rows):
    """Return the seconds that one call with a number of rows takes."""
    x, t, labels = torch.randn(rows, 1, 28, 28), torch.full((rows,), 500), torch.zeros(rows, dtype=torch.int64)
    start_time = time.perf_counter()
    with torch.no_grad():
        net(x, t, class_labels=labels)
    return time.perf_counter() - start_time


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="timed calls per size")
    options = parser.parse_args()
    net, _ = models.load("fashion-mnist")
    print(f"{platform.machine()}, torch {torch.__version__}")
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        times = {size: [] for size in SIZES}
        # All sizes in every round, so that a slow phase of the machine meets all of them.
        for run in range(options.runs + 2):
            for size in SIZES:
                seconds = time_call(net, size)
                if run > 1:  # the first two rounds warm up
                    times[size].append(seconds)
        single = statistics.median(times[1])
        for size in SIZES:
            median = statistics.median(times[size])
            print(
                f"{threads} thread(s), {size:3} rows: {median * 1e3:6.1f} ms, cost {median / single:5.2f}, "
                f"throughput {size * single / median:4.2f}"
            )
