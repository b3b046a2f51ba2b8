"""What `parallelize` makes of pipelines, tasks, features and solvers: the tables of docs/how-to/pipelines.md.

    python benchmarks/pipelines/pipelines.py            # prints the tables, in a minute or two
    python benchmarks/pipelines/pipelines.py --write    # and puts them into docs/how-to/pipelines.md

The cases are those that the tests hold to 1e-5 (tests/pipelines/cases.py): tiny networks with random weights in real
pipelines, 12 steps, float32. They prove equality and say nothing of how fast a trained network converges.
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

PAGE = DOCS / "how-to/pipelines.md"


def drawn(pipe: Any, call: dict[str, Any], kind: str = "np") -> np.ndarray:
    """Return pictures, or latents."""
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(0)  # Stable Diffusion 3 encodes control images with noise of the global generator
    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0), output_type=kind).images)


def row(case: cases.Case) -> dict[str, str]:
    """Return a row of the table of features."""
    pipe = case.build()
    expected = drawn(pipe, case.call)
    with parallelize(pipe, tolerance=0.0, **case.options):
        exact = abs(drawn(pipe, case.call) - expected).max()
    with parallelize(pipe, **case.options) as handle:
        error = abs(drawn(pipe, case.call) - expected).max()
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


def solver_row(name: str, solver: Callable[[], Any], tasks: dict[str, Any]) -> dict[str, str]:
    """Return a row of a table of solvers."""
    found = {"solver": name}
    for task, (build, call) in tasks.items():
        pipe = build(scheduler=solver())
        expected = drawn(pipe, call)
        try:
            with parallelize(pipe, tolerance=0.0):
                found[task] = f"{abs(drawn(pipe, call) - expected).max():.0e}"
        except ValueError as error:
            found[task] = f"refused: {str(error).split(':')[0]}"
    return found


def refused() -> list[dict[str, str]]:
    """Return the table of what is refused, each with the error's own words."""
    rows = []
    for what, pipe, call in cases.refusals():
        try:
            with parallelize(pipe):
                drawn(pipe, call)
        except (ValueError, TypeError) as error:
            rows.append({"what": what, "the error": str(error)})
        else:
            raise AssertionError(f"{what} was not refused")
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/how-to/pipelines.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    features = markdown([row(case) for case in tqdm(cases.CASES)])
    solvers = markdown([solver_row(*item, cases.TASKS) for item in tqdm(cases.LATENT_SOLVERS.items())])
    flows = markdown([solver_row(*item, cases.FLOW_TASKS) for item in tqdm(cases.FLOW_SOLVERS.items())])
    refusals = markdown(refused())
    text = f"{features}\n\n### Solvers\n\n{solvers}\n\n{flows}\n\n### Refused\n\n{refusals}"
    print(text)
    if given.write:
        put(PAGE, "pipelines", text)


if __name__ == "__main__":
    main()
