"""Convergence of every solver, by coarse solver, by treatment of the history and by coupling of the noise.

    python benchmarks/diffusion/solvers.py                      # prints all tables; about fifteen minutes
    python benchmarks/diffusion/solvers.py --write              # also writes them into docs/results/solvers.md
    python benchmarks/diffusion/solvers.py --only noise         # some of: solvers coarse history noise flow
    python benchmarks/diffusion/solvers.py --only solvers --rows LMS UniPC --write      # replaces these rows only

There are three models: the shipped networks (Fashion-MNIST, four classes), one that predicts noise and, for the table
`flow`, one that predicts velocities; and an exact Gaussian-mixture score (12 modes in 64 dimensions). All solvers of a
table start from the same latents and, where they add noise, from equal generators. The error of a sample is the RMS of
the difference from the sequential solution over the RMS of that solution. Tables show the mean and, after a slash, the
worst.
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

PAGE = DOCS / "results/solvers.md"
MAX_ITERATIONS = 8  # after which an error is reported as not within the tolerance
Row = dict[str, str]


@dataclass(frozen=True)
class SamplingTask:
    """A model to sample, with its latents and arguments."""

    name: str
    model: Callable[..., Any]
    latents: torch.Tensor
    kwargs: dict[str, Any]
    """keyword arguments of the model"""
    config: dict[str, Any]
    """the training schedule, as options of a scheduler"""

    def solve(self, solver: Any, steps: int, **options: Any) -> parareal.Solution:
        """Sample from the task's latents, with a new generator of the same seed."""
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": steps, "generator": generator, "model_kwargs": self.kwargs} | options
        # Schedulers in sigma coordinates start from noise of their largest sigma.
        latents = self.latents * float(getattr(solver, "init_noise_sigma", 1.0))
        return sample(self.model, latents, solver, throw=False, **options)

    def measure_errors(
        self, solver: Any, steps: int, reference: torch.Tensor, count: int, **options: Any
    ) -> list[torch.Tensor]:
        """Return the errors of all samples after each iteration, each of shape (samples,).

        There are at most `count` iterations. After three, the run ends as soon as the worst error is below 1e-3.
        """
        errors = []

        def record_error(refinement: parareal.Refinement) -> bool:
            errors.append(relative_errors(refinement.final_state, reference))
            return refinement.iteration < 3 or bool(errors[-1].max() > 1e-3)

        self.solve(solver, steps, criterion=parareal.Iterations(count), callback=record_error, **options)
        return errors

    def solve_sequentially(self, solver: Any, steps: int) -> torch.Tensor:
        """Return the sequential final states."""
        return self.solve(solver, steps, slices=1).final_state


def build_tasks() -> list[SamplingTask]:
    """Return the shipped network and the Gaussian mixture."""
    net, own = models.load("fashion-mnist")
    names = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "num_train_timesteps")
    config = {name: own.config[name] for name in names}
    seed = torch.Generator().manual_seed(0)
    labels = {"class_labels": torch.tensor([0, 3, 7, 9])}
    network = SamplingTask("network", net, torch.randn(4, 1, 28, 28, generator=seed), labels, config)
    latents = torch.randn(8, 1, 8, 8, generator=seed, dtype=torch.float64)
    return [network, SamplingTask("mixture", GaussianMixture.random().model(DDIMScheduler()), latents, {}, {})]


def build_flow_tasks() -> list[SamplingTask]:
    """Return the shipped network that predicts velocities."""
    net, _ = models.load("fashion-mnist-flow")
    latents = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return [SamplingTask("network", net, latents, {"class_labels": torch.tensor([0, 3, 7, 9])}, {})]


def build_solvers(config: dict[str, Any]) -> dict[str, Any]:
    """Return the schedulers and solvers of the comparison, by name.

    `config` is the training schedule; it is empty for the mixture, whose schedule is the schedulers' default.
    """
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


