"""How often `Tolerance` keeps its promise, and how many iterations it wastes.

    python benchmarks/engine/coverage.py [--samples 16] [--write]

For every setting, tolerance and sample: the error of the sample at which the solve stopped, relative to the sequential
one, and the first iteration whose error is within the tolerance, which an oracle would have stopped at. Coverage is the
share of samples whose error is within the tolerance, cost the mean number of iterations beyond the oracle's. It takes
some minutes; `--write` puts the table into docs/results/coverage.md.
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
from benchmarks.tools.pages import DOCS, put

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Found:
    """What one setting gave, for each tolerance and sample."""

    kept: Tensor
    """whether the error is within the tolerance, shape (tolerances, samples)"""
    extra: Tensor
    """iterations beyond the oracle's, shape (tolerances, samples)"""
    ratio: Tensor
    """the estimate over the error, where the solve stopped"""


Solve = Callable[[parareal.AbstractCriterion, Callable[[parareal.Refinement], None] | None], parareal.Solution]


def study(solve: Solve, answer: Tensor, most: int = 10) -> Found:
    """Run a setting to a fixed number of iterations for the oracle, then to each tolerance."""
    errors: list[Tensor] = []
    solve(parareal.Iterations(most), lambda r: errors.append(relative_errors(r.final_state, answer)))
    table = torch.stack(errors)
    kept, extra, ratio = [], [], []
    for tolerance in TOLERANCES:
        oracle = (table <= tolerance).int().argmax(dim=0)
        solution = solve(parareal.Tolerance(tolerance), None)
        found = relative_errors(solution.final_state, answer)
        kept.append(found <= tolerance)
        extra.append(torch.from_numpy(solution.slice_iterations[-1]).to(torch.int64) - oracle)
        ratio.append(torch.from_numpy(solution.error_estimate).to(found) / found)
    return Found(torch.stack(kept), torch.stack(extra).double(), torch.stack(ratio))


def sampled(model: Any, latents: Tensor, scheduler: Any, noisy: bool, most: int, **options: Any) -> Found:
    """Run a sampler, with the same noise in every solve."""

    def solve(criterion, callback, **other):
        generator = torch.Generator().manual_seed(7) if noisy else None
        given = {**options, **other, "criterion": criterion, "callback": callback}
        return sample(model, latents, scheduler, generator=generator, **given)

    answer = solve(None, None, slices=1, levels=None, tolerance=0).final_state
    return study(solve, answer, min(options.get("slices", most), most))


def cut(slices: int | tuple[int, ...]) -> dict[str, Any]:
    """Return slices of one level, or of several, as `sample` is given them."""
    return {"levels": slices, "coarse": "extrapolated"} if isinstance(slices, tuple) else {"slices": slices}


def network(steps: int, slices: int | tuple[int, ...], samples: int, noisy: bool = False) -> Found:
    """The shipped network, DDIM or, noisy, DDPM, float32."""
    net, scheduler = models.load("fashion-mnist")
    scheduler = DDPMScheduler.from_config(scheduler.config) if noisy else scheduler
    latents = torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(21))
    labels = {"class_labels": torch.arange(samples) % 10}
    options: dict[str, Any] = {"num_inference_steps": steps, "model_kwargs": labels}
    return sampled(net, latents, scheduler, noisy, 5, **options, **cut(slices))


