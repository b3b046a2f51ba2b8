"""Unsupported schedulers and options are refused before any work, with the reason and an alternative."""

import inspect

import diffusers
import pytest
import torch
from diffusers import schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from parareal_diffusers import DPM2S, AnyScheduler, Churn, DPMFast, Euler, Heun, Sigmas, denoised, sample

REFUSED = {
    "PNDMScheduler": ({}, "repeats its first timesteps; use DPMSolverMultistepScheduler"),
    "DDPMScheduler": ({"variance_type": "fixed_large_log"}, "square root .* negative.*; use 'fixed_large'"),
    "DPMSolverSinglestepScheduler": (
        {"algorithm_type": "dpmsolver", "thresholding": True, "final_sigmas_type": "sigma_min"},
        "cannot threshold.*; use 'dpmsolver",
    ),
    "UniPCMultistepScheduler": ({"solver_p": diffusers.DDIMScheduler()}, "cannot be carried.*: leave solver_p out"),
    "FlowMatchEulerDiscreteScheduler": ({"invert_sigmas": True}, "invert_sigmas=True is unsupported: set it to False"),
    "BlockRefinementScheduler": ({}, "does not run.*too many values.*; use others, or another scheduler"),
    "CogVideoXDPMScheduler": ({}, "does not run.*'timestep_back'.*; use others, or another scheduler"),
    "DDPMWuerstchenScheduler": ({}, "does not run.*0-dim tensor.*; use others, or another scheduler"),
    "KarrasVeScheduler": ({}, "does not run.*'sample_hat'; use others, or another scheduler"),
    "PiflowScheduler": ({}, "does not run.*not divisible.*; use others, or another scheduler"),
    "RePaintScheduler": ({}, "does not run.*'original_image' and 'mask'; use others, or another scheduler"),
    "DiscreteDDIMScheduler": ({}, "no sigma per step and no alpha per timestep.*; use a scheduler of images"),
    "EntropyBoundScheduler": ({}, "no sigma per step and no alpha per timestep.*; use a scheduler of images"),
    "SCMScheduler": ({}, "num_inference_steps != 2.*; use another number of steps"),
    "HeliosScheduler": ({}, "does not take num_inference_steps=20: KeyError.*; use another number of steps"),
    "HeliosDMDScheduler": ({}, "does not take num_inference_steps=20: KeyError.*; use another number of steps"),
    "ScoreSdeVeScheduler": ({}, "has no step .*: use EulerDiscreteScheduler"),
}


class NetworkCalled(BaseException):
    """Raised by the network; no `Exception`, so that the engine does not catch it."""


def network(x, t):
    raise NetworkCalled


def latents(scheduler, samples=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, 4, 4, generator=generator) * float(getattr(scheduler, "init_noise_sigma", 1.0))


def sampling_error(model, solver, x, **options):
    """Return the error with which `sample` ends; a refusal must not have advanced a generator."""
    generator, state = torch.Generator().manual_seed(1), torch.get_rng_state()
    before = generator.get_state()
    with pytest.raises((NetworkCalled, ValueError, TypeError)) as info:
        sample(model, x, solver, generator=generator, **options)
    if info.type is not NetworkCalled:
        assert torch.equal(generator.get_state(), before)
        assert torch.equal(torch.get_rng_state(), state)
    return info


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_work(name):
    options, message = REFUSED[name]
    scheduler = getattr(diffusers, name)(**options)
    info = sampling_error(network, scheduler, latents(scheduler), num_inference_steps=20)
    assert info.type in (ValueError, TypeError)
    info.match(message)


@pytest.mark.filterwarnings("ignore:Should have")
def test_all_others_reach_the_network():
    """All other schedulers of diffusers that can be constructed without arguments are supported."""
    count = 0
    for name in sorted(n for n in dir(schedulers) if n.endswith("Scheduler")):
        kind = getattr(diffusers, name, None)
        if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)) or not REFUSED.get(name, ({1: 1},))[0]:
            continue
        required = [p for p in inspect.signature(kind.__init__).parameters.values() if p.default is p.empty]
        if any(p.kind is p.POSITIONAL_OR_KEYWORD for p in required[1:]):
            continue  # schedulers of other kinds of models
        scheduler = kind()
        info = sampling_error(network, scheduler, latents(scheduler), num_inference_steps=6, slices=3)
        assert info.type is NetworkCalled, name
        count += 1
    assert count >= 30


