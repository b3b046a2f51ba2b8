"""Noise is a function of the step: it equals the sequential loop's, and coarse jumps get the sum of their steps'."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from parareal_diffusers import DDIM, DDPM, DPMSolver, StepInterval, sample
from parareal_diffusers._noise import RecordedNoise, posterior_variance
from parareal_diffusers._sampling import noise_source
from parareal_diffusers._schedulers.native import build_grid, copy_with_timesteps
from parareal_diffusers.testing import GaussianMixture, relative_error, scheduler_loop

import parareal

DDPM_SCHEDULER = DDPMScheduler(clip_sample=False)
SDE = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
SDE_SINGLESTEP = DPMSolverSinglestepScheduler(algorithm_type="sde-dpmsolver++", lower_order_final=True)
MODEL = GaussianMixture.random(5, (1, 4, 4)).model(DDPM_SCHEDULER)
X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def make_generator(seed=1):
    return torch.Generator().manual_seed(seed)


SETTINGS = [
    {"slices": 6},
    {"boundaries": [0, 1, 2, 17, 30]},
    {"levels": (3, 4)},
    {"slices": 10, "window": 3},
    {"slices": 6, "schedule": "synchronous"},
    {"slices": 6, "max_batch": 2},
    {"slices": 6, "coarse": "identity"},
    {"slices": 6, "coarse": "dpmpp_2m"},
    {"slices": "steps"},
]


@pytest.mark.parametrize("scheduler", [DDPM_SCHEDULER, SDE, SDE_SINGLESTEP], ids=["ddpm", "sde", "sde singlestep"])
@pytest.mark.parametrize("setting", SETTINGS, ids=[" ".join(map(str, s)) + str(i) for i, s in enumerate(SETTINGS)])
def test_the_sample_equals_the_sequential_loops(scheduler, setting):
    one, other = make_generator(), make_generator()
    expected = scheduler_loop(MODEL, X, scheduler, 30, one)
    solution = sample(MODEL, X, scheduler, num_inference_steps=30, tolerance=0, generator=other, **setting)
    assert relative_error(solution.final_state, expected) < 1e-6
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("scheduler", [DDPM_SCHEDULER, SDE, SDE_SINGLESTEP], ids=["ddpm", "sde", "sde singlestep"])
def test_there_may_be_one_generator_per_sample(scheduler):
    ones, others = [[make_generator(i) for i in range(3)] for _ in range(2)]
    expected = scheduler_loop(MODEL, X, scheduler, 20, ones)
    solution = sample(MODEL, X, scheduler, num_inference_steps=20, tolerance=0, generator=others)
    assert relative_error(solution.final_state, expected) < 1e-6
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(ones, others, strict=True))
    alone = sample(MODEL, X[1:2], scheduler, num_inference_steps=20, tolerance=0, generator=[make_generator(1)])
    assert relative_error(alone.final_state, expected[1:2]) < 1e-6


def test_without_a_generator_the_global_one_is_used():
    torch.manual_seed(3)
    expected = scheduler_loop(MODEL, X, DDPM_SCHEDULER, 20)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    solution = sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=20, tolerance=0)
    assert relative_error(solution.final_state, expected) < 1e-9
    assert torch.equal(torch.get_rng_state(), after)


def test_a_second_call_continues_with_the_generator_where_the_first_ended():
    one, other = make_generator(), make_generator()
    expected = [scheduler_loop(MODEL, X, DDPM_SCHEDULER, 12, one) for _ in range(2)]
    results = [
        sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=12, tolerance=0, generator=other).final_state
        for _ in range(2)
    ]
    assert relative_error(expected[1], expected[0]) > 0.1
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(results, expected, strict=True))


def test_deterministic_solvers_do_not_advance_the_generator():
    generator = make_generator()
    before = generator.get_state()
    sample(MODEL, X, DDIMScheduler(clip_sample=False), num_inference_steps=12, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_refused_call_does_not_advance_the_generator():
    generator = make_generator()
    before = generator.get_state()
    with pytest.raises(ValueError, match="schedule must be one of"):
        sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=12, generator=generator, schedule="pipelines")
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("size", [3, 3000], ids=["small, stored", "large, drawn again"])
def test_noise_is_a_function_of_the_step(size):
    """Steps may be drawn in any order, and steps without noise get zero. The smaller of noise and state is stored."""
    one = make_generator()
    noises = [torch.randn(2, size, generator=one) for _ in range(4)]
    record = RecordedNoise(make_generator(), (2, size), torch.device("cpu"), torch.float32, [0, 1, 3, 4])
    assert record.replays == (size == 3000)
    for step, expected in ((4, noises[3]), (0, noises[0]), (3, noises[2]), (1, noises[1]), (2, torch.zeros(2, size))):
        assert torch.equal(record.draw(step), expected)


@pytest.mark.parametrize("size", [4, 64], ids=["small", "large"])
def test_a_list_may_repeat_one_generator(size):
    """In `[generator] * n` the generator draws for one sample after the other."""
    x = torch.randn(3, 1, size, size, generator=make_generator(7))
    one, other = make_generator(), make_generator()

    def model(x, t):
        return 0.5 * x

    expected = scheduler_loop(model, x, DDPM_SCHEDULER, 8, [one] * 3)
    solution = sample(model, x, DDPM_SCHEDULER, num_inference_steps=8, tolerance=0, generator=[other] * 3)
    assert relative_error(solution.final_state, expected) < 1e-5
    assert torch.equal(one.get_state(), other.get_state())


def test_the_generator_advances_even_if_no_noise_is_needed():
    one, other = make_generator(), make_generator()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler_loop(MODEL, X, scheduler, 10, one, eta=0.5)
    stop = parareal.Iterations(0)
    sample(MODEL, X, DDIM(scheduler, eta=0.5), num_inference_steps=10, generator=other, criterion=stop, coarse="ddim")
    assert torch.equal(one.get_state(), other.get_state())


def noise_of(solver, grid):
    return noise_source.make_noise_source(solver, grid, X, make_generator(), X.dtype, range(grid.steps))


def jump_variance(solver, grid, a, b):
    noise = noise_of(solver, grid)
    assert noise is not None
    return math.hypot(*noise.weights(a, b)) ** 2


def one_step_variance(grid, a, b):
    level = [
        type(grid.start)(*(x[[i]].double() for x in levels)) for levels, i in ((grid.start, a), (grid.stop, b - 1))
    ]
    return float(posterior_variance(*level))


@settings(max_examples=40, deadline=None)
@given(ends=st.tuples(st.integers(0, 48), st.integers(1, 49)).filter(lambda e: e[0] < e[1]), which=st.integers(0, 3))
def test_coupled_noise_has_exactly_the_variance_of_one_step(ends, which):
    """For DDPM with the posterior variance, DDIM with eta = 1 and first-order SDE-DPM-Solver++."""
    ddim = DDIMScheduler(clip_sample=False)
    solver, scheduler = [
        (DDPM(), DDPM_SCHEDULER),
        (DDPM(variance_type="fixed_small_log"), DDPM_SCHEDULER),
        (DDIM(eta=1.0), ddim),
        (DPMSolver(order=1, algorithm_type="sde-dpmsolver++"), SDE),
    ][which]
    grid = build_grid(copy_with_timesteps(scheduler, 50))
    assert jump_variance(solver, grid, *ends) == pytest.approx(one_step_variance(grid, *ends), rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("eta", [0.2, 0.5, 0.9])
def test_coupled_noise_of_any_eta_preserves_the_variance_of_the_level(eta):
    """The variances of predicted and added noise sum to sigma^2 in a jump, as in the fine steps."""
    grid = build_grid(copy_with_timesteps(DDIMScheduler(clip_sample=False), 50))
    nodes = torch.arange(50)
    decay, _ = DDIM(eta=eta).linear(StepInterval(grid, nodes, nodes + 1, nodes, torch.zeros(50, 1)))
    predicted = float(decay[10:30].prod() * grid.start.sigma[10])
    added = jump_variance(DDIM(eta=eta), grid, 10, 30)
    assert predicted**2 + added == pytest.approx(float(grid.stop.sigma[29]) ** 2, rel=1e-4)


FAMILIES = {
    "ddpm": (DDPM_SCHEDULER, None, "ddpm"),
    "ddpm, fixed_large": (DDPMScheduler(clip_sample=False, variance_type="fixed_large"), None, "ddpm"),
    "ddim": (DDIMScheduler(clip_sample=False), 0.6, "same"),
    "sde": (SDE, None, "ddpm"),
    "sde singlestep": (SDE_SINGLESTEP, None, "same"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_jump_gets_the_sum_of_its_steps_noises(family):
    """With a constant predicted clean sample, the coarse prediction is the solution at every boundary."""
    scheduler, eta, coarse = FAMILIES[family]
    predicts_clean = type(scheduler).from_config(scheduler.config, prediction_type="sample")
    options = {"num_inference_steps": 24, "slices": 4, "coarse": coarse}
    coarse_prediction, end = (
        sample(
            lambda x, t: torch.full_like(x, 0.3),
            X,
            predicts_clean if eta is None else DDIM(predicts_clean, eta=eta),
            generator=make_generator(),
            criterion=parareal.Iterations(count),
            **options,
        )
        for count in (0, 4)
    )
    torch.testing.assert_close(coarse_prediction.states, end.states, rtol=0, atol=1e-4)


def test_coupled_noise_saves_iterations():
    reference = sample(
        MODEL, X, DDPM_SCHEDULER, num_inference_steps=60, slices=1, generator=make_generator()
    ).final_state
    coupled, deterministic = (
        sample(
            MODEL,
            X,
            DDPM_SCHEDULER,
            num_inference_steps=60,
            coarse=coarse,
            generator=make_generator(),
            criterion=parareal.Iterations(2),
        ).final_state
        for coarse in ("auto", "ddim")
    )
    assert relative_error(coupled, reference) < 1e-2 < relative_error(deterministic, reference)
