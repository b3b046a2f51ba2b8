"""k-diffusion's samplers by name: which solver each is, and which cannot be right."""

from typing import Any

SOLVERS = {
    "euler": "Euler(sigmas)",
    "euler_ancestral": "Euler(sigmas, ancestral=True)",
    "heun": "Heun(sigmas)",
    "dpm_2": "KDPM2(sigmas)",
    "dpm_2_ancestral": "KDPM2(sigmas, ancestral=True)",
    "lms": "LMS(sigmas)",
    "dpm_fast": "DPMFast.evenly(evaluations, sigma_min, sigma_max)",
    "dpmpp_2s_ancestral": "DPM2S(sigmas)",
    "dpmpp_sde": "DPM2S(sigmas, noise='sde')",
    "dpmpp_2m": "DPMSolver(sigmas, lower_order_final=False)",
    "dpmpp_2m_sde": "DPMSolver(sigmas, algorithm_type='sde-dpmsolver++', lower_order_final=False)",
    "dpmpp_3m_sde": "DPMSolver(sigmas, 3, 'sde-dpmsolver++', 'heun', lower_order_final=False)",
}
_REFUSED = {
    "dpm_adaptive": "each of its steps is chosen by the error of the one before, so that neither their number nor "
    "their levels are known beforehand, and slices that chose their own would end elsewhere than its one sequence; use "
    "DPMFast.evenly(evaluations, sigma_min, sigma_max), the same steps planned beforehand",
}


def check_no_sampler(solver: Any) -> None:
    """Raise for a function of k-diffusion, or the name of one, with the solver that it is or the reason against it."""
    called = solver if isinstance(solver, str) else getattr(solver, "__name__", "")
    name = called.removeprefix("sample_")
    if name in _REFUSED:
        raise ValueError(f"sample_{name} cannot be sampled in parallel in time: {_REFUSED[name]}")
    if name in SOLVERS:
        raise TypeError(
            f"sample_{name} of k-diffusion is {SOLVERS[name]} here, for instance with sigmas = Sigmas.karras(25), and "
            "the model marked by denoised(model)"
        )
