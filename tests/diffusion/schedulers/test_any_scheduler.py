"""Schedulers without a native solver: their own step, on captured and restored states."""

import gc
import weakref

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler
from parareal_diffusers import DDIM, AnyScheduler, denoised, sample
from parareal_diffusers._sampling.noise_source import make_noise_source
from parareal_diffusers._schedulers.snapshot import PROBE_STATE
from parareal_diffusers.testing import GaussianMixture, relative_error, scheduler_loop
from problems import smooth_network as network

import parareal

# They have native solvers, but are run by their own step here.
FORCED = {
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
    "Heun, karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
}
KINDS = FORCED | {
    "EDM Euler": ("EDMEulerScheduler", {}),
    "EDM DPM++": ("EDMDPMSolverMultistepScheduler", {}),
    "DPM-Solver, inverse": ("DPMSolverMultistepInverseScheduler", {}),
    "DDIM, inverse": ("DDIMInverseScheduler", {}),
    "IPNDM": ("IPNDMScheduler", {}),
    "flow map": ("FlowMapEulerDiscreteScheduler", {}),
}
STOCHASTIC = {
    "DDPM": FORCED["DDPM"],
    "KDPM2, ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "SA-Solver": ("SASolverScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "consistency model": ("CMStochasticIterativeScheduler", {}),
    "flow LCM": ("FlowMatchLCMScheduler", {}),
    "flow, ancestral": ("LTXEulerAncestralRFScheduler", {}),
    "flow, noised again": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}


def build(name):
    """Return a scheduler, and the argument `solver` of `sample` that runs the scheduler's own step."""
    kind, options = (KINDS | STOCHASTIC)[name]
    scheduler = getattr(diffusers, kind)(**options)
    return scheduler, AnyScheduler(scheduler) if name in FORCED else scheduler


def noise(scheduler, dtype=torch.float32, samples=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, 4, 4, generator=generator, dtype=torch.float64)
    return (x * float(getattr(scheduler, "init_noise_sigma", 1.0))).to(dtype)


