"""Schedulers that nobody wrote native code for: their own step, on states that are taken out and put back."""

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler
from parareal_diffusers import DDIM, denoised, sample
from parareal_diffusers.testing import GaussianMixture, relative_error, scheduler_loop
from problems import smooth_network as network

import parareal

KINDS = {
    "UniPC": ("UniPCMultistepScheduler", {}),
    "UniPC, order 3, no corrector at first": (
        "UniPCMultistepScheduler",
        {"solver_order": 3, "disable_corrector": [0], "use_karras_sigmas": True},
    ),
    "UniPC, noise prediction": (
        "UniPCMultistepScheduler",
        {"predict_x0": False, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ),
    "DEIS": ("DEISMultistepScheduler", {}),
    "DEIS, order 3": ("DEISMultistepScheduler", {"solver_order": 3}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "Heun, karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}),
    "EDM Euler": ("EDMEulerScheduler", {}),
    "EDM DPM++": ("EDMDPMSolverMultistepScheduler", {}),
    "DPM-Solver, inverse": ("DPMSolverMultistepInverseScheduler", {}),
}


def made(name):
    kind, options = KINDS[name]
    return getattr(diffusers, kind)(**options)


def noise(scheduler, dtype=torch.float32, samples=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, 4, 4, generator=generator, dtype=torch.float64)
    return (x * float(getattr(scheduler, "init_noise_sigma", 1.0))).to(dtype)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25])
@pytest.mark.parametrize("name", KINDS)
def test_equal_to_the_loop(name, steps):
    """Also in float64, where some cast to float32: the step is theirs."""
    scheduler = made(name)
    for dtype in (torch.float32, torch.float64) if steps < 25 else (torch.float32,):
        x = noise(scheduler, dtype)
        expected = scheduler_loop(network, x, scheduler, steps)
        for slices in (1, "sqrt", "steps") if steps < 25 else (4,):
            solution = sample(network, x, scheduler, slices=slices, num_inference_steps=steps, tolerance=0)
            assert solution.outcome is parareal.Outcome.EXACT
            assert relative_error(solution.final_state, expected) <= 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_row_by_row_it_is_our_own_sequential_run_bit_by_bit(name):
    scheduler = made(name)
    x = noise(scheduler)
    options = {"num_inference_steps": 12, "tolerance": 0, "max_batch": 1}
    one, end, nested = (
        sample(network, x, scheduler, **choice, **options).final_state
        for choice in ({"slices": 1}, {"slices": 5}, {"levels": (2, 2)})
    )
    assert torch.equal(one, end)
    assert torch.equal(one, nested)


@pytest.mark.parametrize("steps", [50, 100])
@pytest.mark.parametrize("name", ["UniPC", "DEIS", "Heun", "KDPM2", "FlowMatchHeun", "DPM-Solver, inverse"])
def test_many_steps(name, steps):
    scheduler = made(name)
    x = noise(scheduler)
    expected = scheduler_loop(network, x, scheduler, steps)
    solution = sample(network, x, scheduler, num_inference_steps=steps, tolerance=0, slices=4)
    assert relative_error(solution.final_state, expected) <= 1e-5


@pytest.mark.parametrize("name", ["UniPC", "DEIS", "Heun", "KDPM2", "FlowMatchHeun"])
def test_iterations_converge_and_slices_settle(name):
    """What is remembered crosses slices corrected, whatever it is; on an exact score."""
    scheduler = made(name)
    flow = name.startswith("Flow")
    mixture = GaussianMixture.random(6, (1, 4, 4))
    model = mixture.model(scheduler if flow else DDIMScheduler(), "flow_prediction" if flow else "epsilon")
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    expected = sample(model, x, scheduler, num_inference_steps=40, slices=1).final_state
    errors = [
        relative_error(
            sample(model, x, scheduler, num_inference_steps=40, criterion=parareal.Iterations(k)).final_state, expected
        )
        for k in (0, 1, 3)
    ]
    assert errors[2] < errors[1] < errors[0] < 0.3
    assert errors[2] < 1e-3
    near = sample(model, x, scheduler, num_inference_steps=40, tolerance=1e-2)
    assert near.outcome is parareal.Outcome.CONVERGED
    assert relative_error(near.final_state, expected) < 1e-2


