"""A parallelized pipeline gives the pictures of the unmodified one."""

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

EXACT = 1e-5  # max abs of pictures on [0, 1], float32


def pictures(pipe, call, **more):
    pipe.set_progress_bar_config(disable=True)
    tiny.torch.manual_seed(0)  # Stable Diffusion 3 encodes control images with noise of the global generator
    return pipe(**call, **{"generator": tiny.seeded(), "output_type": "np", **more}).images


@functools.cache
def built(case):
    pipe = case.build()
    return pipe, pictures(pipe, case.call)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_run_to_the_end_it_is_the_same_picture(case):
    pipe, expected = built(case)
    with parallelize(pipe, tolerance=0.0, **case.options) as handle:
        found = pictures(pipe, case.call)
    assert abs(found - expected).max() <= EXACT
    assert handle.solution.outcome is parareal.Outcome.EXACT
    assert (pictures(pipe, case.call) == expected).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_samples_do_not_touch_each_other(case):
    # In iterations that are not exact, samples retire and mix; a row given another's conditioning would be far off.
    pipe, _ = built(case)
    each = case.call.get("num_images_per_prompt", 1)
    generators = [tiny.seeded(i) for i in range(2 * each)]
    options = {"slices": 4, "criterion": parareal.Iterations(1), "schedule": "pipelined", **case.options}
    with parallelize(pipe, **{k: v for k, v in options.items() if k != "levels"}) as handle:
        together = pictures(pipe, case.call, generator=generators)
        assert handle.solution.outcome is parareal.Outcome.ITERATIONS_DONE
        alone = pictures(pipe, cases.alone(case.call, 1), generator=[tiny.seeded(each + i) for i in range(each)])
    assert abs(together[each:] - alone).max() <= 1e-4
    assert abs(together[:each] - alone).max() > 1e-2


@functools.cache
def plain():
    return tiny.sd()


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_the_call_and_the_options(data):
    steps, samples = data.draw(st.integers(2, 9), "steps"), data.draw(st.integers(1, 3), "samples")
    call = {
        "prompt": ["a cat", "the dog", "birds"][:samples],
        "num_inference_steps": steps,
        "guidance_scale": data.draw(st.sampled_from([1.0, 4.0]), "guidance"),
        "num_images_per_prompt": data.draw(st.integers(1, 2), "each"),
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
    pipe = plain()
    pipe.scheduler = LATENT_SOLVERS[name]()
    expected = pictures(pipe, call)
    with parallelize(pipe, tolerance=0.0, **options) as handle:
        found = pictures(pipe, call)
    assert abs(found - expected).max() <= EXACT
    if options["schedule"] == "pipelined" and options["max_batch"] is None:
        assert handle.solution.stats.calls <= steps


SOLVERS = [("sd", name) for name in LATENT_SOLVERS] + [("pixels", name) for name in PIXEL_SOLVERS]


@pytest.mark.parametrize(("build", "name"), SOLVERS)
def test_every_solver(build, name):
    solver = (LATENT_SOLVERS if build == "sd" else PIXEL_SOLVERS)[name]()
    pipe = getattr(tiny, build)(scheduler=solver)
    call = TWO if build == "sd" else cases.PIXELS
    expected = pictures(pipe, call)
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe, call) - expected).max() <= EXACT


@pytest.mark.parametrize("name", [name for name in LATENT_SOLVERS if name not in ("DPM-Solver++(2S)", "LMS")])
def test_every_solver_begins_within_its_steps(name):
    pipe = tiny.sd(cases.diffusers.StableDiffusionImg2ImgPipeline, LATENT_SOLVERS[name]())
    call = {**TWO, **cases.I2I}
    expected = pictures(pipe, call)
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe, call) - expected).max() <= EXACT


@pytest.mark.parametrize("name", FLOW_SOLVERS)
@pytest.mark.parametrize("task", FLOW_TASKS)
def test_every_solver_of_flows(task, name):
    """Stable Diffusion 3 gives its scheduler no generator: noise is the global one's, left where its loop leaves it."""
    build, call = FLOW_TASKS[task]
    pipe = build(scheduler=FLOW_SOLVERS[name]())
    expected, after = pictures(pipe, call), tiny.torch.get_rng_state()
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe, call) - expected).max() <= EXACT
    assert tiny.torch.equal(tiny.torch.get_rng_state(), after)


@pytest.mark.parametrize(
    ("build", "tolerance"), [("sd", 1e-1), ("sd", 1e-2), ("sd", 1e-3), ("sdxl", 1e-2), ("sd3", 1e-2), ("flux", 1e-2)]
)
def test_at_a_tolerance_it_is_within(build, tolerance):
    pipe, call = getattr(tiny, build)(), {**TWO, **cases.SIZE, "num_inference_steps": 20}
    expected = pictures(pipe, call, output_type="latent")
    with parallelize(pipe, tolerance=tolerance) as handle:
        found = pictures(pipe, call, output_type="latent")
    assert relative_error(found, expected) <= tolerance
    assert handle.solution.stats.span <= handle.solution.stats.sequential_span


NOT_SEEN = {
    "IP-Adapter": lambda call: {"ip_adapter_image_embeds": _mapped(call["ip_adapter_image_embeds"], lambda x: -x)},
    "within the loop": lambda _: {"control_guidance_start": 0.0, "control_guidance_end": 1.0},
    "own end": lambda _: {"control_guidance_start": 0.0, "control_guidance_end": 1.0},
    "skip-layer": lambda _: {"skip_guidance_layers": None},
}


def _mapped(value, function):
    return [function(x) for x in value] if isinstance(value, list) else function(value)


@pytest.mark.parametrize(
    ("case", "change"),
    [(case, change) for case in CASES for part, change in NOT_SEEN.items() if part in case.feature],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_a_case_is_about_is_seen_in_its_picture(case, change):
    pipe, expected = built(case)
    assert abs(pictures(pipe, {**case.call, **change(case.call)}) - expected).max() > 1e-4
