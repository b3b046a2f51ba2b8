"""Our ParaDiGMS against the ParaDiGMS pipeline of diffusers, on a tiny Stable Diffusion with random weights."""

import warnings
from contextlib import contextmanager

import diffusers
import pytest
from parareal_diffusers import Guidance
from parareal_diffusers.bench import BenchProblem, paradigms
from parareal_diffusers.bench.cases.problems import draw_noise
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.testing import relative_error

pytest.importorskip("transformers")
import tiny

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,  # DDIMParallelScheduler ignores False (docs/reference/upstream.md)
    "steps_offset": 1,
}
PROMPT, SCALE, STEPS, WINDOW = "a cat", 7.5, 12, 5


def hide_progress(pipe):
    """Return the pipeline with its progress bar turned off."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build_paradigms_pipeline():
    """Return `StableDiffusionParadigmsPipeline` with DDIM, on one device."""
    pipeline_class, scheduler = diffusers.StableDiffusionParadigmsPipeline, diffusers.DDIMParallelScheduler(**SCHEDULE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = hide_progress(tiny.sd(pipeline_class, scheduler))
    pipe.wrapped_unet = pipe.unet
    return pipe


def build_problem(pipe, latents):
    """Return the sampling of a pipeline, with its prompt and guidance, as a problem of one sample."""
    conditional, unconditional = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    guidance = Guidance(SCALE, {"encoder_hidden_states": unconditional})
    kwargs = {"encoder_hidden_states": conditional}
    return BenchProblem("tiny-sd", "tiny Stable Diffusion", pipe.unet, pipe.scheduler, latents, kwargs, guidance)


@contextmanager
def count_rows(unet):
    """Yield a list that gets the number of rows of each call of a network; guidance doubles them."""
    rows = []
    handle = unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2])
def test_our_paradigms_has_the_calls_and_errors_of_the_pipeline_of_diffusers(tolerance):
    plain = hide_progress(tiny.sd(scheduler=diffusers.DDIMScheduler(**SCHEDULE)))
    theirs = build_paradigms_pipeline()
    size = plain.unet.config.sample_size
    latents = draw_noise(1, plain.unet.config.in_channels, size, size)
    call = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    reference = plain(PROMPT, latents=latents.clone(), **call).images
    parts, target = build_problem(plain, latents).build_parts(STEPS), Target(reference)
    with count_rows(theirs.unet) as rows:
        images = theirs(PROMPT, latents=latents.clone(), parallel=WINDOW, tolerance=tolerance, **call).images
    with count_rows(plain.unet) as our_rows:
        error = paradigms(parts, target, Stop("own", tolerance), WINDOW)[-1].error
    assert rows == our_rows
    assert f"{relative_error(images, reference):.1e}" == f"{error:.1e}"