class DrawsWithoutGenerator(diffusers.EDMEulerScheduler):
    """A scheduler that draws noise from the global generator only."""

    def step(self, model_output, timestep, sample, return_dict=True):
        result = super().step(model_output, timestep, sample, return_dict=False)
        return (result[0] + 0.1 * torch.randn_like(sample), *result[1:])


def test_a_scheduler_that_draws_without_a_generator_is_refused():
    info = sampling_error(network, DrawsWithoutGenerator(), latents(DrawsWithoutGenerator()), num_inference_steps=5)
    info.match("step takes no generator.*: use EulerAncestralDiscreteScheduler")


SIGMAS = Sigmas.karras(5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpm_adaptive", "the number and the levels of its steps are not known .*; use DPMFast.evenly"),
        ("sample_dpm_adaptive", "the number and the levels of its steps are not known .*; use DPMFast.evenly"),
        ("sample_heun", r"sample_heun of k-diffusion is Heun\(sigmas\) here"),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde of k-diffusion is DPMSolver"),
    ],
)
def test_samplers_of_k_diffusion_are_refused_by_name_and_function(name, message):
    def function():
        raise AssertionError

    function.__name__ = name
    for solver in (name, function):
        sampling_error(denoised(network), solver, latents(SIGMAS)).match(message)


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        (Euler(SIGMAS, ancestral=True), {"noise_sampler": 3}, "must be a function of two sigmas"),
        (Euler(SIGMAS, ancestral=True), {"noise_sampler": network}, "leave one of them out"),
        (DPMFast(SIGMAS, ending=(2,)), {}, "cannot end at zero .*: end above zero"),
        (DPM2S(SIGMAS), {"num_inference_steps": 4}, "leave num_inference_steps out"),
    ],
)
def test_options_of_solvers_on_sigmas_are_checked(solver, options, message):
    sampling_error(denoised(network), solver, latents(SIGMAS), **options).match(message)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (Heun(SIGMAS, churn=Churn(4.0)), "draws its noise from a generator.*: leave noise_sampler out"),
        (diffusers.EulerAncestralDiscreteScheduler(), "is for solvers on Sigmas: give .* a generator"),
    ],
)
def test_a_noise_sampler_with_an_unsupported_solver_is_refused(solver, message):
    on_sigmas = isinstance(solver, Heun)
    with pytest.raises(ValueError, match=message):
        sample(
            denoised(network) if on_sigmas else network,
            latents(solver),
            solver,
            num_inference_steps=None if on_sigmas else 5,
            noise_sampler=lambda s, t: torch.zeros(2, 3, 4, 4),
        )


@pytest.mark.parametrize("noise", [torch.zeros(1, 3, 4, 4), None])
def test_noise_of_another_shape_is_refused(noise):
    with pytest.raises(ValueError, match="must return noise of the latents' shape"):
        sample(denoised(network), latents(SIGMAS), Euler(SIGMAS, ancestral=True), noise_sampler=lambda s, t: noise)


def test_churn_on_the_nodes_of_a_scheduler_is_refused():
    for solver in (
        Euler(diffusers.EulerDiscreteScheduler(), churn=Churn(4.0)),
        Heun(diffusers.HeunDiscreteScheduler(), churn=Churn(4.0)),
    ):
        info = sampling_error(network, solver, latents(solver.scheduler), num_inference_steps=5)
        info.match("churn is supported on the levels of Sigmas only: pass Sigmas .*AnyScheduler")


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: Churn(-1.0), "s_churn and s_noise must be zero or more"),
        (lambda: Churn(1.0, s_tmin=2.0, s_tmax=1.0), "0 <= s_tmin <= s_tmax is needed"),
        (lambda: Euler(ancestral=True, churn=Churn(1.0)), "not both: leave one of them out"),
        (lambda: DPMFast(ending=(4,)), "ending must be orders 1, 2 or 3"),
        (lambda: DPMFast.evenly(6, 1.0, 0.5), "0 < sigma_min < sigma_max is needed"),
        (lambda: Sigmas.exponential(0), "steps"),
    ],
)
def test_wrong_options_of_solvers_are_refused(construct, message):
    with pytest.raises(ValueError, match=message):
        construct()


def test_wrong_options_of_a_schedulers_own_step_are_refused():
    scheduler = diffusers.EulerDiscreteScheduler()
    for options in ({"churn": 3.0}, {"generator": None}, {"model_output": 3}):
        with pytest.raises(TypeError, match="the step of EulerDiscreteScheduler has no options"):
            AnyScheduler(scheduler, options)
