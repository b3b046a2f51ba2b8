"""Jumps that make DDIM's own steps, extrapolated, against jumps that approximate the ODE.

    python benchmarks/diffusion/extrapolated.py [--samples 8] [--write]

Errors relative to the sequential solution, worst and mean over the samples, of the sketch and of two iterations, on the
shipped network and on the exact score of a Gaussian mixture, with slices even in steps and spaced by
`boundaries(..., log_snr=0.4)`. Some minutes on one core; `--write` puts the tables into docs/results/extrapolated.md,
and one setting of each into docs/results/solvers.md.
"""

import argparse
import platform
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import Extrapolated, boundaries, models, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.testing import GaussianMixture, relative_errors
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

JUMPS: dict[str, Any] = {
    "DDIM": "ddim",
    "DPM-Solver++(2M)": "dpmpp_2m",
    "own steps, clean": Extrapolated(of="clean"),
    "own steps, velocity": Extrapolated(),
}
SLICES = {25: 12, 50: 12, 100: 14, 150: 15}
SHOWN = {"steps": "50", "log_snr": "0.4"}
"""the setting that docs/results/solvers.md shows"""

Row = dict[str, str]


def problems(samples: int) -> dict[str, tuple[Any, Any, torch.Tensor, dict[str, Any]]]:
    """Return model, scheduler, noise and arguments of the model, by name."""
    net, scheduler = models.load("fashion-mnist")
    latents = torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(21))
    trailing = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing")
    score = GaussianMixture.random(components=6, shape=(1, 4, 4)).model(trailing, "epsilon")
    small = torch.randn(4 * samples, 1, 4, 4, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    return {
        "trained network": (net, scheduler, latents, {"class_labels": torch.arange(samples) % 10}),
        "Gaussian mixture": (score, trailing, small, {}),
    }


def row(problem: Any, steps: int, mix: float, name: str) -> Row:
    """Return a row of the table."""
    model, scheduler, latents, kwargs = problem
    given: dict[str, Any] = {"num_inference_steps": steps, "model_kwargs": kwargs}
    answer = sample(model, latents, scheduler, slices=1, tolerance=0, **given).final_state
    errors: list[torch.Tensor] = []
    sample(
        model,
        latents,
        scheduler,
        boundaries=boundaries(scheduler, SLICES[steps], num_inference_steps=steps, log_snr=mix),
        coarse=JUMPS[name],
        criterion=parareal.Iterations(2),
        callback=lambda refinement: errors.append(relative_errors(refinement.final_state, answer)),
        **given,
    )
    cells = {f"iteration {k}" if k else "sketch": f"{e.max():.1e}, {e.mean():.1e}" for k, e in enumerate(errors)}
    return {"steps": str(steps), "slices": str(SLICES[steps]), "log_snr": f"{mix:g}", "jumps": name, **cells}


def tables(found: dict[str, list[Row]], only: Row) -> str:
    """Return a table for each title, of the rows that agree with `only`."""
    chosen = {title: [row for row in rows if row | only == row] for title, rows in found.items()}
    return "\n\n".join(f"**{title}**: worst error, mean error.\n\n{markdown(rows)}" for title, rows in chosen.items())


def write(found: dict[str, list[Row]]) -> None:
    """Put all tables on their page, and what is shown of them among the coarse solvers."""
    put(DOCS / "results/extrapolated.md", "extrapolated, in full", tables(found, {}))
    put(DOCS / "results/solvers.md", "extrapolated", tables(found, SHOWN))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/results/extrapolated.md and solvers.md"
    )
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {options.samples} samples", flush=True)
    found: dict[str, list[Row]] = {}
    for name, problem in problems(options.samples).items():
        choices = [(steps, mix, jumps) for steps in SLICES for mix in (0.0, 0.4) for jumps in JUMPS]
        title = f"{name}, {len(problem[2])} samples"
        found[title] = [row(problem, *choice) for choice in tqdm(choices, desc=name)]
        print(tables({title: found[title]}, {}), flush=True)
    if options.write:
        write(found)
