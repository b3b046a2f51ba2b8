"""Noise is a function of the step: the sequential loop's, whatever the slices, and coupled to it in coarse jumps."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from parareal_diffusers import DDIM, DDPM, DPMSolver, StepInterval, sample
from parareal_diffusers._noise import RecordedNoise, posterior_variance
from parareal_diffusers._sampling import noise_source
from parareal_diffusers._schedulers.native import copy_with_timesteps, grid_of
from parareal_diffusers.testing import GaussianMixture, relative_error, scheduler_loop

import parareal

DDPM_SCHEDULER = DDPMScheduler(clip_sample=False)
SDE = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
SDE_SINGLESTEP = DPMSolverSinglestepScheduler(algorithm_type="sde-dpmsolver++", lower_order_final=True)
MODEL = GaussianMixture.random(5, (1, 4, 4)).model(DDPM_SCHEDULER)
X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


WAYS = [
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
@pytest.mark.parametrize("way", WAYS, ids=[" ".join(map(str, w)) + str(i) for i, w in enumerate(WAYS)])
def test_the_sample_is_the_sequential_loops(scheduler, way):
    one, other = seeded(), seeded()
    expected = scheduler_loop(MODEL, X, scheduler, 30, one)
    solution = sample(MODEL, X, scheduler, num_inference_steps=30, tolerance=0, generator=other, **way)
    assert relative_error(solution.final_state, expected) < 1e-6
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("scheduler", [DDPM_SCHEDULER, SDE, SDE_SINGLESTEP], ids=["ddpm", "sde", "sde singlestep"])
def test_a_generator_for_each_sample(scheduler):
    ones, others = [[seeded(i) for i in range(3)] for _ in range(2)]
    expected = scheduler_loop(MODEL, X, scheduler, 20, ones)
    solution = sample(MODEL, X, scheduler, num_inference_steps=20, tolerance=0, generator=others)
    assert relative_error(solution.final_state, expected) < 1e-6
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(ones, others, strict=True))
    alone = sample(MODEL, X[1:2], scheduler, num_inference_steps=20, tolerance=0, generator=[seeded(1)])
    assert relative_error(alone.final_state, expected[1:2]) < 1e-6


def test_no_generator_means_the_global_one():
    torch.manual_seed(3)
    expected = scheduler_loop(MODEL, X, DDPM_SCHEDULER, 20)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    solution = sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=20, tolerance=0)
    assert relative_error(solution.final_state, expected) < 1e-9
    assert torch.equal(torch.get_rng_state(), after)


def test_a_second_call_with_the_same_generator_goes_on_where_the_first_ended():
    one, other = seeded(), seeded()
    expected = [scheduler_loop(MODEL, X, DDPM_SCHEDULER, 12, one) for _ in range(2)]
    found = [
        sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=12, tolerance=0, generator=other).final_state
        for _ in range(2)
    ]
    assert relative_error(expected[1], expected[0]) > 0.1
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True))


def test_deterministic_solvers_leave_the_generator_alone():
    generator = seeded()
    before = generator.get_state()
    sample(MODEL, X, DDIMScheduler(clip_sample=False), num_inference_steps=12, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_a_generator_is_not_touched_by_a_call_that_is_refused():
    generator = seeded()
    before = generator.get_state()
    with pytest.raises(ValueError, match="schedule must be one of"):
        sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=12, generator=generator, schedule="pipelines")
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("size", [3, 3000], ids=["small, kept", "large, drawn again"])
def test_noise_is_a_function_of_the_step(size):
    """In any order; steps that draw none get zero; what is kept is the noise or the state, whichever is smaller."""
    one = seeded()
    drawn = [torch.randn(2, size, generator=one) for _ in range(4)]
    tape = RecordedNoise(seeded(), (2, size), torch.device("cpu"), torch.float32, [0, 1, 3, 4])
    assert tape.replays == (size == 3000)
    for step, expected in ((4, drawn[3]), (0, drawn[0]), (3, drawn[2]), (1, drawn[1]), (2, torch.zeros(2, size))):
        assert torch.equal(tape.draw(step), expected)


@pytest.mark.parametrize("size", [4, 64], ids=["small", "large"])
def test_one_generator_for_several_samples_in_a_list(size):
    """As `[generator] * n`: it draws for one after the other."""
    x = torch.randn(3, 1, size, size, generator=seeded(7))
    one, other = seeded(), seeded()

    def model(x, t):
        return 0.5 * x

    expected = scheduler_loop(model, x, DDPM_SCHEDULER, 8, [one] * 3)
    solution = sample(model, x, DDPM_SCHEDULER, num_inference_steps=8, tolerance=0, generator=[other] * 3)
    assert relative_error(solution.final_state, expected) < 1e-5
    assert torch.equal(one.get_state(), other.get_state())


def test_the_generator_moves_on_also_where_no_noise_is_needed():
    one, other = seeded(), seeded()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler_loop(MODEL, X, scheduler, 10, one, eta=0.5)
    stop = parareal.Iterations(0)
    sample(MODEL, X, DDIM(scheduler, eta=0.5), num_inference_steps=10, generator=other, criterion=stop, coarse="ddim")
    assert torch.equal(one.get_state(), other.get_state())


def noise_of(solver, grid):
    return noise_source.make_noise_source(solver, grid, X, seeded(), X.dtype, range(grid.steps))


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
    """For DDPM with the posterior's variance, DDIM with eta = 1 and SDE-DPM-Solver++, of first order."""
    ddim = DDIMScheduler(clip_sample=False)
    solver, scheduler = [
        (DDPM(), DDPM_SCHEDULER),
        (DDPM(variance_type="fixed_small_log"), DDPM_SCHEDULER),
        (DDIM(eta=1.0), ddim),
        (DPMSolver(order=1, algorithm_type="sde-dpmsolver++"), SDE),
    ][which]
    grid = grid_of(copy_with_timesteps(scheduler, 50))
    assert jump_variance(solver, grid, *ends) == pytest.approx(one_step_variance(grid, *ends), rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("eta", [0.2, 0.5, 0.9])
def test_coupled_noise_of_any_eta_leaves_the_level_its_variance(eta):
    """What the jump keeps of its predicted noise and what it adds make up sigma^2, as the fine steps' do."""
    grid = grid_of(copy_with_timesteps(DDIMScheduler(clip_sample=False), 50))
    nodes = torch.arange(50)
    decay, _ = DDIM(eta=eta).linear(StepInterval(grid, nodes, nodes + 1, nodes, torch.zeros(50, 1)))
    kept = float(decay[10:30].prod() * grid.start.sigma[10])
    added = jump_variance(DDIM(eta=eta), grid, 10, 30)
    assert kept**2 + added == pytest.approx(float(grid.stop.sigma[29]) ** 2, rel=1e-4)


FAMILIES = {
    "ddpm": (DDPM_SCHEDULER, None, "ddpm"),
    "ddpm, fixed_large": (DDPMScheduler(clip_sample=False, variance_type="fixed_large"), None, "ddpm"),
    "ddim": (DDIMScheduler(clip_sample=False), 0.6, "same"),
    "sde": (SDE, None, "ddpm"),
    "sde singlestep": (SDE_SINGLESTEP, None, "same"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_jump_gets_what_its_steps_add_with_the_prediction_held_fixed(family):
    """With a network that always predicts the same clean sample, the sketch is the solution at every boundary."""
    scheduler, eta, coarse = FAMILIES[family]
    told = type(scheduler).from_config(scheduler.config, prediction_type="sample")
    options = {"num_inference_steps": 24, "slices": 4, "coarse": coarse}
    sketch, end = (
        sample(
            lambda x, t: torch.full_like(x, 0.3),
            X,
            told if eta is None else DDIM(told, eta=eta),
            generator=seeded(),
            criterion=parareal.Iterations(count),
            **options,
        )
        for count in (0, 4)
    )
    torch.testing.assert_close(sketch.states, end.states, rtol=0, atol=1e-4)


def test_coupled_noise_is_worth_iterations():
    reference = sample(MODEL, X, DDPM_SCHEDULER, num_inference_steps=60, slices=1, generator=seeded()).final_state
    coupled, trap = (
        sample(
            MODEL,
            X,
            DDPM_SCHEDULER,
            num_inference_steps=60,
            coarse=coarse,
            generator=seeded(),
            criterion=parareal.Iterations(2),
        ).final_state
        for coarse in ("auto", "ddim")
    )
    assert relative_error(coupled, reference) < 1e-2 < relative_error(trap, reference)
