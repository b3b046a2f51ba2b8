"""Equality of the images of a parallelized pipeline and the unmodified one."""

import functools

import cases
import hypothesis.strategies as st
import pytest
import tiny
from cases import CASES, FLOW_SOLVERS, FLOW_TASKS, LATENT_SOLVERS, PIXEL_SOLVERS, TWO
from hypothesis import given, settings
from parareal_diffusers import parallelize
from parareal_diffusers.testing import relative_error

import parareal

EXACT = 1e-5  # largest absolute difference of images on [0, 1], float32


def sample_images(pipe, call, **more):
    pipe.set_progress_bar_config(disable=True)
    tiny.torch.manual_seed(0)  # Stable Diffusion 3 encodes control images with noise of the global generator
    return pipe(**call, **{"generator": tiny.new_generator(), "output_type": "np", **more}).images


@functools.cache
def build_and_sample(case):
    pipe = case.build()
    return pipe, sample_images(pipe, case.call)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_to_the_end_gives_the_same_image(case):
    pipe, expected = build_and_sample(case)
    with parallelize(pipe, tolerance=0.0, **case.options) as handle:
        actual = sample_images(pipe, case.call)
    assert abs(actual - expected).max() <= EXACT
    assert handle.solution.outcome is parareal.Outcome.EXACT
    assert (sample_images(pipe, case.call) == expected).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_samples_do_not_influence_each_other(case):
    # In iterations that are not exact, samples retire at different times, so that the rows of a call are no longer all
    # samples in order. A row with the conditioning of another sample would be far off.
    pipe, _ = build_and_sample(case)
    images_per_prompt = case.call.get("num_images_per_prompt", 1)
    generators = [tiny.new_generator(i) for i in range(2 * images_per_prompt)]
    options = {"slices": 4, "criterion": parareal.Iterations(1), "schedule": "pipelined", **case.options}
    with parallelize(pipe, **{k: v for k, v in options.items() if k != "levels"}) as handle:
        together = sample_images(pipe, case.call, generator=generators)
        assert handle.solution.outcome is parareal.Outcome.ITERATIONS_DONE
        alone = sample_images(
            pipe,
            cases.call_of_one_sample(case.call, 1),
            generator=[tiny.new_generator(images_per_prompt + i) for i in range(images_per_prompt)],
        )
    assert abs(together[images_per_prompt:] - alone).max() <= 1e-4
    assert abs(together[:images_per_prompt] - alone).max() > 1e-2


@functools.cache
def stable_diffusion():
    return tiny.sd()


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_call_with_any_options_gives_the_same_image(data):
    steps, samples = data.draw(st.integers(2, 9), "steps"), data.draw(st.integers(1, 3), "samples")
    call = {
        "prompt": ["a cat", "the dog", "birds"][:samples],
        "num_inference_steps": steps,
        "guidance_scale": data.draw(st.sampled_from([1.0, 4.0]), "guidance"),
        "num_images_per_prompt": data.draw(st.integers(1, 2), "images per prompt"),
    }
    options = {
        "slices": data.draw(st.integers(1, steps), "slices"),
        "coarse": data.draw(st.sampled_from(["auto", "same", "ddim", "identity"]), "coarse"),
        "schedule": data.draw(st.sampled_from(["pipelined", "synchronous"]), "schedule"),
        "window": data.draw(st.sampled_from([None, 2]), "window"),
        "max_batch": data.draw(st.sampled_from([None, 1, 4]), "max_batch"),
    }
    name = data.draw(st.sampled_from(["DDIM", "DPM-Solver++(2M)", "Euler ancestral", "UniPC"]), "solver")
    if name in ("Euler ancestral", "UniPC"):
        options["coarse"] = "auto"
    pipe = stable_diffusion()
    pipe.scheduler = LATENT_SOLVERS[name]()
    expected = sample_images(pipe, call)
    with parallelize(pipe, tolerance=0.0, **options) as handle:
        actual = sample_images(pipe, call)
    assert abs(actual - expected).max() <= EXACT
    if options["schedule"] == "pipelined" and options["max_batch"] is None:
        assert handle.solution.stats.calls <= steps


SOLVERS = [("sd", name) for name in LATENT_SOLVERS] + [("pixels", name) for name in PIXEL_SOLVERS]


@pytest.mark.parametrize(("build", "name"), SOLVERS)
def test_every_solver_gives_the_same_image(build, name):
    solver = (LATENT_SOLVERS if build == "sd" else PIXEL_SOLVERS)[name]()
    pipe = getattr(tiny, build)(scheduler=solver)
    call = TWO if build == "sd" else cases.PIXELS
    expected = sample_images(pipe, call)
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe, call) - expected).max() <= EXACT


@pytest.mark.parametrize("name", [name for name in LATENT_SOLVERS if name not in ("DPM-Solver++(2S)", "LMS")])
def test_every_solver_may_begin_within_its_steps(name):
    pipe = tiny.sd(cases.diffusers.StableDiffusionImg2ImgPipeline, LATENT_SOLVERS[name]())
    call = {**TWO, **cases.I2I}
    expected = sample_images(pipe, call)
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe, call) - expected).max() <= EXACT


@pytest.mark.parametrize("name", FLOW_SOLVERS)
@pytest.mark.parametrize("task", FLOW_TASKS)
def test_every_solver_of_flow_models_gives_the_same_image(task, name):
    """Stable Diffusion 3 passes no generator to its scheduler: the global one must end in the same state."""
    build, call = FLOW_TASKS[task]
    pipe = build(scheduler=FLOW_SOLVERS[name]())
    expected, after = sample_images(pipe, call), tiny.torch.get_rng_state()
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe, call) - expected).max() <= EXACT
    assert tiny.torch.equal(tiny.torch.get_rng_state(), after)


@pytest.mark.parametrize(
    ("build", "tolerance"), [("sd", 1e-1), ("sd", 1e-2), ("sd", 1e-3), ("sdxl", 1e-2), ("sd3", 1e-2), ("flux", 1e-2)]
)
def test_the_error_is_within_the_tolerance(build, tolerance):
    pipe, call = getattr(tiny, build)(), {**TWO, **cases.SIZE, "num_inference_steps": 20}
    expected = sample_images(pipe, call, output_type="latent")
    with parallelize(pipe, tolerance=tolerance) as handle:
        actual = sample_images(pipe, call, output_type="latent")
    assert relative_error(actual, expected) <= tolerance
    assert handle.solution.stats.span <= handle.solution.stats.sequential_span


WITHOUT_FEATURE = {
    "IP-Adapter": lambda call: {"ip_adapter_image_embeds": _map(call["ip_adapter_image_embeds"], lambda x: -x)},
    "within the loop": lambda _: {"control_guidance_start": 0.0, "control_guidance_end": 1.0},
    "own end": lambda _: {"control_guidance_start": 0.0, "control_guidance_end": 1.0},
    "skip-layer": lambda _: {"skip_guidance_layers": None},
}


def _map(value, function):
    return [function(x) for x in value] if isinstance(value, list) else function(value)


@pytest.mark.parametrize(
    ("case", "change"),
    [(case, change) for case in CASES for part, change in WITHOUT_FEATURE.items() if part in case.feature],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_feature_of_a_case_changes_its_image(case, change):
    pipe, expected = build_and_sample(case)
    assert abs(sample_images(pipe, {**case.call, **change(case.call)}) - expected).max() > 1e-4
