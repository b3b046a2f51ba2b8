"""Coverage of `Tolerance`: the share of samples within the tolerance, and the iterations that it wastes.

    python benchmarks/engine/coverage.py [--samples 16] [--write]
    python benchmarks/engine/coverage.py --adversarial [--cases 600] [--batches 160] [--write]

For every setting, tolerance and sample, the script computes the error of the final state relative to the sequential
one, and the first iteration whose error is within the tolerance, at which an oracle would stop. Coverage is the share
of samples whose error is within the tolerance; cost is the mean number of iterations beyond the oracle's. This takes
some minutes. `--write` writes the table into docs/results/coverage.md.

With `--adversarial` the problems are drawn to fool the stop rules instead, and each criterion is judged in its own
scale (`benchmarks/engine/adversarial/`). On two cores this takes a quarter of an hour.
"""

import argparse
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from parareal_diffusers import models, sample
from parareal_diffusers.testing import GaussianMixture, relative_errors
from parareal_torchdiffeq import odeint
from torch import Tensor

import parareal
from benchmarks.engine.adversarial import report
from benchmarks.tools.pages import DOCS, put

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class CoverageResult:
    """The results of one setting, for each tolerance and sample."""

    within: Tensor
    """whether the error is within the tolerance, shape (tolerances, samples)"""
    extra: Tensor
    """iterations beyond the oracle's, shape (tolerances, samples)"""
    ratio: Tensor
    """the estimated error over the true one at the end of the solve, shape (tolerances, samples)"""


Solve = Callable[[parareal.AbstractCriterion, Callable[[parareal.Refinement], None] | None], parareal.Solution]


def study(solve: Solve, answer: Tensor, most: int = 10) -> CoverageResult:
    """Run a setting for `most` iterations, which gives the oracle, and then once per tolerance."""
    errors: list[Tensor] = []
    solve(parareal.Iterations(most), lambda r: errors.append(relative_errors(r.final_state, answer)))
    table = torch.stack(errors)
    within, extra, ratio = [], [], []
    for tolerance in TOLERANCES:
        oracle = (table <= tolerance).int().argmax(dim=0)  # the first True of each column; 0 if there is none
        solution = solve(parareal.Tolerance(tolerance), None)
        error = relative_errors(solution.final_state, answer)
        within.append(error <= tolerance)
        extra.append(torch.from_numpy(solution.slice_iterations[-1]).to(torch.int64) - oracle)
        ratio.append(torch.from_numpy(solution.error_estimate).to(error) / error)
    return CoverageResult(torch.stack(within), torch.stack(extra).double(), torch.stack(ratio))


def study_sampler(
    model: Any, latents: Tensor, scheduler: Any, noisy: bool, most: int, **options: Any
) -> CoverageResult:
    """Study a sampler, with the same noise in every solve."""

    def solve(criterion, callback, **other):
        generator = torch.Generator().manual_seed(7) if noisy else None
        arguments = {**options, **other, "criterion": criterion, "callback": callback}
        return sample(model, latents, scheduler, generator=generator, **arguments)

    answer = solve(None, None, slices=1, levels=None, tolerance=0).final_state
    return study(solve, answer, min(options.get("slices", most), most))


def division_options(slices: int | tuple[int, ...]) -> dict[str, Any]:
    """Return the keywords of `sample` for slices of one level, or of several."""
    return {"levels": slices, "coarse": "extrapolated"} if isinstance(slices, tuple) else {"slices": slices}


def study_network(steps: int, slices: int | tuple[int, ...], samples: int, noisy: bool = False) -> CoverageResult:
    """Study the shipped network in float32, with DDIM or, if `noisy`, DDPM."""
    net, scheduler = models.load("fashion-mnist")
    scheduler = DDPMScheduler.from_config(scheduler.config) if noisy else scheduler
    latents = torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(21))
    labels = {"class_labels": torch.arange(samples) % 10}
    options: dict[str, Any] = {"num_inference_steps": steps, "model_kwargs": labels}
    return study_sampler(net, latents, scheduler, noisy, 5, **options, **division_options(slices))