def mixture(steps: int, slices: int | tuple[int, ...], samples: int, noisy: bool = False, side: int = 4) -> Found:
    """The exact score of a Gaussian mixture in side^2 dimensions, DDIM or, noisy, DDPM, float64."""
    scheduler = (DDPMScheduler if noisy else DDIMScheduler)(beta_schedule="scaled_linear", clip_sample=False)
    score = GaussianMixture.random(components=3 * side // 2, shape=(1, side, side)).model(scheduler, "epsilon")
    latents = torch.randn(4 * samples, 1, side, side, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    return sampled(score, latents, scheduler, noisy, 9, num_inference_steps=steps, **cut(slices))


def lotka_volterra(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of predator and prey."""
    x, y = u.unbind(-1)
    return torch.stack([1.1 * x - 0.4 * x * y, 0.1 * x * y - 0.4 * y], -1)


def pendulum(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of a damped pendulum that is driven."""
    x, v = u.unbind(-1)
    return torch.stack([v, -torch.sin(x) - 0.1 * v + 0.5 * torch.cos(t).expand_as(x)], -1)


def reaction(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of a reaction and diffusion equation on 32 points (Allen and Cahn), forced."""
    padded = torch.nn.functional.pad(u, (1, 1))
    diffusion = (padded[..., 2:] - 2 * u + padded[..., :-2]) * 33**2 / 400
    return diffusion + u - u**3 + 0.1 * torch.sin(t)


def van_der_pol(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of a relaxation oscillator."""
    x, v = u.unbind(-1)
    return torch.stack([v, 2 * (1 - x * x) * v - x], -1)


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    """Return the slope of a chaotic system."""
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


ODES = {
    "Lotka-Volterra": (lotka_volterra, 20.0, lambda n, g: 2 + 8 * torch.rand(n, 2, generator=g)),
    "pendulum": (pendulum, 10.0, lambda n, g: torch.randn(n, 2, generator=g)),
    "reaction-diffusion": (reaction, 2.0, lambda n, g: torch.randn(n, 32, generator=g)),
    "van der Pol": (van_der_pol, 10.0, lambda n, g: torch.randn(n, 2, generator=g) / 10 + torch.tensor([2.0, 0.0])),
    "Lorenz": (lorenz, 2.0, lambda n, g: torch.randn(n, 3, generator=g) + torch.tensor([1.0, 1.0, 20.0])),
}


def equation(name: str, method: str, coarse: str, samples: int, steps: int = 1024) -> Found:
    """An ODE in float64, sample by sample, with as many slices as `odeint` takes."""
    slope, end, start = ODES[name]
    states = start(samples, torch.Generator().manual_seed(21)).double()
    times = torch.tensor([0.0, end], dtype=torch.float64)
    options = {"method": method, "options": {"step_size": end / steps}, "return_solution": True}
    found = []
    for u in states:
        exact = odeint(slope, u, times, criterion=parareal.Iterations(1024), slices=1, **options)[1].final_state[None]

        def solve(criterion, callback, u=u):
            def show(refinement):
                callback(replace(refinement, final_state=refinement.final_state[None]))

            given = None if callback is None else show
            solution = odeint(slope, u, times, coarse=coarse, criterion=criterion, callback=given, **options)[1]
            return replace(solution, final_state=solution.final_state[None])

        found.append(study(solve, exact))
    return Found(*(torch.cat([getattr(f, name) for f in found], dim=1) for name in ("kept", "extra", "ratio")))


LEVELS = ((100, (13, 3)), (196, (17, 4)))
"""steps, and slices of several levels"""


def groups(samples: int) -> dict[str, Callable[[], list[Found]]]:
    """Return what is run for each row of the table."""
    methods = (("rk4", "auto"), ("rk4", "heun2"), ("midpoint", "auto"))

    def ode(name: str) -> Callable[[], list[Found]]:
        return lambda: [equation(name, *method, samples) for method in methods]

    return {
        "trained network": lambda: [network(*s, samples) for s in ((25, 5), (25, 9), (100, 12), (100, 17), (196, 24))],
        "Gaussian mixture": lambda: [
            mixture(*s, samples) for s in ((25, 5), (25, 9), (100, 12), (100, 17), (196, 24), (1000, 55))
        ],
        **{name: ode(name) for name in ODES},
        "trained network, levels": lambda: [network(*s, samples) for s in LEVELS],
        "Gaussian mixture, levels": lambda: [mixture(*s, samples) for s in LEVELS],
        "trained network, DDPM": lambda: [network(*s, samples, True) for s in ((100, 17), (196, 24))],
        "Gaussian mixture, DDPM": lambda: [mixture(*s, samples, True) for s in ((100, 17), (196, 24))],
        "12 modes in 64 dimensions, DDPM": lambda: [mixture(*s, samples, True, 8) for s in ((100, 17), (196, 24))],
    }


def row(name: str, found: list[Found]) -> str:
    """Return a line of the table."""
    cells = []
    for i in range(len(TOLERANCES)):
        kept = torch.cat([f.kept[i] for f in found]).double().mean()
        extra = torch.cat([f.extra[i] for f in found]).mean()
        cells.append(f"{100 * kept:.1f} %, {extra:+.2f}")
    kept = torch.cat([f.kept.flatten() for f in found]).double().mean()
    extra = torch.cat([f.extra.flatten() for f in found]).mean()
    return f"| {name} | " + " | ".join(cells) + f" | {100 * kept:.1f} %, {extra:+.2f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--only", help="a part of the name of the rows to run")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/coverage.md")
    given = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {given.samples} samples", flush=True)
    lines = [
        "| tolerance | " + " | ".join(f"{t:g}" for t in TOLERANCES) + " | all |",
        "|" + "---|" * (len(TOLERANCES) + 2),
    ]
    promised: list[Found] = []
    for name, run in groups(given.samples).items():
        if given.only and given.only not in name:
            continue
        found = run()
        lines.append(row(name, found))
        print(lines[-1], flush=True)
        if name == "reaction-diffusion":
            lines.append(row("**all of these**", promised := [*promised, *found]))
            print(lines[-1], flush=True)
        promised += found
    if given.write:
        put(DOCS / "results/coverage.md", "coverage", "\n".join(lines))
