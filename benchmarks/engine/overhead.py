"""What the engine itself costs.

    python benchmarks/engine/overhead.py            # both parts
    python benchmarks/engine/overhead.py --runs 3

Part 1: a network that costs nothing. A pipelined batched run (961 steps, 31 slices, state 4 x 64 x 64 float32, two
iterations) against a loop written by hand for this one case, which does the same stacked tensor operations: one
stack of rows per tick, the network, the step, the corrections, the norms. Both are timed in turn; the figure is the
median ratio. The C library's allocator gives large blocks back to the system after each use and fetches them again;
which of two loops that hits is a matter of luck, so a second line repeats the comparison in a process that keeps them.

Part 2: the shipped network; where the wall time goes: the network, the solvers' own arithmetic, which every sampler
has, and the engine, which is all the rest.
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
    """Cost nothing: return the input."""
    return x


class Jump(parareal.Stepper):
    """A first-order sampler's step: x <- a x + b network(x), with a and b from tables by node."""

    def __init__(self):
        self.evaluate = network
        self.level = torch.linspace(1.0, 0.5, STEPS + 1)

    def step(self, state, memory, start, stop):
        """Advance every row; one evaluation."""
        output = yield state, start
        ratio = (self.level[stop] / self.level[start]).view(-1, 1, 1, 1)
        return ratio * state + (1 - ratio) * output, memory


def engine(x):
    """Run the engine."""
    stepper = Jump()
    nodes = [round(n * STEPS / SLICES) for n in range(SLICES + 1)]
    criterion = parareal.Iterations(ITERATIONS)
    return parareal.solve(parareal.Steps(stepper), parareal.Steps(stepper, 1), x, nodes, criterion=criterion)


def norm(x):
    """Return the root of the mean square, on the host."""
    return float(torch.linalg.vector_norm(x)) / x.numel() ** 0.5


def by_hand(x):  # noqa: C901, one loop written out is the point
    """Do the same by hand: rows are (slice, iteration), tick by tick, one stack and one call a tick."""
    level, size = torch.linspace(1.0, 0.5, STEPS + 1), STEPS // SLICES
    fine, coarse, newest = {}, {}, {0: x}
    queue, rows = [(0, 0)], []  # (slice, iteration) whose input has just become known; fine rows under way
    while True:
        fresh = [(n, k, newest[n], n * size) for n, k in queue]
        queue = []
        rows = rows + fresh
        state = torch.stack([r[2] for r in rows])
        start = torch.tensor([r[3] for r in rows])
        output = network(state, start)
        ratio = (level[start + 1] / level[start]).view(-1, 1, 1, 1)
        after = ratio * state + (1 - ratio) * output
        if fresh:
            first = len(rows) - len(fresh)
            jump = (level[start[first:] + size] / level[start[first:]]).view(-1, 1, 1, 1)
            for (n, k, _, _), u in zip(fresh, jump * state[first:] + (1 - jump) * output[first:], strict=True):
                coarse[n, k] = u.clone()
        running = []
        for (n, k, _, node), u in zip(rows, after, strict=True):
            if node + 1 == (n + 1) * size:
                fine[n, k] = u.clone()
            elif k < ITERATIONS:
                running.append((n, k, u, node + 1))
        rows = running
        for n, k, _, _ in fresh:
            if k == 0:
                newest[n + 1] = coarse[n, 0]
                if n + 1 < SLICES:
                    queue.append((n + 1, 0))
        for n, k in [key for key in fine if correctable(key, coarse)]:
            made = fine.pop((n, k))
            u = made + (coarse[n, k + 1] - coarse[n, k]) if (n, k + 1) in coarse else made
            for state in (u, u - newest[n + 1], made - newest[n + 1]):
                norm(state)
            newest[n + 1] = u
            if n + 1 < SLICES and k + 1 <= ITERATIONS:
                queue.append((n + 1, k + 1))
            elif n + 1 == SLICES and k + 1 == ITERATIONS:
                return u


def correctable(key, coarse):
    """Whether F(k-1, n) can be corrected: slices left of k are exact, all others need G(k, n)."""
    n, k = key
    return n <= k or (n, k + 1) in coarse


def compare(runs):
    """Print part 1."""
    x = torch.randn(SHAPE)
    with torch.no_grad():
        reference, solution = by_hand(x), engine(x)
    difference = float((solution.final_state - reference).abs().max())
    print(
        f"largest difference of the two results: {difference:.1e}; "
        f"{solution.stats.calls} calls, span {solution.stats.span:g}"
    )
    ratios = []
    for _ in range(runs):
        seconds = []
        for run in (by_hand, engine):
            began = time.perf_counter()
            with torch.no_grad():
                run(x)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
        print(f"by hand {seconds[0] * 1e3:7.1f} ms   engine {seconds[1] * 1e3:7.1f} ms   ratio {ratios[-1]:.2f}")
    print(f"free network: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


class Stopwatch:
    """Adds up the time spent in a call or, for a generator, between its yields."""

    def __init__(self):
        self.seconds = 0.0

    def call(self, function, *args, **kwargs):
        """Time one call."""
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began

    def generator(self, function):
        """Return a generator function that times `function`."""

        def timed(*args):
            routine = function(*args)
            request = self.call(next, routine)
            while True:
                value = yield request
                try:
                    request = self.call(routine.send, value)
                except StopIteration as end:
                    return end.value

        return timed


def share(runs):
    """Print part 2."""
    from parareal_diffusers import DDIM, DPMSolver, models, sample

    net, scheduler = models.load("fashion-mnist")
    network, arithmetic = Stopwatch(), Stopwatch()
    for solver in (DDIM, DPMSolver):
        setattr(solver, "step", arithmetic.generator(solver.step))  # noqa: B010, a type checker would object
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
    shares = [(a, b, 1 - a - b) for a, b in shares[1:]]  # the first was the warm-up
    for name, column in zip(("network", "solvers' arithmetic", "engine"), zip(*shares, strict=True), strict=True):
        print(f"{name}: median {statistics.median(column):.1%} ({min(column):.1%} to {max(column):.1%})")


def again_without_giving_memory_back(arguments):
    """Repeat part 1 in a process whose allocator keeps large blocks."""
    keep = {f"MALLOC_{name}_": str(10**9) for name in ("TRIM_THRESHOLD", "MMAP_THRESHOLD")}
    command = [sys.executable, __file__, *arguments, "--skip-network", "--kept"]
    subprocess.run(command, env=os.environ | keep | {"MALLOC_TOP_PAD_": str(10**8)}, check=True)


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
        again_without_giving_memory_back(sys.argv[1:])
    if not options.skip_network:
        share(options.runs)
