"""k-diffusion's samplers by name: the solver that each one corresponds to, and the unsupported ones."""

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
"""expressions for the solvers, by the names of samplers without `sample_`"""

_REFUSED = {
    "dpm_adaptive": "it chooses each step by the error of the step before, so the number and the levels of its steps "
    "are not known in advance, and slices that chose their own steps would reach another result; use "
    "DPMFast.evenly(evaluations, sigma_min, sigma_max), which plans the same kind of steps in advance",
}


def reject_k_diffusion_sampler(solver: Any) -> None:
    """Raise an error if `solver` is a sampling function of k-diffusion or the name of one.

    Raises:
        TypeError: for a supported sampler; the message has the solver to use instead.
        ValueError: for an unsupported one; the message has the reason.
    """
    function_name = solver if isinstance(solver, str) else getattr(solver, "__name__", "")
    name = function_name.removeprefix("sample_")
    if name in _REFUSED:
        raise ValueError(f"sample_{name} cannot be sampled in parallel in time: {_REFUSED[name]}")
    if name in SOLVERS:
        raise TypeError(
            f"sample_{name} of k-diffusion is {SOLVERS[name]} here: use that, for instance with "
            "sigmas = Sigmas.karras(25), and mark the model by denoised(model)"
        )
