"""What `sample` makes of every scheduler of diffusers: native, its own step row by row, or refused, and how exact.

    python benchmarks/diffusion/support.py            # prints the table, in half a minute
    python benchmarks/diffusion/support.py --write    # and puts it into docs/results/support.md

Each is run to the end over five slices of 25 steps and held against the loop over the unmodified scheduler, from the
same latents and generator, with a smooth function as network: the relative error of the worse of two samples. The
schedulers of Brownian paths are there only where torchsde is installed.
"""

import argparse
import inspect
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from parareal_diffusers import AnyScheduler, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers._schedulers.native import has_native_solver
from parareal_diffusers.testing import relative_error, scheduler_loop
from tqdm.auto import tqdm

import parareal

PAGE = Path(__file__).parents[2] / "docs" / "results" / "support.md"
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "DDPMScheduler": [{}, {"variance_type": "fixed_large"}, {"variance_type": "fixed_large_log"}],
    "DDIMScheduler": [{}, {"timestep_spacing": "trailing"}, {"thresholding": True, "clip_sample": False}],
    "DPMSolverMultistepScheduler": [
        {},
        {"solver_order": 3, "use_karras_sigmas": True},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ],
    "DPMSolverSinglestepScheduler": [{"lower_order_final": True}, {"lower_order_final": True, "solver_order": 3}],
    "EulerDiscreteScheduler": [{}, {"use_karras_sigmas": True}, {"prediction_type": "v_prediction"}],
    "FlowMatchEulerDiscreteScheduler": [{}, {"shift": 3.0}, {"stochastic_sampling": True}],
    "UniPCMultistepScheduler": [
        {},
        {"solver_order": 3},
        {"predict_x0": False, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"disable_corrector": [0, 1]},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ],
    "DEISMultistepScheduler": [{}, {"solver_order": 3}],
    "HeunDiscreteScheduler": [{}, {"use_karras_sigmas": True}],
    "KDPM2DiscreteScheduler": [{}, {"use_karras_sigmas": True}],
    "LMSDiscreteScheduler": [{}, {"use_karras_sigmas": True}],
    "FlowMatchHeunDiscreteScheduler": [{}, {"shift": 3.0}],
    "EDMDPMSolverMultistepScheduler": [{}, {"solver_order": 3}],
    "SASolverScheduler": [{}, {"predictor_order": 3, "corrector_order": 4}],
    "DPMSolverSDEScheduler": [{}, {"noise_sampler_seed": 7, "use_karras_sigmas": True}],
}
STEP_OPTIONS: dict[str, dict[str, Any]] = {  # of `step`, which `AnyScheduler` passes on
    "EulerDiscreteScheduler": {"s_churn": 40.0},
    "EDMEulerScheduler": {"s_churn": 40.0},
    "FlowMatchHeunDiscreteScheduler": {"s_churn": 40.0},
    "TCDScheduler": {"eta": 0.8},
}


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return something smooth."""
    return 0.8 * x - 0.3 * x.tanh() * (t.reshape(-1, *[1] * (x.ndim - 1)).float() / 1000)


def outcome(scheduler: Any, given: dict[str, Any]) -> tuple[str, str]:
    """Return how a scheduler, its step `given` options, is sampled, and how far from its own loop."""
    how = "native" if has_native_solver(scheduler) and not given else "own step"
    errors = []
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = (x * float(getattr(scheduler, "init_noise_sigma", 1.0))).to(dtype)

        def model(x: torch.Tensor, t: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            return network(x, t).to(dtype)  # some schedulers scale the input of float32 networks in float64

        ends = []
        try:
            options = {"num_inference_steps": 25, "slices": 5, "tolerance": 0.0}
            generator = torch.Generator().manual_seed(1)
            torch.manual_seed(2)  # of what seeds a Brownian path
            solver = AnyScheduler(scheduler, given) if given else scheduler
            ends.append(sample(model, x, solver, generator=generator, **options).final_state)
        except (ValueError, TypeError, parareal.PararealError) as error:
            return "refused", str(error)
        torch.manual_seed(2)
        ends.append(scheduler_loop(model, x, scheduler, 25, torch.Generator().manual_seed(1), **given))
        errors.append(relative_error(*ends))
    return how, f"{errors[0]:.0e}, {errors[1]:.0e}"


def rows() -> list[dict[str, str]]:
    """Return the table."""
    found = []
    kinds = sorted(n for n in dir(schedulers) if n.endswith("Scheduler") and not n.startswith("Flax"))
    for name in tqdm(kinds):
        kind = getattr(diffusers, name, None)
        if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
            continue
        cases = [(options, {}) for options in OPTIONS.get(name, [{}])]
        for options, given in [*cases, *([({}, STEP_OPTIONS[name])] if name in STEP_OPTIONS else [])]:
            shown = ", ".join(f"{k}={v!r}" for k, v in (options | given).items()) or "as it comes"
            shown = f"step({shown})" if given else shown
            try:
                how, error = outcome(kind(**options), given)
            except Exception as broken:  # of the scheduler itself: another kind of model, or a library that is missing
                how, error = "not a sampler of this kind", f"{type(broken).__name__}: {broken}"
            error = " ".join(error.split())
            found.append(
                {"scheduler": name, "options": shown, "how": how, "error in float32, float64; or why not": error}
            )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/support.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    text = markdown(rows())
    print(text)
    if given.write:
        head = PAGE.read_text().split("| scheduler")[0]
        PAGE.write_text(f"{head}{text}\n")


if __name__ == "__main__":
    main()
