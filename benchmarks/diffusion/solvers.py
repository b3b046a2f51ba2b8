"""How fast each solver converges, from which coarse solver, and what history and noise coupling are worth.

    python benchmarks/diffusion/solvers.py                      # prints all tables, in some fifteen minutes
    python benchmarks/diffusion/solvers.py --write              # and puts them into docs/reference/solvers.md
    python benchmarks/diffusion/solvers.py --only noise         # some of: solvers coarse history noise flow
    python benchmarks/diffusion/solvers.py --only solvers --rows LMS UniPC --write      # these rows alone

Three models: the shipped networks (Fashion-MNIST, four classes), one that predicts noise and for the table `flow` one
that predicts velocities, and an exact Gaussian-mixture score (12 modes in 64 dimensions). All solvers of a table start
from the same latents and, where they add noise, the same generator. The error of a sample is relative to the sequential
solution, in the root mean square; tables give the mean and, after a slash, the worst.
"""

import argparse
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_deis_multistep import DEISMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_k_dpm_2_discrete import KDPM2DiscreteScheduler
from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
from diffusers.schedulers.scheduling_sasolver import SASolverScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from parareal_diffusers import DDIM, _noise, models, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers._solvers.solver import SolverStepper
from parareal_diffusers.testing import GaussianMixture, relative_errors
from tqdm.auto import tqdm

import parareal
from benchmarks.tools.pages import DOCS, put

PAGE = DOCS / "reference/solvers.md"
FINEST = 8  # iterations after which a search for a tolerance is given up
Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    """A model to sample."""

    name: str
    model: Callable[..., Any]
    latents: torch.Tensor
    kwargs: dict[str, Any]
    config: dict[str, Any]

    def solution(self, solver: Any, steps: int, **options: Any) -> parareal.Solution:
        """Sample with the task's noise."""
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": steps, "generator": generator, "model_kwargs": self.kwargs} | options
        latents = self.latents * float(getattr(solver, "init_noise_sigma", 1.0))
        return sample(self.model, latents, solver, throw=False, **options)

    def errors(
        self, solver: Any, steps: int, reference: torch.Tensor, count: int, **options: Any
    ) -> list[torch.Tensor]:
        """Return the errors of all samples after each iteration, until `count`, or until the worst is below 1e-3."""
        errors = []

        def note(refinement: parareal.Refinement) -> bool:
            errors.append(relative_errors(refinement.final_state, reference))
            return refinement.iteration < 3 or bool(errors[-1].max() > 1e-3)

        self.solution(solver, steps, criterion=parareal.Iterations(count), callback=note, **options)
        return errors

    def reference(self, solver: Any, steps: int) -> torch.Tensor:
        """Return the sequential solution."""
        return self.solution(solver, steps, slices=1).final_state


def tasks() -> list[Task]:
    """Return the shipped network and the Gaussian mixture."""
    net, own = models.load("fashion-mnist")
    names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "num_train_timesteps")
    config = {name: own.config[name] for name in names}
    seed = torch.Generator().manual_seed(0)
    labels = {"class_labels": torch.tensor([0, 3, 7, 9])}
    network = Task("network", net, torch.randn(4, 1, 28, 28, generator=seed), labels, config)
    latents = torch.randn(8, 1, 8, 8, generator=seed, dtype=torch.float64)
    return [network, Task("mixture", GaussianMixture.random().model(DDIMScheduler()), latents, {}, {})]


def flow_tasks() -> list[Task]:
    """Return the shipped network that predicts velocities."""
    net, _ = models.load("fashion-mnist-flow")
    latents = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return [Task("network", net, latents, {"class_labels": torch.tensor([0, 3, 7, 9])}, {})]