def study_mixture(
    steps: int, slices: int | tuple[int, ...], samples: int, noisy: bool = False, side: int = 4
) -> CoverageResult:
    """Study the exact score of a Gaussian mixture in side^2 dimensions, float64, with DDIM or, if `noisy`, DDPM."""
    scheduler = (DDPMScheduler if noisy else DDIMScheduler)(beta_schedule="scaled_linear", clip_sample=False)
    score = GaussianMixture.random(components=3 * side // 2, shape=(1, side, side)).model(scheduler, "epsilon")
    # four times the samples of the network, because the score of a mixture costs little
    latents = torch.randn(4 * samples, 1, side, side, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    return study_sampler(score, latents, scheduler, noisy, 9, num_inference_steps=steps, **division_options(slices))


def lotka_volterra(t: Tensor, u: Tensor) -> Tensor:
    """Return the right-hand side of the predator-prey equations."""
    x, y = u.unbind(-1)
    return torch.stack([1.1 * x - 0.4 * x * y, 0.1 * x * y - 0.4 * y], -1)


def pendulum(t: Tensor, u: Tensor) -> Tensor:
    """Return the right-hand side of a damped, driven pendulum."""
    x, v = u.unbind(-1)
    return torch.stack([v, -torch.sin(x) - 0.1 * v + 0.5 * torch.cos(t).expand_as(x)], -1)


def reaction(t: Tensor, u: Tensor) -> Tensor:
    """Return the right-hand side of a forced reaction-diffusion equation (Allen and Cahn) on 32 points."""
    padded = torch.nn.functional.pad(u, (1, 1))
    diffusion = (padded[..., 2:] - 2 * u + padded[..., :-2]) * 33**2 / 400
    return diffusion + u - u**3 + 0.1 * torch.sin(t)


def van_der_pol(t: Tensor, u: Tensor) -> Tensor:
    """Return the right-hand side of a relaxation oscillator."""
    x, v = u.unbind(-1)
    return torch.stack([v, 2 * (1 - x * x) * v - x], -1)


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    """Return the right-hand side of the chaotic Lorenz system."""
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


ODES = {
    "Lotka-Volterra": (lotka_volterra, 20.0, lambda n, g: 2 + 8 * torch.rand(n, 2, generator=g)),
    "pendulum": (pendulum, 10.0, lambda n, g: torch.randn(n, 2, generator=g)),
    "reaction-diffusion": (reaction, 2.0, lambda n, g: torch.randn(n, 32, generator=g)),
    "van der Pol": (van_der_pol, 10.0, lambda n, g: torch.randn(n, 2, generator=g) / 10 + torch.tensor([2.0, 0.0])),
    "Lorenz": (lorenz, 2.0, lambda n, g: torch.randn(n, 3, generator=g) + torch.tensor([1.0, 1.0, 20.0])),
}


def study_equation(name: str, method: str, coarse: str, samples: int, steps: int = 1024) -> CoverageResult:
    """Study an ODE in float64, one sample at a time, with the number of slices that `odeint` chooses."""
    rhs, end, start = ODES[name]
    states = start(samples, torch.Generator().manual_seed(21)).double()
    times = torch.tensor([0.0, end], dtype=torch.float64)
    options = {"method": method, "options": {"step_size": end / steps}, "return_solution": True}
    results = []
    for u in states:
        reference = odeint(rhs, u, times, criterion=parareal.Iterations(1024), slices=1, **options)[1].final_state[None]

        def solve(criterion, callback, u=u):
            def add_sample_axis(refinement):
                callback(replace(refinement, final_state=refinement.final_state[None]))

            per_sample = None if callback is None else add_sample_axis
            solution = odeint(rhs, u, times, coarse=coarse, criterion=criterion, callback=per_sample, **options)[1]
            return replace(solution, final_state=solution.final_state[None])

        results.append(study(solve, reference))
    names = ("within", "extra", "ratio")
    return CoverageResult(*(torch.cat([getattr(result, name) for result in results], dim=1) for name in names))


LEVELS = ((100, (13, 3)), (196, (17, 4)))
"""numbers of steps, each with the numbers of slices of its levels"""


def table_rows(samples: int) -> dict[str, Callable[[], list[CoverageResult]]]:
    """Return the functions that compute the results of each row of the table, by the row's name."""
    methods = (("rk4", "auto"), ("rk4", "heun2"), ("midpoint", "auto"))

    def ode(name: str) -> Callable[[], list[CoverageResult]]:
        return lambda: [study_equation(name, *method, samples) for method in methods]

    return {
        "trained network": lambda: [
            study_network(*s, samples) for s in ((25, 5), (25, 9), (100, 12), (100, 17), (196, 24))
        ],
        "Gaussian mixture": lambda: [
            study_mixture(*s, samples) for s in ((25, 5), (25, 9), (100, 12), (100, 17), (196, 24), (1000, 55))
        ],
        **{name: ode(name) for name in ODES},
        "trained network, levels": lambda: [study_network(*s, samples) for s in LEVELS],
        "Gaussian mixture, levels": lambda: [study_mixture(*s, samples) for s in LEVELS],
        "trained network, DDPM": lambda: [study_network(*s, samples, True) for s in ((100, 17), (196, 24))],
        "Gaussian mixture, DDPM": lambda: [study_mixture(*s, samples, True) for s in ((100, 17), (196, 24))],
        "12 modes in 64 dimensions, DDPM": lambda: [
            study_mixture(*s, samples, True, 8) for s in ((100, 17), (196, 24))
        ],
    }


def format_row(name: str, results: list[CoverageResult]) -> str:
    """Return a row of the table: coverage in percent and mean extra iterations, per tolerance and for all."""
    cells = []
    for i in range(len(TOLERANCES)):
        within = torch.cat([r.within[i] for r in results]).double().mean()
        extra = torch.cat([r.extra[i] for r in results]).mean()
        cells.append(f"{100 * within:.1f} %, {extra:+.2f}")
    within = torch.cat([r.within.flatten() for r in results]).double().mean()
    extra = torch.cat([r.extra.flatten() for r in results]).mean()
    return f"| {name} | " + " | ".join(cells) + f" | {100 * within:.1f} %, {extra:+.2f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--only", help="run only rows whose name contains this text")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/coverage.md")
    parser.add_argument("--adversarial", action="store_true", help="draw problems that may fool the stop rules")
    parser.add_argument("--cases", type=int, default=600, help="with --adversarial: number of ODEs")
    parser.add_argument("--batches", type=int, default=160, help="with --adversarial: number of calls of `sample`")
    parser.add_argument("--first", type=int, default=10_000, help="with --adversarial: the first seed")
    parser.add_argument("--processes", type=int, default=2, help="with --adversarial: number of processes")
    args = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {args.samples} samples", flush=True)
    if args.adversarial:
        report.report(args.cases, args.batches, args.first, args.processes, args.write)
        raise SystemExit
    lines = [
        "| tolerance | " + " | ".join(f"{t:g}" for t in TOLERANCES) + " | all |",
        "|" + "---|" * (len(TOLERANCES) + 2),
    ]
    covered: list[CoverageResult] = []  # results of the rows that the total includes
    for name, run in table_rows(args.samples).items():
        if args.only and args.only not in name:
            continue
        results = run()
        lines.append(format_row(name, results))
        print(lines[-1], flush=True)
        # The total ends here, because docs/results/coverage.md discusses the rows below it one by one: equations on
        # which the estimate fails, levels, and noise.
        if name == "reaction-diffusion":
            lines.append(format_row("**all of these**", covered := [*covered, *results]))
            print(lines[-1], flush=True)
        covered += results
    if args.write:
        put(DOCS / "results/coverage.md", "coverage", "\n".join(lines))
