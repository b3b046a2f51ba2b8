"""Coarse jumps that extrapolate DDIM's own steps, against jumps that approximate the ODE.

    python benchmarks/diffusion/extrapolated.py
    python benchmarks/diffusion/extrapolated.py --samples 2
    python benchmarks/diffusion/extrapolated.py --write    # also writes the tables into the documentation

Prints errors relative to the sequential solution, worst and mean over the samples, of the coarse prediction and of two
iterations: on the shipped network and on the exact score of a Gaussian mixture, with slices even in steps and spaced by
`boundaries(..., log_snr=0.4)`. Takes some minutes on one core. `--write` puts all tables into
docs/results/extrapolated.md, and one setting of each into docs/results/solvers.md.
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
SHOWN_SETTING = {"steps": "50", "log_snr": "0.4"}
"""the setting shown in docs/results/solvers.md"""

Row = dict[str, str]


def build_problems(samples: int) -> dict[str, tuple[Any, Any, torch.Tensor, dict[str, Any]]]:
    """Return model, scheduler, initial noise and keyword arguments of the model, by the problem's name."""
    net, scheduler = models.load("fashion-mnist")
    latents = torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(21))
    trailing = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing")
    score = GaussianMixture.random(components=6, shape=(1, 4, 4)).model(trailing, "epsilon")
    small = torch.randn(4 * samples, 1, 4, 4, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    return {
        "trained network": (net, scheduler, latents, {"class_labels": torch.arange(samples) % 10}),
        "Gaussian mixture": (score, trailing, small, {}),
    }


def format_row(problem: Any, steps: int, mix: float, name: str) -> Row:
    """Return the row of one problem, number of steps, spacing and kind of jump."""
    model, scheduler, latents, kwargs = problem
    named: dict[str, Any] = {"num_inference_steps": steps, "model_kwargs": kwargs}
    # One slice is the sequential solution.
    reference = sample(model, latents, scheduler, slices=1, tolerance=0, **named).final_state
    errors: list[torch.Tensor] = []
    sample(
        model,
        latents,
        scheduler,
        boundaries=boundaries(scheduler, SLICES[steps], num_inference_steps=steps, log_snr=mix),
        coarse=JUMPS[name],
        criterion=parareal.Iterations(2),
        callback=lambda refinement: errors.append(relative_errors(refinement.final_state, reference)),
        **named,
    )
    heads = ("coarse prediction", "iteration 1", "iteration 2")
    cells = {head: f"{e.max():.1e}, {e.mean():.1e}" for head, e in zip(heads, errors, strict=True)}
    return {"steps": str(steps), "slices": str(SLICES[steps]), "log_snr": f"{mix:g}", "jumps": name, **cells}


def format_tables(results: dict[str, list[Row]], only: Row) -> str:
    """Return one table per title, of the rows whose entries agree with `only`."""
    matching = {title: [row for row in rows if row | only == row] for title, rows in results.items()}
    return "\n\n".join(f"**{title}**: worst error, mean error.\n\n{markdown(rows)}" for title, rows in matching.items())


def write(results: dict[str, list[Row]]) -> None:
    """Write all tables into the page of results, and the shown setting into the page on coarse solvers."""
    put(DOCS / "results/extrapolated.md", "extrapolated, all settings", format_tables(results, {}))
    put(DOCS / "results/solvers.md", "extrapolated", format_tables(results, SHOWN_SETTING))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=int, default=8, help="samples of the network; the mixture has four times that number"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the tables into docs/results",
    )
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {options.samples} samples", flush=True)
    results: dict[str, list[Row]] = {}
    for name, problem in build_problems(options.samples).items():
        settings = [(steps, mix, jumps) for steps in SLICES for mix in (0.0, 0.4) for jumps in JUMPS]
        title = f"{name}, {len(problem[2])} samples"
        results[title] = [format_row(problem, *setting) for setting in tqdm(settings, desc=name)]
        print(format_tables({title: results[title]}, {}), flush=True)
    if options.write:
        write(results)