def solvers(config: dict[str, Any]) -> dict[str, Any]:
    """Return what is compared, by name."""
    plain = {"clip_sample": False, "timestep_spacing": "trailing", **config}
    multi, single = DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
    sde, eps = {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    final = {"lower_order_final": True, **config}
    nodes = {name: config[name] for name in config if name != "num_train_timesteps"}
    return {
        "DDIM": DDIMScheduler(**plain),
        "Euler": EulerDiscreteScheduler(**nodes),
        "Heun": HeunDiscreteScheduler(**nodes),
        "KDPM2": KDPM2DiscreteScheduler(**nodes),
        "LMS": LMSDiscreteScheduler(**nodes),
        "UniPC": UniPCMultistepScheduler(**nodes),
        "UniPC-3": UniPCMultistepScheduler(solver_order=3, **nodes),
        "DEIS": DEISMultistepScheduler(**nodes),
        "DPM-Solver++(2M)": multi(**config),
        "DPM-Solver++(2M), karras": multi(use_karras_sigmas=True, **config),
        "DDIM, karras": DDIM(multi(use_karras_sigmas=True, **config)),
        "DPM-Solver++(3M)": multi(solver_order=3, **config),
        "DPM-Solver(2M), noise prediction": multi(**eps, **config),
        "DDIM, on the same nodes": DDIM(multi(**eps, **config)),
        "DPM-Solver++(2S)": single(**final),
        "DPM-Solver++(3S)": single(solver_order=3, **final),
        "DDPM": DDPMScheduler(**plain),
        "DDPM, fixed_large": DDPMScheduler(variance_type="fixed_large", **plain),
        "DDIM, eta 0.5": DDIM(DDIMScheduler(**plain), eta=0.5),
        "DDIM, eta 1": DDIM(DDIMScheduler(**plain), eta=1.0),
        "Euler ancestral": EulerAncestralDiscreteScheduler(**nodes),
        "SDE-DPM-Solver++(2M)": multi(**sde, **config),
        "SDE-DPM-Solver++(2S)": single(**sde, **final),
        "SA-Solver (own step)": SASolverScheduler(**nodes),
    }


def flow_solvers() -> dict[str, Any]:
    """Return what is compared on a flow, by name."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return {
        "Euler": FlowMatchEulerDiscreteScheduler(),
        "Euler, shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "Heun": FlowMatchHeunDiscreteScheduler(),
        "DPM-Solver++(2M)": DPMSolverMultistepScheduler(**flow),
        "UniPC": UniPCMultistepScheduler(**flow),
    }


def show(errors: torch.Tensor) -> str:
    """Write mean and worst."""
    return f"{errors.mean():.1e} / {errors.max():.1e}"


def needed(errors: list[torch.Tensor], tolerance: float) -> str:
    """Return after how many iterations the worst sample is within a tolerance for good."""
    good = [bool(e.max() <= tolerance) for e in errors]
    if not good[-1]:
        return f"> {len(good) - 1}"
    return str(max((i + 1 for i, ok in enumerate(good) if not ok), default=0))


def table_of_solvers(task: Task, steps: int, only: list[str] | None = None) -> list[Row]:
    """Give each solver's error after each iteration, with the automatic coarse solver and number of slices."""
    rows = []
    chosen = {name: solver for name, solver in solvers(task.config).items() if only is None or name in only}
    for name, solver in tqdm(chosen.items(), desc=f"solvers, {task.name}"):
        errors = task.errors(solver, steps, task.reference(solver, steps), FINEST)
        row = {"solver": name} | {f"iteration {k}": show(errors[k]) for k in range(4)}
        rows.append(row | {"to 1e-2": needed(errors, 1e-2), "to 1e-3": needed(errors, 1e-3)})
    return rows


def table_of_coarse(task: Task, steps: int) -> list[Row]:
    """Give the error after one and two iterations from each coarse solver."""
    names = ["ddim", "dpmpp_2m", "dpmpp_3m", "ddpm", "dpmpp_2m_sde", "same"]
    fine = ["DDIM", "DPM-Solver++(2M)", "DPM-Solver++(2S)", "DDPM", "DDPM, fixed_large", "DDIM, eta 0.5",
            "SDE-DPM-Solver++(2M)", "SDE-DPM-Solver++(2S)"]  # fmt: skip
    rows = []
    for name in tqdm(fine, desc=f"coarse, {task.name}"):
        solver = solvers(task.config)[name]
        reference = task.reference(solver, steps)
        row = {"fine solver": name}
        for coarse in names:
            errors = task.errors(solver, steps, reference, 2, coarse=coarse)
            row[coarse] = ", ".join(f"{e.mean():.1e}" for e in errors[1:])
        rows.append(row)
    return rows


@contextmanager
def replaced(owner: Any, **methods: Any) -> Iterator[None]:
    """Give a class or a module other functions for a while."""
    kept = {name: owner.__dict__[name] for name in methods}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(owner, name, method)


def table_of_history(task: Task, steps: int) -> list[Row]:
    """Give the error of multistep solvers, their history at slice boundaries treated in three ways."""

    def carried(self, memory, change, node, trails):
        return memory

    def shifted(self, memory, change, node, trails):
        shift = change / self.grid.stop.alpha[node - 1]
        return memory._replace(predictions=memory.predictions + shift[:, None])

    ways = {
        "carried as it is": {"correct": carried},
        "moved with the state, at fixed noise": {"correct": shifted},
        "changed as the coarse solver saw (ours)": {},
    }
    rows = []
    for name in ("DPM-Solver++(2M)", "DPM-Solver++(3M)"):
        solver = solvers(task.config)[name]
        reference = task.reference(solver, steps)
        for way, methods in tqdm(ways.items(), desc=f"history, {task.name}"):
            with replaced(SolverStepper, **methods):
                errors = task.errors(solver, steps, reference, 4)
            rows.append({"solver": name, "history": way} | {f"iteration {k}": show(errors[k]) for k in range(1, 4)})
    return rows


def table_of_noise(task: Task, steps: int) -> list[Row]:
    """Give DDPM's error with coarse noise coupled to the fine one, independent of it, and none."""

    def independent(record, step, weights, a, b):
        generator = torch.Generator().manual_seed(1000 * a + b)
        return math.hypot(*weights(a, b)) * torch.randn(record.shape, generator=generator, dtype=record.dtype)

    def none(record, step, weights, a, b):
        return torch.zeros(record.shape, dtype=record.dtype)

    solver = solvers(task.config)["DDPM"]
    reference = task.reference(solver, steps)
    rows = []
    ways = {"coupled (ours)": ({}, "ddpm"), "independent": ({"_jump": independent}, "ddpm"),
            "none": ({"_jump": none}, "ddpm"), "none, DDIM as coarse solver": ({}, "ddim")}  # fmt: skip
    for way, (methods, coarse) in tqdm(ways.items(), desc=f"noise, {task.name}"):
        with replaced(_noise, **methods):
            errors = task.errors(solver, steps, reference, FINEST, coarse=coarse)
        row = {"coarse noise": way} | {f"iteration {k}": show(errors[k]) for k in range(4)}
        rows.append(row | {"to 1e-2": needed(errors, 1e-2), "to 1e-3": needed(errors, 1e-3)})
    return rows


def table_of_flow(task: Task, steps: int) -> list[Row]:
    """Give the errors on a rectified flow with a quarter of the steps, and with all."""
    rows = []
    for count in (steps // 4, steps):
        for name, solver in tqdm(flow_solvers().items(), desc=f"flow, {count} steps"):
            reference = task.solution(solver, count, slices=1)
            errors = task.errors(solver, count, reference.final_state, FINEST)
            row = {"solver": name, "N": str(count), "evaluations": f"{reference.stats.sequential_span:.0f}"}
            row |= {f"iteration {k}": show(errors[k]) for k in range(4)}
            rows.append(row | {"to 1e-2": needed(errors, 1e-2), "to 1e-3": needed(errors, 1e-3)})
    return rows


TABLES = {
    "solvers": table_of_solvers,
    "coarse": table_of_coarse,
    "history": table_of_history,
    "noise": table_of_noise,
    "flow": table_of_flow,
}


def merged(name: str, rows: list[Row]) -> list[Row]:
    """Return the rows of a table in the page, with these in the places of those of the same name."""
    table = PAGE.read_text().split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0].strip()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    old = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    new = {row["solver"]: row for row in rows}
    return [new.get(row["solver"], row) for row in old]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(TABLES), nargs="*", default=list(TABLES))
    parser.add_argument("--rows", nargs="*", help="of the table solvers, these alone")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reference/solvers.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    machine = f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}"
    for name in given.only:
        for task in flow_tasks() if name == "flow" else tasks():
            if name == "solvers" and given.rows:
                rows = merged(f"{name}, {task.name}", table_of_solvers(task, given.steps, given.rows))
            else:
                rows = TABLES[name](task, given.steps)
            text = markdown(rows)
            print(f"\n{name}, {task.name}, N = {given.steps}, {machine}\n\n{text}")
            if given.write:
                put(PAGE, f"{name}, {task.name}", text)


if __name__ == "__main__":
    main()
