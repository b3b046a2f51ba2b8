"""Errors of `parallelize` by pipeline, task, feature and solver: the tables of docs/results/pipelines.md.

    python benchmarks/pipelines/pipelines.py            # prints the tables; one or two minutes
    python benchmarks/pipelines/pipelines.py --write    # also writes them into docs/results/pipelines.md

The cases are those for which the tests require errors below 1e-5 (tests/pipelines/cases.py): tiny networks with random
weights in real pipelines, 12 steps, float32. They show equality to the unmodified pipeline. They do not show how fast a
trained network converges.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parareal_diffusers import parallelize
from parareal_diffusers._commands.report import markdown
from tqdm.auto import tqdm

from benchmarks.tools.pages import DOCS, put

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "pipelines"))
import cases  # noqa: E402

PAGE = DOCS / "results/pipelines.md"


def draw(pipe: Any, call: dict[str, Any], kind: str = "np") -> np.ndarray:
    """Return the images of a pipeline's call, or its latents with `kind="latent"`."""
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)  # Stable Diffusion 3 encodes control images with noise from the global generator
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type=kind).images)


def format_row(case: cases.Case) -> dict[str, str]:
    """Return one row of the table of features."""
    pipe = case.build()
    expected = draw(pipe, case.call)
    with parallelize(pipe, tolerance=0.0, **case.options):
        exact = abs(draw(pipe, case.call) - expected).max()
    with parallelize(pipe, **case.options) as handle:
        error = abs(draw(pipe, case.call) - expected).max()
    solution = handle.solution
    assert solution is not None
    return {
        "pipeline": case.pipeline,
        "task": case.task,
        "feature": case.feature,
        "tolerance 0": f"{exact:.0e}",
        "tolerance 1e-2": f"{error:.0e}",
        "iterations": str(solution.iterations),
    }


def format_solver_row(name: str, solver: Callable[[], Any], tasks: dict[str, Any]) -> dict[str, str]:
    """Return one row of a table of solvers: the error per task, or the beginning of a refusal."""
    row = {"solver": name}
    for task, (build, call) in tasks.items():
        pipe = build(scheduler=solver())
        expected = draw(pipe, call)
        try:
            with parallelize(pipe, tolerance=0.0):
                row[task] = f"{abs(draw(pipe, call) - expected).max():.0e}"
        except ValueError as error:
            # Only the part before the colon: the remedy is in the table of refusals.
            row[task] = f"refused: {str(error).split(':')[0]}"
    return row


def list_refusals() -> list[dict[str, str]]:
    """Return the rows of the table of refusals, with the error messages."""
    rows = []
    for name, pipe, call in cases.refusals():
        try:
            with parallelize(pipe):
                draw(pipe, call)
        except (ValueError, TypeError) as error:
            rows.append({"case": name, "error message": str(error)})
        else:
            raise AssertionError(f"{name} was not refused")
    return rows


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results/pipelines.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    features = markdown([format_row(case) for case in tqdm(cases.CASES)])
    solvers = markdown([format_solver_row(*item, cases.TASKS) for item in tqdm(cases.LATENT_SOLVERS.items())])
    flows = markdown([format_solver_row(*item, cases.FLOW_TASKS) for item in tqdm(cases.FLOW_SOLVERS.items())])
    refusals = markdown(list_refusals())
    text = f"{features}\n\n## Solvers\n\n{solvers}\n\n{flows}\n\n## Refused\n\n{refusals}"
    print(text)
    if options.write:
        put(PAGE, "pipelines", text)


if __name__ == "__main__":
    main()