def make_generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25])
@pytest.mark.parametrize("name", KINDS)
def test_result_equals_the_loop(name, steps):
    """Also in float64, although some schedulers cast to float32: the step is their own."""
    scheduler, solver = build(name)
    for dtype in (torch.float32, torch.float64) if steps < 25 else (torch.float32,):
        x = noise(scheduler, dtype)
        expected = scheduler_loop(network, x, scheduler, steps, make_generator())
        for slices in (1, "sqrt", "steps") if steps < 25 else (4,):
            options = {"num_inference_steps": steps, "tolerance": 0, "generator": make_generator()}
            solution = sample(network, x, solver, slices=slices, **options)
            assert solution.outcome is parareal.Outcome.EXACT
            # Not `relative_error`: IPNDM's result of one step is zero.
            assert (solution.final_state - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", [*KINDS, *STOCHASTIC])
def test_unbatched_runs_to_the_end_agree_bit_by_bit(name):
    scheduler, solver = build(name)
    x = noise(scheduler)
    options = {"num_inference_steps": 12, "tolerance": 0, "max_batch": 1}
    sequential, parallel, nested = (
        sample(network, x, solver, generator=make_generator(), **division, **options).final_state
        for division in ({"slices": 1}, {"slices": 5}, {"levels": (2, 2)})
    )
    assert torch.equal(sequential, parallel)
    assert torch.equal(sequential, nested)


@pytest.mark.parametrize("shared", [True, False], ids=["one generator", "one per sample"])
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_noise_is_that_of_the_loop(name, steps, shared):
    """With one generator for the whole batch, and with one per sample."""
    scheduler, solver = build(name)
    for dtype in (torch.float32, torch.float64):
        x = noise(scheduler, dtype)

        def model(y, t, dtype=dtype):
            return network(y, t).to(dtype)  # some schedulers scale the input in float64

        generators = [make_generator(3) if shared else [make_generator(1), make_generator(2)] for _ in range(4)]
        expected = scheduler_loop(model, x, scheduler, steps, generators[0])
        for slices, generator in zip((1, "sqrt", "steps"), generators[1:], strict=True):
            options = {"num_inference_steps": steps, "tolerance": 0, "generator": generator}
            solution = sample(model, x, solver, slices=slices, **options)
            assert relative_error(solution.final_state, expected) <= 1e-5
            pairs = zip(as_list(generator), as_list(generators[0]), strict=True)
            assert all(torch.equal(a.get_state(), b.get_state()) for a, b in pairs)


CHURNED = {
    "Euler": ("EulerDiscreteScheduler", {"s_churn": 5.0, "s_noise": 1.003}),
    "EDM Euler": ("EDMEulerScheduler", {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0}),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {"s_churn": 5.0}),
    "TCD": ("TCDScheduler", {"eta": 0.8}),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one generator", "one per sample"])
@pytest.mark.parametrize("name", CHURNED)
def test_options_of_the_step_are_passed_on(name, shared):
    kind, options = CHURNED[name]
    scheduler = getattr(diffusers, kind)()
    x, solver = noise(scheduler), AnyScheduler(scheduler, options)
    for steps in (1, 7):
        generators = [make_generator(3) if shared else [make_generator(1), make_generator(2)] for _ in range(4)]
        expected = scheduler_loop(network, x, scheduler, steps, generators[0], **options)
        for slices, generator in zip((1, "sqrt", "steps"), generators[1:], strict=True):
            settings = {"num_inference_steps": steps, "tolerance": 0, "generator": generator}
            assert relative_error(sample(network, x, solver, slices=slices, **settings).final_state, expected) <= 1e-5
            pairs = zip(as_list(generator), as_list(generators[0]), strict=True)
            assert all(torch.equal(a.get_state(), b.get_state()) for a, b in pairs)
    plain = sample(network, x, AnyScheduler(scheduler), num_inference_steps=7, generator=make_generator(3)).final_state
    assert relative_error(plain, expected) > 1e-3


PATHS = {
    "DPM-Solver SDE": ("DPMSolverSDEScheduler", {}),
    "DPM-Solver SDE, seeded": ("DPMSolverSDEScheduler", {"noise_sampler_seed": 5, "use_karras_sigmas": True}),
    "cosine": ("CosineDPMSolverMultistepScheduler", {}),
}


@pytest.mark.filterwarnings("ignore:Should have")  # a level that float32 rounds beyond the ends of the path
@pytest.mark.parametrize("generators", [None, "shared", "per sample"])
@pytest.mark.parametrize("name", PATHS)
def test_the_brownian_path_is_that_of_the_loop(name, generators):
    """It is seeded by the global generator, by an option or, for the cosine scheduler, by the generator's seed."""
    pytest.importorskip("torchsde")
    kind, options = PATHS[name]
    scheduler = getattr(diffusers, kind)(**options)

    def make_generators():
        if generators is None:
            return None
        return make_generator(3) if generators == "shared" else [make_generator(1), make_generator(2)]

    for dtype, steps in ((torch.float32, 1), (torch.float64, 7)):
        x = noise(scheduler, dtype)

        def model(y, t, dtype=dtype):
            return network(y, t).to(dtype)

        torch.manual_seed(5)
        expected = scheduler_loop(model, x, scheduler, steps, make_generators())
        state = torch.get_rng_state()
        for slices in (1, "sqrt", "steps"):
            torch.manual_seed(5)
            options = {"num_inference_steps": steps, "tolerance": 0, "generator": make_generators()}
            solution = sample(model, x, scheduler, slices=slices, **options)
            assert relative_error(solution.final_state, expected) <= 1e-5
            assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:Should have")
@pytest.mark.parametrize("name", PATHS)
def test_iterations_on_a_brownian_path_converge(name):
    pytest.importorskip("torchsde")
    kind, options = PATHS[name]
    scheduler = getattr(diffusers, kind)(**options)
    x = noise(scheduler)
    settings = {"num_inference_steps": 24, "generator": make_generator(4)}
    torch.manual_seed(5)
    expected = sample(network, x, scheduler, slices=1, **settings).final_state
    errors = []
    for count in (0, 3):
        torch.manual_seed(5)
        solution = sample(network, x, scheduler, slices=6, criterion=parareal.Iterations(count), **settings)
        errors.append(relative_error(solution.final_state, expected))
    assert errors[1] < 0.2 * errors[0]


def test_a_used_scheduler_with_a_brownian_path_is_supported_and_not_changed():
    pytest.importorskip("torchsde")
    scheduler = diffusers.DPMSolverSDEScheduler(noise_sampler_seed=5)
    x = noise(scheduler)
    expected = scheduler_loop(network, x, scheduler, 6)
    scheduler.set_timesteps(6)
    for t in scheduler.timesteps[:3]:
        scheduler.step(x, t, x)
    solution = sample(network, x, scheduler, num_inference_steps=6, tolerance=0)
    assert relative_error(solution.final_state, expected) <= 1e-5
    assert scheduler.noise_sampler is not None


def as_list(x):
    return x if isinstance(x, list) else [x]


def test_the_global_generator_is_left_where_the_loop_leaves_it():
    scheduler = diffusers.SASolverScheduler()
    x = noise(scheduler)
    torch.manual_seed(5)
    expected = scheduler_loop(network, x, scheduler, 10)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    solution = sample(network, x, scheduler, num_inference_steps=10, tolerance=0)
    assert relative_error(solution.final_state, expected) <= 1e-5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["KDPM2, ancestral", "SA-Solver"])