def build_flow_solvers() -> dict[str, Any]:
    """Return the schedulers of the comparison on a flow, by name."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return {
        "Euler": FlowMatchEulerDiscreteScheduler(),
        "Euler, shift 3": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "Heun": FlowMatchHeunDiscreteScheduler(),
        "DPM-Solver++(2M)": DPMSolverMultistepScheduler(**flow),
        "UniPC": UniPCMultistepScheduler(**flow),
    }


def format_errors(errors: torch.Tensor) -> str:
    """Return the mean and the worst error of the samples."""
    return f"{errors.mean():.1e} / {errors.max():.1e}"


def count_iterations(errors: list[torch.Tensor], tolerance: float) -> str:
    """Return the number of iterations after which the worst error stays within a tolerance."""
    # Errors can rise again after an iteration within the tolerance, so the last one above it counts.
    good = [bool(e.max() <= tolerance) for e in errors]
    if not good[-1]:
        return f"> {len(good) - 1}"
    return str(max((i + 1 for i, ok in enumerate(good) if not ok), default=0))


def format_convergence(errors: list[torch.Tensor]) -> Row:
    """Return the columns of the errors by iteration, and of the iterations to two tolerances."""
    row = {f"iteration {k}": format_errors(errors[k]) for k in range(4)}
    return row | {f"iterations to {text}": count_iterations(errors, float(text)) for text in ("1e-2", "1e-3")}


def make_table_of_solvers(task: SamplingTask, steps: int, only: list[str] | None = None) -> list[Row]:
    """Return each solver's errors by iteration, with the automatic coarse solver and number of slices."""
    rows = []
    selected = {name: solver for name, solver in build_solvers(task.config).items() if only is None or name in only}
    for name, solver in tqdm(selected.items(), desc=f"solvers, {task.name}"):
        errors = task.measure_errors(solver, steps, task.solve_sequentially(solver, steps), MAX_ITERATIONS)
        rows.append({"solver": name} | format_convergence(errors))
    return rows


def make_table_of_coarse(task: SamplingTask, steps: int) -> list[Row]:
    """Return the mean error after one and two iterations, by coarse solver."""
    names = ["ddim", "dpmpp_2m", "dpmpp_3m", "ddpm", "dpmpp_2m_sde", "same"]
    fine = ["DDIM", "DPM-Solver++(2M)", "DPM-Solver++(2S)", "DDPM", "DDPM, fixed_large", "DDIM, eta 0.5",
            "SDE-DPM-Solver++(2M)", "SDE-DPM-Solver++(2S)"]  # fmt: skip
    rows = []
    for name in tqdm(fine, desc=f"coarse, {task.name}"):
        solver = build_solvers(task.config)[name]
        reference = task.solve_sequentially(solver, steps)
        row = {"fine solver": name}
        for coarse in names:
            errors = task.measure_errors(solver, steps, reference, 2, coarse=coarse)
            row[coarse] = ", ".join(f"{e.mean():.1e}" for e in errors[1:])
        rows.append(row)
    return rows


@contextmanager
def replace_functions(owner: Any, **methods: Any) -> Iterator[None]:
    """Replace functions of a class or module within a `with` block; the package's own code calls them."""
    originals = {name: owner.__dict__[name] for name in methods}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name, method in originals.items():
            setattr(owner, name, method)


def make_table_of_history(task: SamplingTask, steps: int) -> list[Row]:
    """Return the errors of multistep solvers for three treatments of the history at slice boundaries.

    The other treatments are no options of the package, so they replace the method that corrects the history.
    """

    def keep_memory(self, memory, change, node, coarse_memories):
        return memory

    def shift_memory(self, memory, change, node, coarse_memories):
        # With the predicted noise fixed, a change of the state by dx changes the clean sample by dx / alpha.
        shift = change / self.grid.stop.alpha[node - 1]
        return memory._replace(predictions=memory.predictions + shift[:, None])

    treatments = {
        "carried unchanged": {"correct": keep_memory},
        "shifted with the state, noise fixed": {"correct": shift_memory},
        "shifted by the coarse change (ours)": {},
    }
    rows = []
    for name in ("DPM-Solver++(2M)", "DPM-Solver++(3M)"):
        solver = build_solvers(task.config)[name]
        reference = task.solve_sequentially(solver, steps)
        for treatment, methods in tqdm(treatments.items(), desc=f"history, {task.name}"):
            with replace_functions(SolverStepper, **methods):
                errors = task.measure_errors(solver, steps, reference, 4)
            rows.append(
                {"solver": name, "history": treatment}
                | {f"iteration {k}": format_errors(errors[k]) for k in range(1, 4)}
            )
    return rows


