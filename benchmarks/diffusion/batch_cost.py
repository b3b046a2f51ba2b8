"""What a batch costs on this machine: the ceiling of any speed-up that batching rows can give.

    python benchmarks/diffusion/batch_cost.py

Times the shipped network for batches of several sizes, by threads, in turn; prints the median time of a call, its price
in units of one row on the same threads, and rows per unit: the throughput that batching gains.
"""

import argparse
import platform
import statistics
import time

import torch
from parareal_diffusers import models

SIZES = (1, 2, 4, 7, 12, 24, 48)


def seconds(net, rows):
    """Time one call."""
    x, t, labels = torch.randn(rows, 1, 28, 28), torch.full((rows,), 500), torch.zeros(rows, dtype=torch.int64)
    began = time.perf_counter()
    with torch.no_grad():
        net(x, t, class_labels=labels)
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    net, _ = models.load("fashion-mnist")
    print(f"{platform.machine()}, torch {torch.__version__}")
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        times = {size: [] for size in SIZES}
        for run in range(options.runs + 2):
            for size in SIZES:
                took = seconds(net, size)
                if run > 1:  # the first two rounds warm up
                    times[size].append(took)
        one = statistics.median(times[1])
        for size in SIZES:
            median = statistics.median(times[size])
            print(
                f"{threads} thread(s), {size:3} rows: {median * 1e3:6.1f} ms, price {median / one:5.2f}, "
                f"throughput {size * one / median:4.2f}"
            )