def test_noisy_iterations_converge(name):
    """On a single Gaussian, so that no sample ends in another mode. Coarse jumps use the noise of the fine steps."""
    scheduler, solver = build(name)
    model = GaussianMixture(torch.full((1, 1, 4, 4), 0.3), deviation=0.2).model(DDIMScheduler())
    x = noise(scheduler, torch.float64, 3)[:, :1]
    options = {"num_inference_steps": 40, "slices": 8}
    expected = sample(model, x, solver, generator=make_generator(), **(options | {"slices": 1})).final_state
    errors = []
    for k in (0, 1, 3):
        solution = sample(model, x, solver, generator=make_generator(), criterion=parareal.Iterations(k), **options)
        errors.append(relative_error(solution.final_state, expected))
    assert errors[2] < 0.2 * errors[0]
    assert errors[0] < 1


@pytest.mark.parametrize("name", ["UniPC", "DEIS", "Heun, karras", "KDPM2", "FlowMatchHeun"])
def test_iterations_converge_and_slices_settle(name):
    """Memory of every kind is corrected where it crosses slices; with an exact score."""
    scheduler, solver = build(name)
    flow = name.startswith("Flow")
    mixture = GaussianMixture.random(6, (1, 4, 4))
    model = mixture.model(scheduler if flow else DDIMScheduler(), "flow_prediction" if flow else "epsilon")
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    expected = sample(model, x, solver, num_inference_steps=40, slices=1).final_state
    errors = [
        relative_error(
            sample(model, x, solver, num_inference_steps=40, criterion=parareal.Iterations(k)).final_state, expected
        )
        for k in (0, 1, 3)
    ]
    assert errors[2] < errors[1] < errors[0] < 0.3
    assert errors[2] < 1e-3
    solution = sample(model, x, solver, num_inference_steps=40, tolerance=1e-2)
    assert solution.outcome is parareal.Outcome.CONVERGED
    assert relative_error(solution.final_state, expected) < 1e-2


def test_the_scheduler_is_not_changed():
    scheduler = diffusers.SASolverScheduler()
    before = {name: repr(value) for name, value in scheduler.__dict__.items()}
    state = torch.get_rng_state()
    sample(network, noise(scheduler), scheduler, num_inference_steps=8, generator=make_generator())
    assert {name: repr(value) for name, value in scheduler.__dict__.items()} == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("PNDMScheduler", "repeats its first timesteps; use DPMSolverMultistepScheduler"),
        ("EntropyBoundScheduler", "no sigma per step and no alpha per timestep"),
    ],
)
def test_unsupported_schedulers_are_refused_before_any_work(kind, message):
    def fail(x, t):
        raise AssertionError("work was done before the input was checked")

    state = torch.get_rng_state()
    scheduler = getattr(diffusers, kind)()
    with pytest.raises(ValueError, match=message):
        sample(fail, noise(scheduler), scheduler, num_inference_steps=20)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_state_outside_the_attributes_is_refused():
    class KeepsClassState(EDMEulerScheduler):
        """A scheduler with a state in a class attribute, which no copy has of its own."""

        secret = [0]  # noqa: RUF012, a mutable class attribute is the case tested

        def step(self, model_output, timestep, sample, **options):
            self.secret[0] += 1
            return super().step(model_output * (1 + self.secret[0] % 7), timestep, sample, **options)

    with pytest.raises(ValueError, match="cannot be carried from step to step"):
        sample(network, noise(KeepsClassState()), KeepsClassState(), num_inference_steps=10)


