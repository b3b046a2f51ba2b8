"""Cost and gain of nested levels: spans, work and errors.

    python benchmarks/engine/levels.py                  # the tables of docs/results/levels.md; about ten minutes
    python benchmarks/engine/levels.py --steps 196      # one number of steps only
    python benchmarks/engine/levels.py --picture docs/images/levels.png --steps    # the schedule of 12 x 9 slices

Part 1: an ODE of two numbers with 961 Euler steps, for several tolerances: one level, and two levels with one, two, and
any number of inner iterations per outer iteration.

Part 2: the shipped network, with DDIM steps, DPM-Solver++(2M) jumps on all levels, and four classes from one seed. The
error of a sample is the root mean square of its difference to the sequential solution, over that of the sequential
solution. Two spacings of timesteps are shown: `trailing`, the model's own, and `leading`, whose steps start where the
previous ones end.
"""

import argparse
import platform

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import models, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.testing import relative_errors
from tqdm.auto import tqdm

import parareal

LEVELS = {196: [(12,), (12, 4), (14, 4)], 961: [(12,), (12, 9)]}
ITERATIONS = {196: [1, 2], 961: [1]}


class OscillatingDecay(parareal.Stepper):
    """Euler's method for the ODE of part 1, on a grid of times."""

    def __init__(self, grid: torch.Tensor):
        self.evaluate, self.grid = lambda u, t: -u * torch.sin(3 * t)[:, None] - 0.1 * u * u, grid

    def step(self, state, memory, start, stop):
        """Advance every row by one Euler step, with one evaluation."""
        slope = yield state, self.grid[start]
        return state + (self.grid[stop] - self.grid[start])[:, None] * slope, memory


def compare_inner_iterations(steps: int = 961) -> list[dict[str, str]]:
    """Return the rows of part 1."""
    stepper = OscillatingDecay(torch.linspace(0, 3, steps + 1, dtype=torch.float64))
    fine, coarse, start = parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.tensor([1.0, 2.0]).double()
    reference = parareal.sequential(fine, start, [0, steps]).final_state
    nests = {f"12 x 9, {k or 'any'} inner": (12, parareal.Parareal(fine, coarse, 9, inner_iterations=k))
             for k in (1, 2, None)}  # fmt: skip
    rows = []
    for rtol in (1e-3, 1e-6, 1e-9):
        for name, (slices, propagator) in {"31": (31, fine), "54": (54, fine), **nests}.items():
            nodes = parareal.Parareal(fine, coarse, slices).edges(0, steps)
            solution = parareal.solve(propagator, coarse, start, nodes, criterion=parareal.Increment(rtol, 0.0))
            rows.append(
                {
                    "rtol": f"{rtol:.0e}",
                    "slices": name,
                    "iterations": str(solution.iterations),
                    "span": f"{solution.stats.span:.0f}",
                    "work / N": f"{solution.stats.work / steps:.1f}",
                    "error": f"{float((solution.final_state - reference).norm() / reference.norm()):.0e}",
                }
            )
    return rows


def format_row(spacing: str, steps: int, levels: tuple[int, ...], count: int, solution, reference) -> dict[str, str]:
    """Return a row of the table of part 2."""
    error = relative_errors(solution.final_state, reference)
    return {
        "steps": str(steps),
        "spacing": spacing,
        "levels": " x ".join(map(str, levels)),
        "iterations": str(count),
        "span": f"{solution.stats.span:.0f}",
        "work / N": f"{solution.stats.work / solution.stats.sequential_work:.2f}",
        "mean error": f"{error.mean():.1e}",
        "worst error": f"{error.max():.1e}",
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, choices=list(LEVELS), nargs="*", default=list(LEVELS))
    parser.add_argument("--picture", help="file to save a plot of the schedule to")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(markdown(compare_inner_iterations()), "\n")
    if args.picture:
        stepper = OscillatingDecay(torch.linspace(0, 3, 962, dtype=torch.float64))
        fine, coarse, start = parareal.Steps(stepper), parareal.Steps(stepper, 1), torch.tensor([1.0, 2.0]).double()
        solution = parareal.solve(fine, coarse, start, [0, 961], levels=(12, 9), criterion=parareal.Iterations(1))
        solution.timeline().savefig(args.picture, dpi=100)
    net, model_scheduler = models.load("fashion-mnist")
    noise = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    kwargs = {"class_labels": torch.tensor([0, 3, 7, 9])}
    jobs = [(n, s, levels, k) for n in args.steps for s in ("leading", "trailing") for levels in LEVELS[n]
            for k in ITERATIONS[n]]  # fmt: skip
    rows, references = [], {}
    for steps, spacing, levels, count in tqdm(jobs):
        scheduler = DDIMScheduler.from_config(model_scheduler.config, timestep_spacing=spacing)

        def run(levels: tuple[int, ...], count: int, steps: int = steps, scheduler=scheduler) -> parareal.Solution:
            criterion = parareal.Iterations(count)
            return sample(net, noise, scheduler, num_inference_steps=steps, model_kwargs=kwargs, levels=levels,
                          criterion=criterion)  # fmt: skip

        if (steps, spacing) not in references:
            references[steps, spacing] = run((1,), 1).final_state
        rows.append(format_row(spacing, steps, levels, count, run(levels, count), references[steps, spacing]))
    print(markdown(rows))
    print(f"\n{platform.machine()}, {args.threads} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
