"""Overhead of the engine itself.

    python benchmarks/engine/overhead.py            # both parts
    python benchmarks/engine/overhead.py --runs 3

Part 1: a network that takes no time. A pipelined batched run (961 steps, 31 slices, states of 4 x 64 x 64 float32, two
iterations) is compared with a loop written by hand for this case, which makes the same stacked tensor operations: one
stack of rows per tick, the network, the step, the corrections, the norms. Both are timed in turn; the result is the
median ratio. The C library's allocator returns large blocks to the system after each use and requests them again,
which may slow down either loop. So a second line repeats the comparison in a process whose allocator keeps large
blocks.

Part 2: the shipped network. The wall time is split into the network, the solvers' arithmetic, which every sampler
needs, and the engine, which is the rest.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

import torch

import parareal

STEPS, SLICES, ITERATIONS, SHAPE = 961, 31, 2, (4, 64, 64)


def network(x, t):
    """Return the input: a network that takes no time."""
    return x


class Jump(parareal.Stepper):
    """A step of a first-order sampler: x <- a x + b network(x), with a and b from tables by node."""

    def __init__(self):
        self.evaluate = network
        self.level = torch.linspace(1.0, 0.5, STEPS + 1)

    def step(self, state, memory, start, stop):
        """Advance every row by one step, with one evaluation."""
        output = yield state, start
        ratio = (self.level[stop] / self.level[start]).view(-1, 1, 1, 1)
        return ratio * state + (1 - ratio) * output, memory


def solve_with_engine(x):
    """Solve with the engine."""
    stepper = Jump()
    nodes = [round(n * STEPS / SLICES) for n in range(SLICES + 1)]
    criterion = parareal.Iterations(ITERATIONS)
    return parareal.solve(parareal.Steps(stepper), parareal.Steps(stepper, 1), x, nodes, criterion=criterion)


def norm(x):
    """Return the root of the mean square as a Python number, as the engine does."""
    return float(torch.linalg.vector_norm(x)) / x.numel() ** 0.5


def solve_by_hand(x):  # noqa: C901, one loop without functions is the purpose
    """Solve the same problem by a loop without an engine: one stack of rows and one call per tick."""
    level, size = torch.linspace(1.0, 0.5, STEPS + 1), STEPS // SLICES
    fine, coarse, newest = {}, {}, {0: x}
    # `queue`: (slice, iteration) whose input has just become known. `rows`: fine propagations under way, each
    # (slice, iteration, state, node).
    queue, rows = [(0, 0)], []
    while True:
        new_rows = [(n, k, newest[n], n * size) for n, k in queue]
        queue = []
        rows = rows + new_rows
        state = torch.stack([r[2] for r in rows])
        start = torch.tensor([r[3] for r in rows])
        output = network(state, start)
        ratio = (level[start + 1] / level[start]).view(-1, 1, 1, 1)
        after = ratio * state + (1 - ratio) * output
        if new_rows:  # G starts from the same state as F, so its jump uses the same network output
            first = len(rows) - len(new_rows)
            jump = (level[start[first:] + size] / level[start[first:]]).view(-1, 1, 1, 1)
            for (n, k, _, _), u in zip(new_rows, jump * state[first:] + (1 - jump) * output[first:], strict=True):
                coarse[n, k] = u.clone()
        running = []
        for (n, k, _, node), u in zip(rows, after, strict=True):
            if node + 1 == (n + 1) * size:
                fine[n, k] = u.clone()
            elif k < ITERATIONS:
                running.append((n, k, u, node + 1))
        rows = running
        for n, k, _, _ in new_rows:
            if k == 0:
                newest[n + 1] = coarse[n, 0]
                if n + 1 < SLICES:
                    queue.append((n + 1, 0))
        for n, k in [key for key in fine if can_be_corrected(key, coarse)]:
            end = fine.pop((n, k))
            u = end + (coarse[n, k + 1] - coarse[n, k]) if (n, k + 1) in coarse else end
            for state in (u, u - newest[n + 1], end - newest[n + 1]):
                norm(state)  # the engine computes size, increment and defect
            newest[n + 1] = u
            if n + 1 < SLICES and k + 1 <= ITERATIONS:
                queue.append((n + 1, k + 1))
            elif n + 1 == SLICES and k + 1 == ITERATIONS:
                return u


def can_be_corrected(key, coarse):
    """Return whether F(k, n) can be corrected: inputs up to boundary k are exact, all others need G(k+1, n)."""
    n, k = key
    return n <= k or (n, k + 1) in coarse


def compare(runs):
    """Print the results of part 1."""
    x = torch.randn(SHAPE)
    with torch.no_grad():
        reference, solution = solve_by_hand(x), solve_with_engine(x)
    difference = float((solution.final_state - reference).abs().max())
    print(
        f"largest difference of the two results: {difference:.1e}; "
        f"{solution.stats.calls} calls, span {solution.stats.span:g}"
    )
    ratios = []
    for _ in range(runs):
        seconds = []
        for run in (solve_by_hand, solve_with_engine):
            start_time = time.perf_counter()
            with torch.no_grad():
                run(x)
            seconds.append(time.perf_counter() - start_time)
        ratios.append(seconds[1] / seconds[0])
        print(f"by hand {seconds[0] * 1e3:7.1f} ms   engine {seconds[1] * 1e3:7.1f} ms   ratio {ratios[-1]:.2f}")
    print(f"free network: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


class Stopwatch:
    """The total time spent in calls, or in generators between their yields."""

    def __init__(self):
        self.seconds = 0.0

    def call(self, function, *args, **kwargs):
        """Make one call and add its time."""
        start_time = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start_time

    def generator(self, function):
        """Return a generator function that does what `function` does and adds the time between its yields."""

        def timer(*args):
            routine = function(*args)
            request = self.call(next, routine)
            while True:
                value = yield request
                try:
                    request = self.call(routine.send, value)
                except StopIteration as end:
                    return end.value

        return timer


def measure_shares(runs):
    """Print the results of part 2."""
    from parareal_diffusers import DDIM, DPMSolver, models, sample

    net, scheduler = models.load("fashion-mnist")
    network, arithmetic = Stopwatch(), Stopwatch()
    for solver in (DDIM, DPMSolver):
        setattr(solver, "step", arithmetic.generator(solver.step))  # noqa: B010, an assignment would not pass the type checker
    latents = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = {"class_labels": torch.tensor([7])}
    shares = []
    for _ in range(runs + 1):
        network.seconds = arithmetic.seconds = 0.0
        solution = sample(
            lambda x, t, **kwargs: network.call(net, x, t, **kwargs),
            latents,
            scheduler,
            num_inference_steps=196,
            model_kwargs=labels,
        )
        wall = solution.stats.wall_time
        shares.append([network.seconds / wall, arithmetic.seconds / wall])
    shares = [(a, b, 1 - a - b) for a, b in shares[1:]]  # the first run was a warm-up
    for name, column in zip(("network", "solvers' arithmetic", "engine"), zip(*shares, strict=True), strict=True):
        print(f"{name}: median {statistics.median(column):.1%} ({min(column):.1%} to {max(column):.1%})")


def repeat_with_memory_kept(arguments):
    """Repeat part 1 in a process whose allocator keeps large blocks."""
    settings = {f"MALLOC_{name}_": str(10**9) for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD")}
    command = [sys.executable, __file__, *arguments, "--skip-network", "--kept"]
    subprocess.run(command, env=os.environ | settings | {"MALLOC_TOP_PAD_": str(10**8)}, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-network", action="store_true", help="part 1 only")
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.kept:
        print("with an allocator that keeps large blocks:")
    else:
        print(f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}")
    compare(options.runs)
    if not options.kept:
        repeat_with_memory_kept(sys.argv[1:])
    if not options.skip_network:
        measure_shares(options.runs)
