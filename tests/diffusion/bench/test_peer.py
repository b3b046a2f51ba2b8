"""Our ParaDiGMS makes the iterations of diffusers' own ParaDiGMS pipeline, on a tiny Stable Diffusion."""

import warnings
from contextlib import contextmanager

import diffusers
import pytest
from parareal_diffusers import Guidance
from parareal_diffusers.bench import Problem, paradigms
from parareal_diffusers.bench.cases.problems import noise
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.testing import relative_error

pytest.importorskip("transformers")
import tiny

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,  # DDIMParallelScheduler ignores the other choice (docs/reference/upstream.md)
    "steps_offset": 1,
}
PROMPT, SCALE, STEPS, WINDOW = "a cat", 7.5, 12, 5


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def paradigms_pipeline():
    """Return `StableDiffusionParadigmsPipeline` with DDIM, on one device."""
    kind, scheduler = diffusers.StableDiffusionParadigmsPipeline, diffusers.DDIMParallelScheduler(**SCHEDULE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = quiet(tiny.sd(kind, scheduler))
    pipe.wrapped_unet = pipe.unet
    return pipe


def as_problem(pipe, latents):
    """Return what a pipeline samples, with its prompt and guidance, as a problem of one sample."""
    own, free = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    guidance = Guidance(SCALE, {"encoder_hidden_states": free})
    kwargs = {"encoder_hidden_states": own}
    return Problem("tiny-sd", "tiny Stable Diffusion", pipe.unet, pipe.scheduler, latents, kwargs, guidance)


@contextmanager
def counted(unet):
    """Count the rows of a network's calls; guidance doubles them."""
    rows = []
    handle = unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2])
def test_our_paradigms_makes_the_iterations_of_the_pipeline_of_diffusers(tolerance):
    plain = quiet(tiny.sd(scheduler=diffusers.DDIMScheduler(**SCHEDULE)))
    theirs = paradigms_pipeline()
    size = plain.unet.config.sample_size
    latents = noise(1, plain.unet.config.in_channels, size, size)
    call = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent"}
    reference = plain(PROMPT, latents=latents.clone(), **call).images
    parts, target = as_problem(plain, latents).parts(STEPS), Target(reference)
    with counted(theirs.unet) as rows:
        found = theirs(PROMPT, latents=latents.clone(), parallel=WINDOW, tolerance=tolerance, **call).images
    with counted(plain.unet) as ours:
        error = paradigms(parts, target, Stop("own", tolerance), WINDOW)[-1].error
    assert rows == ours
    assert f"{relative_error(found, reference):.1e}" == f"{error:.1e}"
