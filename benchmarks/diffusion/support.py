"""Support of every scheduler of diffusers by `sample`: native, by its own step, or refused; and the error.

    python benchmarks/diffusion/support.py            # prints the table, in half a minute
    python benchmarks/diffusion/support.py --write    # also writes it into docs/results/support.md

Each scheduler is run to the end, 25 steps in five slices, and compared with the loop over the unmodified scheduler from
the same latents and generator, with a smooth function as network. The error is the relative error of the worse of two
samples. Schedulers with Brownian paths need torchsde and are missing without it.
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
OPTIONS: dict[str, list[dict[str, Any]]] = {  # of the schedulers; those that are not listed have their defaults
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
STEP_OPTIONS: dict[str, dict[str, Any]] = {  # keyword arguments of `step`, which `AnyScheduler` passes on
    "EulerDiscreteScheduler": {"s_churn": 40.0},
    "EDMEulerScheduler": {"s_churn": 40.0},
    "FlowMatchHeunDiscreteScheduler": {"s_churn": 40.0},
    "TCDScheduler": {"eta": 0.8},
}


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return a smooth function of state and timestep."""
    return 0.8 * x - 0.3 * x.tanh() * (t.reshape(-1, *[1] * (x.ndim - 1)).float() / 1000)


def evaluate(scheduler: Any, step_options: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of support of a scheduler, and its errors against its own loop or the reason of the refusal.

    Args:
        scheduler: a scheduler of diffusers.
        step_options: keyword arguments for its `step`; empty for a pipeline's.
    """
    support = "native" if has_native_solver(scheduler) and not step_options else "own step"
    errors = []
    # In float64 an error of the method shows that rounding in float32 would hide.
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = (x * float(getattr(scheduler, "init_noise_sigma", 1.0))).to(dtype)

        def model(x: torch.Tensor, t: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
            return network(x, t).to(dtype)  # some schedulers scale the input of float32 networks in float64

        final_states = []
        try:
            options = {"num_inference_steps": 25, "slices": 5, "tolerance": 0.0}
            generator = torch.Generator().manual_seed(1)
            torch.manual_seed(2)  # the global generator may seed a Brownian path
            solver = AnyScheduler(scheduler, step_options) if step_options else scheduler
            final_states.append(sample(model, x, solver, generator=generator, **options).final_state)
        except (ValueError, TypeError, parareal.PararealError) as error:
            return "refused", str(error)
        torch.manual_seed(2)  # the loop gets the same global state
        final_states.append(scheduler_loop(model, x, scheduler, 25, torch.Generator().manual_seed(1), **step_options))
        errors.append(relative_error(*final_states))
    return support, f"{errors[0]:.0e}, {errors[1]:.0e}"


def build_rows() -> list[dict[str, str]]:
    """Return the rows of the table, by name of the scheduler."""
    rows = []
    names = sorted(n for n in dir(schedulers) if n.endswith("Scheduler") and not n.startswith("Flax"))
    for name in tqdm(names):
        scheduler_class = getattr(diffusers, name, None)
        # Without an optional library diffusers exports a placeholder that is no scheduler.
        if not (inspect.isclass(scheduler_class) and issubclass(scheduler_class, SchedulerMixin)):
            continue
        cases = [(options, {}) for options in OPTIONS.get(name, [{}])]
        for options, step_options in [*cases, *([({}, STEP_OPTIONS[name])] if name in STEP_OPTIONS else [])]:
            listing = ", ".join(f"{k}={v!r}" for k, v in (options | step_options).items()) or "defaults"
            listing = f"step({listing})" if step_options else listing
            try:
                support, error = evaluate(scheduler_class(**options), step_options)
            except Exception as failure:  # the scheduler is for another kind of model, or a library is missing
                support, error = "not applicable", f"{type(failure).__name__}: {failure}"
            error = " ".join(error.split())  # messages with line breaks would break the table
            rows.append(
                {
                    "scheduler": name,
                    "options": listing,
                    "support": support,
                    "error in float32, float64; or reason": error,
                }
            )
    return rows


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/support.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    text = markdown(build_rows())
    print(text)
    if options.write:
        head = PAGE.read_text().split("| scheduler")[0]
        PAGE.write_text(f"{head}{text}\n")


if __name__ == "__main__":
    main()