def test_the_scheduler_is_left_alone():
    scheduler = UniPCMultistepScheduler()
    before = {name: repr(value) for name, value in scheduler.__dict__.items()}
    state = torch.get_rng_state()
    sample(network, noise(scheduler), scheduler, num_inference_steps=8)
    assert {name: repr(value) for name, value in scheduler.__dict__.items()} == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("PNDMScheduler", "repeats its first timesteps; use DPMSolverMultistepScheduler"),
        ("SASolverScheduler", "draws noise, which native solvers reproduce only"),
        ("KDPM2AncestralDiscreteScheduler", "draws noise, which native solvers reproduce only"),
        ("LCMScheduler", "shows no sigma for each of its steps"),
        ("DDIMInverseScheduler", "shows no sigma for each of its steps"),
    ],
)
def test_what_cannot_be_right_is_refused_before_any_work(kind, message):
    def never(x, t):
        raise AssertionError("work was done before the input was checked")

    state = torch.get_rng_state()
    scheduler = getattr(diffusers, kind)()
    with pytest.raises(ValueError, match=message):
        sample(never, noise(scheduler), scheduler, num_inference_steps=20)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_state_that_cannot_be_carried_is_noticed():
    class Hides(HeunDiscreteScheduler):
        """Remembers something where nobody looks."""

        secret = [0]  # noqa: RUF012, that is the point

        def step(self, model_output, timestep, sample, **options):
            self.secret[0] += 1
            return super().step(model_output * (1 + self.secret[0] % 7), timestep, sample, **options)

    with pytest.raises(ValueError, match="cannot be carried from step to step"):
        sample(network, noise(Hides()), Hides(), num_inference_steps=10)


def test_samples_that_influence_each_other_are_noticed():
    class Couples(HeunDiscreteScheduler):
        def step(self, model_output, timestep, sample, **options):
            return super().step(model_output * (1 + model_output.norm()), timestep, sample, **options)

    with pytest.raises(ValueError, match="cannot be carried from step to step"):
        sample(network, noise(Couples()), Couples(), num_inference_steps=10)


@pytest.mark.parametrize(
    ("solver", "coarse"), [(DDIMScheduler(), UniPCMultistepScheduler()), (UniPCMultistepScheduler(), "same")]
)
def test_it_is_no_coarse_solver(solver, coarse):
    with pytest.raises(TypeError, match="has no native solver, which a coarse solver must be"):
        sample(network, noise(solver), solver, num_inference_steps=9, coarse=coarse)


def test_a_used_scheduler_with_preset_timesteps():
    """What a scheduler did before must not matter; where it would, the call is refused."""
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(8)
    x = noise(scheduler)
    fresh = sample(network, x, scheduler, tolerance=0).final_state
    assert relative_error(fresh, scheduler_loop(network, x, scheduler, 8)) < 1e-5
    for t in scheduler.timesteps[:5]:
        scheduler.step(x, t, x)
    with pytest.raises(ValueError, match="call its set_timesteps again"):
        sample(network, x, scheduler)
    again = sample(network, x, scheduler, num_inference_steps=8, tolerance=0).final_state
    assert torch.equal(again, fresh)


def test_what_only_native_solvers_can_do():
    with pytest.raises(ValueError, match="a model marked denoised needs"):
        sample(denoised(network), noise(DDIMScheduler()), UniPCMultistepScheduler(), num_inference_steps=9)
    with pytest.raises(TypeError, match="takes its nodes from one of DDIMScheduler"):
        sample(network, noise(DDIMScheduler()), DDIM(HeunDiscreteScheduler()), num_inference_steps=9)


@pytest.mark.parametrize("name", ["EDM Euler", "EDM DPM++"])
def test_coarse_solvers_know_the_preconditioning_of_edm(name):
    scheduler = made(name)
    mixture = GaussianMixture.random(6, (1, 4, 4))
    data = scheduler.config["sigma_data"]

    def model(x, t):
        sigma = (4 * t.double()).exp()[:, None, None, None]
        total = sigma**2 + data**2
        state = x.double() * total.sqrt()
        clean = mixture.denoise(state, sigma.flatten())
        return ((clean - data**2 / total * state) / (sigma * data) * total.sqrt()).to(x.dtype)

    x = noise(scheduler, torch.float64)[:, :1]
    options = {"num_inference_steps": 40}
    expected = sample(model, x, scheduler, slices=1, **options).final_state
    errors = [
        relative_error(sample(model, x, scheduler, criterion=parareal.Iterations(k), **options).final_state, expected)
        for k in (0, 3)
    ]
    assert errors[1] < 3e-3 < errors[0] < 0.3


def test_what_is_no_scheduler():
    with pytest.raises(TypeError, match="must be a scheduler of diffusers, or a solver object, not int"):
        sample(network, noise(DDIMScheduler()), 3, num_inference_steps=9)