def test_a_step_that_couples_samples_is_refused():
    class CouplesSamples(EDMEulerScheduler):
        def step(self, model_output, timestep, sample, **options):
            return super().step(model_output * (1 + model_output.norm()), timestep, sample, **options)

    with pytest.raises(ValueError, match="cannot be carried from step to step"):
        sample(network, noise(CouplesSamples()), CouplesSamples(), num_inference_steps=10)


@pytest.mark.parametrize(("solver", "coarse"), [(DDIMScheduler(), EDMEulerScheduler()), (EDMEulerScheduler(), "same")])
def test_a_coarse_solver_without_native_form_is_refused(solver, coarse):
    with pytest.raises(TypeError, match="has no native solver, which a coarse solver must be"):
        sample(network, noise(solver), solver, num_inference_steps=9, coarse=coarse)


def test_a_used_scheduler_needs_new_timesteps():
    """Earlier steps of a scheduler must not affect the result: a call in which they would is refused."""
    scheduler = EDMEulerScheduler()
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


def test_features_of_native_solvers_only_are_refused():
    with pytest.raises(ValueError, match="a model marked denoised needs"):
        sample(denoised(network), noise(DDIMScheduler()), EDMEulerScheduler(), num_inference_steps=9)
    with pytest.raises(TypeError, match="takes its nodes from one of DDIMScheduler"):
        sample(network, noise(DDIMScheduler()), DDIM(EDMEulerScheduler()), num_inference_steps=9)


@pytest.mark.parametrize("name", ["EDM Euler", "EDM DPM++"])
def test_coarse_solvers_apply_the_preconditioning_of_edm(name):
    scheduler, _ = build(name)
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


def test_a_number_as_solver_is_refused():
    with pytest.raises(TypeError, match="must be a scheduler of diffusers, or a solver object, not int"):
        sample(network, noise(DDIMScheduler()), 3, num_inference_steps=9)


def make_replay(latents, steps):
    """Return the noise source of a scheduler that draws in its own step."""
    scheduler = diffusers.DDPMScheduler()
    scheduler.set_timesteps(steps)
    solver = AnyScheduler(scheduler)
    return make_noise_source(solver, solver.grid(), latents, torch.Generator(), latents.dtype, range(steps))


def test_replayed_noise_is_freed_without_the_garbage_collector():
    random = make_replay(torch.zeros(1, 1, 2, 2), 4)
    random.finish()
    reference = weakref.ref(random)
    gc.collect()
    gc.disable()
    try:
        del random
        assert reference() is None
    finally:
        gc.enable()


def test_memory_of_replayed_noise_is_bounded():
    shape, steps = (1, 1, 2048, 1024), 12  # 8 MiB per step, of which 32 MiB are cached
    random = make_replay(torch.zeros(shape), steps)
    random.jump(0, steps)
    assert sum(isinstance(x, torch.Tensor) and x.shape == shape for x in gc.get_objects()) < steps


def test_the_probe_run_is_made_once_per_solve():
    shapes = []

    class RecordsShapes(EDMEulerScheduler):
        def step(self, model_output, timestep, sample, *args, **kwargs):
            shapes.append(tuple(sample.shape))
            return super().step(model_output, timestep, sample, *args, **kwargs)

    scheduler = RecordsShapes()
    x = noise(scheduler)
    sample(network, x, scheduler, num_inference_steps=6, slices=2)
    assert shapes.count(tuple(PROBE_STATE.shape)) == 6