def make_table_of_noise(task: SamplingTask, steps: int) -> list[Row]:
    """Return DDPM's errors with coarse noise that is coupled to the fine noise, independent of it, or zero.

    The package has coupled noise only, so the other kinds replace the function that computes a jump's noise.
    """

    def draw_independent(recorded_noise, step, weights, a, b):
        generator = torch.Generator().manual_seed(1000 * a + b)
        return math.hypot(*weights(a, b)) * torch.randn(
            recorded_noise.shape, generator=generator, dtype=recorded_noise.dtype
        )

    def return_zero(recorded_noise, step, weights, a, b):
        return torch.zeros(recorded_noise.shape, dtype=recorded_noise.dtype)

    solver = build_solvers(task.config)["DDPM"]
    reference = task.solve_sequentially(solver, steps)
    rows = []
    treatments = {
        "coupled (ours)": ({}, "ddpm"),
        "independent": ({"_jump": draw_independent}, "ddpm"),
        "none": ({"_jump": return_zero}, "ddpm"),
        "none, DDIM as coarse solver": ({}, "ddim"),
    }
    for treatment, (methods, coarse) in tqdm(treatments.items(), desc=f"noise, {task.name}"):
        with replace_functions(_noise, **methods):
            errors = task.measure_errors(solver, steps, reference, MAX_ITERATIONS, coarse=coarse)
        rows.append({"coarse noise": treatment} | format_convergence(errors))
    return rows


def make_table_of_flow(task: SamplingTask, steps: int) -> list[Row]:
    """Return the errors on a rectified flow, with a quarter of the steps and with all steps."""
    rows = []
    for count in (steps // 4, steps):
        for name, solver in tqdm(build_flow_solvers().items(), desc=f"flow, {count} steps"):
            reference = task.solve(solver, count, slices=1)
            errors = task.measure_errors(solver, count, reference.final_state, MAX_ITERATIONS)
            row = {"solver": name, "N": str(count), "evaluations": f"{reference.stats.sequential_span:.0f}"}
            rows.append(row | format_convergence(errors))
    return rows


TABLES = {
    "solvers": make_table_of_solvers,
    "coarse": make_table_of_coarse,
    "history": make_table_of_history,
    "noise": make_table_of_noise,
    "flow": make_table_of_flow,
}


def merge_rows(name: str, rows: list[Row]) -> list[Row]:
    """Return the rows of a table in the documentation, with `rows` in place of those of the same solvers."""
    table = PAGE.read_text().split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0].strip()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    old = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    new = {row["solver"]: row for row in rows}
    return [new.get(row["solver"], row) for row in old]


def main() -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(TABLES), nargs="*", default=list(TABLES), help="tables to make")
    parser.add_argument("--rows", nargs="*", help="only these solvers, of the table solvers")
    parser.add_argument("--steps", type=int, default=100, help="steps of the solvers")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results/solvers.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}"
    for name in options.only:
        for task in build_flow_tasks() if name == "flow" else build_tasks():
            if name == "solvers" and options.rows:
                rows = merge_rows(f"{name}, {task.name}", make_table_of_solvers(task, options.steps, options.rows))
            else:
                rows = TABLES[name](task, options.steps)
            text = markdown(rows)
            print(f"\n{name}, {task.name}, N = {options.steps}, {machine}\n\n{text}")
            if options.write:
                put(PAGE, f"{name}, {task.name}", text)


if __name__ == "__main__":
    main()
