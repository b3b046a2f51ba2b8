"""The parallel result equals the unmodified scheduler's, for solvers, configurations and numbers of steps."""

import copy
import warnings
from contextlib import suppress

import pytest
import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from parareal_diffusers import DDIM, sample
from parareal_diffusers.testing import check_solver, relative_error, scheduler_loop
from problems import smooth_network

import parareal

STEPS = (1, 2, 7, 10, 25, 50, 100, 196, 250, 961, 1000)
FEW = (1, 2, 7, 25, 50)
DOUBLE, SINGLE = torch.float64, torch.float32
PLAIN = {"clip_sample": False}


def network(channels=1):
    """Return a smooth network with a small Lipschitz constant; with two channels it also predicts a variance."""

    def model(x, t):
        output = smooth_network(x, t)
        return output if channels == 1 else torch.cat([output, (0.1 * output).tanh()], dim=1)

    return model


def noise(dtype, samples=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, 4, 4, generator=generator, dtype=DOUBLE).to(dtype)


def make_scheduler(scheduler, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated algorithm types
        return scheduler(**options)


BOUNDS = {SINGLE: 1e-5, DOUBLE: 1e-10}


def compare(scheduler, steps, dtype, eta=None, channels=1, seed=1, coarse="auto", slices=None, casts=False):
    """Compare one slice, and a run to the end, with the loop: the results, and where the generator is left.

    `casts` means that the scheduler rounds to float32 within a formula even if states are float64.
    """
    model, x = network(channels), noise(dtype)
    solver, options = (scheduler, {}) if eta is None else (DDIM(scheduler, eta=eta), {"eta": eta})
    generators = [torch.Generator().manual_seed(seed) for _ in range(3)]
    expected = scheduler_loop(model, x, scheduler, steps, generators[0], **options)
    count = min(4 if slices is None else slices, steps)
    for slices, generator in zip((1, count), generators[1:], strict=True):
        options = {"num_inference_steps": steps, "tolerance": 0, "coarse": coarse, "generator": generator}
        solution = sample(model, x, solver, slices=slices, **options)
        assert solution.outcome is parareal.Outcome.EXACT
        assert relative_error(solution.final_state, expected) <= BOUNDS[SINGLE if casts else dtype]
        assert torch.equal(generator.get_state(), generators[0].get_state())


def check_unbatched(scheduler, steps, dtype, eta=None, channels=1, casts=False):
    """With calls of one row, a run to the end equals our own sequential run bit by bit."""
    solver = scheduler if eta is None else DDIM(scheduler, eta=eta)
    options = {"num_inference_steps": steps, "max_batch": 1, "tolerance": 0}
    one, end = (
        sample(
            network(channels), noise(dtype), solver, slices=n, generator=torch.Generator().manual_seed(1), **options
        ).final_state
        for n in (1, 5)
    )
    assert torch.equal(one, end)


MULTI, SINGLESTEP = DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
UNIPC, DEIS, HEUN, KDPM2 = (
    UniPCMultistepScheduler,
    DEISMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
)
CORE = {
    "DDIM": (DDIMScheduler, PLAIN, {}),
    "DDIM, trailing": (DDIMScheduler, PLAIN | {"timestep_spacing": "trailing"}, {}),
    "DDIM, eta 0.5": (DDIMScheduler, PLAIN, {"eta": 0.5}),
    "DDPM": (DDPMScheduler, PLAIN, {}),
    "DDPM, trailing": (DDPMScheduler, PLAIN | {"timestep_spacing": "trailing"}, {}),
    "DPM-Solver++(2M), trailing": (MULTI, {"timestep_spacing": "trailing"}, {}),
    "DPM-Solver++(3M), karras": (MULTI, {"solver_order": 3, "use_karras_sigmas": True}, {}),
    "SDE-DPM-Solver++(2M), karras": (MULTI, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, {}),
    "DPM-Solver++(2S)": (SINGLESTEP, {"lower_order_final": True}, {}),
    "Euler": (EulerDiscreteScheduler, {}, {}),
    "Euler ancestral": (EulerAncestralDiscreteScheduler, {}, {}),
    "FlowMatchEuler, shift 3": (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, {}),
    "UniPC, karras": (UNIPC, {"use_karras_sigmas": True}, {}),
    "DEIS, karras": (DEIS, {"use_karras_sigmas": True}, {}),
    "Heun": (HEUN, {}, {}),
    "KDPM2": (KDPM2, {}, {}),
    "FlowMatchHeun, shift 3": (FlowMatchHeunDiscreteScheduler, {"shift": 3.0}, {}),
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SIGMAS = ("karras", "exponential", "beta")
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
MORE = {
    **{f"DDIM, {s}": (DDIMScheduler, PLAIN | {"timestep_spacing": s}, {}) for s in ("linspace", "leading")},
    "DDIM, eta 1, clipped": (DDIMScheduler, {}, {"eta": 1.0}),
    "DDIM, thresholding": (DDIMScheduler, PLAIN | {"thresholding": True}, {}),
    "DDIM, Stable Diffusion's": (
        DDIMScheduler,
        PLAIN | {"beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1},
        {},
    ),
    **{
        f"{kind.__name__}, {p}, zero terminal SNR": (
            kind,
            PLAIN | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": p},
            {},
        )
        for kind in (DDIMScheduler, DDPMScheduler)
        for p in ("v_prediction", "sample")
    },
    **{f"DDPM, {v}": (DDPMScheduler, PLAIN | {"variance_type": v}, {}) for v in ("fixed_small_log", "fixed_large")},
    "DDPM, learned range": (DDPMScheduler, PLAIN | {"variance_type": "learned_range"}, {"channels": 2}),
    "DDPM, clipped": (DDPMScheduler, {}, {}),
    "DDPM, thresholding": (DDPMScheduler, PLAIN | {"thresholding": True}, {}),
    **{
        f"{'multistep' if kind is MULTI else 'singlestep'} {algorithm} {order} {form}": (
            kind,
            {"algorithm_type": algorithm, "solver_order": order, "solver_type": form}
            | ({} if algorithm.endswith("++") else SIGMA_MIN)
            | ({} if kind is MULTI else {"lower_order_final": True}),
            {},
        )
        for kind in (MULTI, SINGLESTEP)
        for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
        for order in (1, 2, 3)
        for form in ("midpoint", "heun")
        if not (algorithm == "sde-dpmsolver" and (order == 3 or kind is SINGLESTEP)) and (order > 1 or form == "heun")
    },
    **{f"DPM, {s} sigmas": (MULTI, {f"use_{s}_sigmas": True}, {}) for s in SIGMAS},
    "DPM, cosine, karras": (MULTI, {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"}, {}),
    "DPM, lambdas": (MULTI, {"use_lu_lambdas": True, "solver_order": 3}, {}),
    "DPM, flow": (MULTI, {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}, {}),
    "DPM, sigma_min": (MULTI, SIGMA_MIN, {}),
    "DPM, Euler at the end": (MULTI, SIGMA_MIN | {"euler_at_final": True, "lower_order_final": False}, {}),
    "DPM, no lower order": (MULTI, {"lower_order_final": False, "solver_order": 3}, {}),
    "DPM, thresholding": (MULTI, {"thresholding": True}, {}),
    "DPM-Solver, thresholding": (MULTI, SIGMA_MIN | {"thresholding": True, "algorithm_type": "dpmsolver"}, {}),
    **{f"DPM, {p}": (MULTI, {"prediction_type": p}, {}) for p in ("sample", "v_prediction")},
    **{
        f"DPM-Solver, {p}": (MULTI, SIGMA_MIN | {"prediction_type": p, "algorithm_type": "dpmsolver"}, {})
        for p in ("sample", "v_prediction")
    },
    **{f"Euler, {s} sigmas": (EulerDiscreteScheduler, {f"use_{s}_sigmas": True}, {}) for s in SIGMAS},
    "Euler, sample": (EulerDiscreteScheduler, {"prediction_type": "sample"}, {}),
    "Euler, sigma_min": (EulerDiscreteScheduler, SIGMA_MIN, {}),
    "Euler, Stable Diffusion's": (
        EulerDiscreteScheduler,
        {"timestep_spacing": "leading", "steps_offset": 1, "beta_schedule": "scaled_linear"},
        {},
    ),
    "Euler, continuous": (
        EulerDiscreteScheduler,
        {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True},
        {"casts": True},
    ),
    **{
        f"{kind.__name__}, v, zero terminal SNR": (
            kind,
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            {"casts": True},
        )
        for kind in (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)
    },
    **{f"flow, {s} sigmas": (FlowMatchEulerDiscreteScheduler, {f"use_{s}_sigmas": True}, {}) for s in SIGMAS},
    **{
        f"UniPC-{order}, {form}{', noise prediction' * (not clean)}": (
            UNIPC,
            {"solver_order": order, "solver_type": form, "predict_x0": clean, **SIGMA_MIN},
            {},
        )
        for order in (1, 2, 3)
        for form in ("bh1", "bh2")
        for clean in (True, False)
    },
    "UniPC-3": (UNIPC, {"solver_order": 3}, {}),
    "UniPC, without lower order": (UNIPC, {"lower_order_final": False, "solver_order": 3, **SIGMA_MIN}, {}),
    "UniPC, corrector off at first": (UNIPC, {"disable_corrector": [0, 1, 5], "solver_order": 3}, {}),
    "UniPC, thresholding": (UNIPC, {"thresholding": True}, {}),
    "UniPC, zero terminal SNR": (UNIPC, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}),
    "UniPC, flow": (UNIPC, FLOW | {"flow_shift": 3.0}, {}),
    "DEIS-1": (DEIS, {"solver_order": 1}, {}),
    "DEIS-3": (DEIS, {"solver_order": 3}, {}),
    "DEIS, thresholding": (DEIS, {"thresholding": True}, {}),
    "DEIS, no lower order": (DEIS, {"lower_order_final": False, "solver_order": 3}, {}),
    "DEIS, flow": (DEIS, FLOW, {}),
    **{
        f"{kind.__name__}, {s} sigmas": (kind, {f"use_{s}_sigmas": True}, {})
        for kind in (UNIPC, DEIS, HEUN, KDPM2)
        for s in (SIGMAS if kind in (HEUN, KDPM2) else SIGMAS[1:])
    },
    **{
        f"{kind.__name__}, {p}": (kind, {"prediction_type": p}, {})
        for kind in (UNIPC, DEIS, HEUN, KDPM2)
        for p in ("sample", "v_prediction")
        if (kind, p) != (KDPM2, "sample")
    },
    "Heun, clipped": (HEUN, {"clip_sample": True}, {}),
    "LMS": (LMSDiscreteScheduler, {}, {}),
    "LMS, karras": (LMSDiscreteScheduler, {"use_karras_sigmas": True}, {}),
    "LMS, sample": (LMSDiscreteScheduler, {"prediction_type": "sample"}, {}),
    "DDIM, parallel": (DDIMParallelScheduler, PLAIN | {"timestep_spacing": "trailing"}, {}),
    "DDPM, parallel": (DDPMParallelScheduler, PLAIN, {}),
    "DPM, zero terminal SNR": (MULTI, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}),
}


# With more than 100 steps these run in `make test-slow` only.
SLOW = ("UniPC, karras", "DEIS, karras", "Heun", "KDPM2", "FlowMatchHeun, shift 3")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param(name, steps, marks=[pytest.mark.slow] if name in SLOW and steps > 100 else [])
        for name in CORE
        for steps in STEPS
    ],
)
def test_core_configurations_equal_the_loop(name, steps):
    kind, config, options = CORE[name]
    compare(make_scheduler(kind, **config), steps, DOUBLE if steps % 2 else SINGLE, **options)


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("name", MORE)
def test_more_configurations_equal_the_loop(name, dtype):
    kind, config, options = MORE[name]
    scheduler = make_scheduler(kind, **config)
    for steps in FEW:
        compare(scheduler, steps, dtype, **options)
    check_unbatched(scheduler, 12, dtype, **options)


@st.composite
def schedulers(draw, most):
    """Draw any scheduler of six families, a number of steps, and an eta for DDIM."""
    kind = draw(st.sampled_from([DDIMScheduler, DDPMScheduler, MULTI, SINGLESTEP, UNIPC, DEIS]))
    config = {"beta_schedule": draw(st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]))}
    config["prediction_type"] = draw(st.sampled_from(["epsilon", "v_prediction", "sample"]))
    config["thresholding"] = draw(st.sampled_from([False, False, True]))
    if kind is not SINGLESTEP:
        config["timestep_spacing"] = draw(st.sampled_from(["leading", "trailing", "linspace"]))
        config["steps_offset"] = draw(st.integers(0, 1))
    if kind in (DDIMScheduler, DDPMScheduler, MULTI, UNIPC):
        config["rescale_betas_zero_snr"] = draw(st.booleans())
    if kind in (DDIMScheduler, DDPMScheduler):
        config["clip_sample"] = draw(st.booleans())
        config["clip_sample_range"] = draw(st.sampled_from([1.0, 2.5]))
    if kind is DDIMScheduler:
        config["set_alpha_to_one"] = draw(st.booleans())
    if kind is DDPMScheduler:
        config["variance_type"] = draw(st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large"]))
    if kind in (MULTI, SINGLESTEP):
        config["algorithm_type"] = draw(
            st.sampled_from(["dpmsolver++", "dpmsolver", "sde-dpmsolver++", *["sde-dpmsolver"] * (kind is MULTI)])
        )
        config["solver_order"] = draw(st.integers(1, 2 if config["algorithm_type"] == "sde-dpmsolver" else 3))
        config["solver_type"] = draw(st.sampled_from(["midpoint", "heun"]))
        config["lower_order_final"] = draw(st.booleans()) or kind is SINGLESTEP
        plus = config["algorithm_type"].endswith("++")
        config["final_sigmas_type"] = draw(st.sampled_from(["zero", "sigma_min"])) if plus else "sigma_min"
    if kind is UNIPC:
        config["predict_x0"] = draw(st.booleans())
        config["solver_type"] = draw(st.sampled_from(["bh1", "bh2"]))
        config["final_sigmas_type"] = draw(st.sampled_from(["zero", "sigma_min"]))
        config["disable_corrector"] = draw(st.lists(st.integers(0, 9), max_size=3))
    if kind in (UNIPC, DEIS):
        config["solver_order"] = draw(st.integers(1, 3))
        config["lower_order_final"] = draw(st.booleans())
    if kind in (MULTI, SINGLESTEP, UNIPC, DEIS):
        sigmas = draw(st.sampled_from(["", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]))
        config |= {sigmas: True} if sigmas else {}
    if kind is MULTI:
        config["euler_at_final"] = draw(st.booleans())
    assume(not (kind is SINGLESTEP and config["thresholding"] and config["algorithm_type"] == "dpmsolver"))
    most = min(most, 100) if kind is DEIS else most  # with more steps it diverges: its weights are lost to rounding
    return make_scheduler(kind, **config), draw(st.integers(1, most)), draw(st.sampled_from([0.0, 0.3, 1.0]))


def check_configuration(configuration, dtype, coarse, slices):
    """Check that the result equals the scheduler's loop if that is finite, and else is refused before any work."""
    scheduler, steps, eta = configuration
    eta = eta if isinstance(scheduler, DDIMScheduler) else None
    options = {} if eta is None else {"eta": eta}
    finite = False
    with suppress(torch.linalg.LinAlgError):  # raised by UniPC's own loop if its weights are not finite
        loop = scheduler_loop(network(), noise(dtype), scheduler, steps, torch.Generator().manual_seed(1), **options)
        finite = bool(torch.isfinite(loop).all())
    if finite:
        compare(scheduler, steps, dtype, eta=eta, coarse=coarse, slices=slices)
        return
    solver = scheduler if eta is None else DDIM(scheduler, eta=eta)

    def fail_if_called(x, t):
        raise AssertionError("work was done before the input was checked")

    with pytest.raises(ValueError, match="loop"):
        sample(fail_if_called, noise(dtype), solver, num_inference_steps=steps)


DRAWS = {
    "dtype": st.sampled_from([SINGLE, DOUBLE]),
    "coarse": st.sampled_from(["auto", "same", "ddim", "dpmpp_2m", "identity"]),
    "slices": st.integers(1, 7),
}


@settings(max_examples=120, deadline=None)
@given(configuration=schedulers(60), **DRAWS)
def test_random_configurations_equal_the_loop(configuration, dtype, coarse, slices):
    check_configuration(configuration, dtype, coarse, slices)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(configuration=schedulers(1000), **DRAWS)
def test_many_random_configurations_equal_the_loop(configuration, dtype, coarse, slices):
    check_configuration(configuration, dtype, coarse, slices)


def test_dynamic_shifting_of_a_flow_needs_set_timesteps():
    """Timesteps that depend on more than their number must be set on the scheduler before."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    scheduler.set_timesteps(20, mu=0.8)
    x, model = noise(SINGLE), network()
    loop, expected = copy.deepcopy(scheduler), x
    for t in loop.timesteps:
        expected = loop.step(model(expected, t.expand(len(x))), t, expected).prev_sample
    assert relative_error(sample(model, x, scheduler, tolerance=0).final_state, expected) < 1e-5
    with pytest.raises(ValueError, match="call set_timesteps on the scheduler before"):
        sample(model, x, FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


@pytest.mark.parametrize("name", [*CORE, "LMS"])
def test_our_own_solvers_pass_check_solver(name):
    kind, config, options = (CORE | MORE)[name]
    scheduler = make_scheduler(kind, **config)
    report = check_solver(DDIM(scheduler, **options) if options else scheduler)
    assert report.ok, str(report)
