"""Refusals: an unsupported combination raises before any work, with an error that names it and the remedy."""

import copy

import cases
import diffusers
import pytest
import tiny
import torch
from cases import TWO
from parareal_diffusers import parallelize
from parareal_diffusers._pipelines.families import FAMILIES


def forbid_calls(pipe):
    """Return a copy of a pipeline whose networks fail the test if they are called."""
    pipe = copy.copy(pipe)
    for name, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            module = copy.deepcopy(module)
            module.register_forward_pre_hook(lambda *_: pytest.fail("a network was called"))
            vars(pipe)[name] = module
    return pipe


def assert_refused(pipe, match, call=None, **options):
    pipe = forbid_calls(pipe)
    with pytest.raises((ValueError, TypeError), match=match), parallelize(pipe, **options):
        pipe(**(call or TWO))


def test_pndm_is_refused():
    assert_refused(
        tiny.sd(scheduler=diffusers.PNDMScheduler(**tiny.LATENT)), "PNDMScheduler.*use DPMSolverMultistepScheduler"
    )


def test_a_variance_type_of_ddpm_is_refused():
    options = {**tiny.LATENT, "variance_type": "fixed_large_log"}
    assert_refused(tiny.sd(scheduler=diffusers.DDPMScheduler(**options)), "fixed_large_log.*use 'fixed_large'")


@pytest.mark.parametrize(
    "kind",
    [
        diffusers.StableDiffusionInpaintPipeline,
        diffusers.StableDiffusionPAGPipeline,
        diffusers.StableDiffusionInstructPix2PixPipeline,
    ],
)
def test_pipelines_known_to_be_unsupported_are_refused(kind):
    more = {"image_encoder": None} if "Pix2Pix" in kind.__name__ else {}
    assert_refused(tiny.sd(kind, **more), f"{kind.__name__} cannot be sampled in parallel in time.*use", verify=True)


class OverridesCall(diffusers.StableDiffusionPipeline):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


class InheritsCall(diffusers.StableDiffusionPipeline):
    pass


def test_only_pipelines_with_a_call_of_their_own_must_be_verified():
    assert_refused(tiny.sd(OverridesCall), "OverridesCall is not among the supported pipelines.*verify=True")
    pipe = tiny.sd(InheritsCall)
    with parallelize(pipe):
        pipe.set_progress_bar_config(disable=True)
        pipe(**TWO)


def test_an_object_that_is_no_pipeline_is_refused():
    with pytest.raises(TypeError, match="pipeline of diffusers, not int"):
        parallelize(3)


def test_the_legacy_callback_is_refused():
    assert_refused(tiny.sd(), "use callback_on_step_end", {**TWO, "callback": print, "callback_steps": 1})


def test_schedulers_that_draw_their_own_noise_need_single_precision():
    pipe = copy.deepcopy(tiny.sd(scheduler=cases.LATENT_SOLVERS["LCM"]())).to(torch.float16)
    assert_refused(pipe, "LCMScheduler draws noise in its own step, in float16.*EulerAncestralDiscreteScheduler")
    flow = copy.deepcopy(tiny.sd3(scheduler=cases.FLOW_SOLVERS["flow LCM"]())).to(torch.bfloat16)
    assert_refused(
        flow, "FlowMatchLCMScheduler draws noise in its own step, in bfloat16.*FlowMatchEulerDiscreteScheduler"
    )


def test_lms_is_refused_for_image_to_image():
    pipe = tiny.sd(diffusers.StableDiffusionImg2ImgPipeline, cases.LATENT_SOLVERS["LMS"]())
    with parallelize(pipe), pytest.raises(ValueError, match=r"LMSDiscreteScheduler, started at step 5.*use DEIS"):
        pipe(**TWO, **cases.I2I)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"control_guidance_end": 0.5, "controlnet_conditioning_scale": 1}, "per ControlNet"),
        ({"control_guidance_start": 0.7, "control_guidance_end": 0.5}, "cannot be larger or equal"),
        ({"control_guidance_start": 0.7, "control_guidance_end": 1.5}, "can't be larger than 1"),
    ],
)
def test_inconsistent_intervals_of_control_are_refused(more, error):
    pipe = cases.with_controlnet(diffusers.StableDiffusionControlNetPipeline)()
    assert_refused(pipe, error, {**TWO, **cases.CONTROL, **more})


def test_callbacks_that_ask_for_other_tensors_than_latents_are_refused():
    more = {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    assert_refused(tiny.sd(), "asks for prompt_embeds.*ask for latents only", {**TWO, **more})
    assert_refused(tiny.sd(scheduler=cases.LATENT_SOLVERS["Euler"]()), r"without parallelize \(handle", {**TWO, **more})


def test_schedulers_that_add_noise_to_doubled_latents_are_refused():
    pipe = tiny.dit(diffusers.DDPMScheduler(**tiny.LATENT))
    assert_refused(pipe, "use DDIMScheduler", {"class_labels": [1], "num_inference_steps": 12})


def test_step_caches_are_refused():
    pipe = tiny.flux()
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    assert_refused(pipe, r"transformer reuses outputs.*disable_cache\(\)")


def test_hooks_of_step_caches_are_refused():
    pipe = tiny.sd()
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    diffusers.apply_pyramid_attention_broadcast(pipe.unet, config)
    assert_refused(pipe, "unet reuses outputs from step to step")


def test_a_replaced_forward_is_refused():
    pipe = tiny.sd()
    pipe.unet.forward = lambda *a, **k: None  # as DeepCache does
    assert_refused(pipe, "forward has been replaced.*DeepCache")


def test_a_loop_that_would_begin_within_a_cycle_is_refused():
    pipe = tiny.sd(diffusers.StableDiffusionImg2ImgPipeline, cases.LATENT_SOLVERS["DPM-Solver++(2S)"]())
    with parallelize(pipe), pytest.raises(ValueError, match=r"within a cycle.*use another strength"):
        pipe(**TWO, **cases.I2I)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"slices": 0}, "slices must be a whole number of at least 1"),
        ({"slices": "many"}, "slices must be one of"),
        ({"slices": 4, "levels": (2, 2)}, "leave slices=4 out"),
        ({"schedule": "piplined"}, "did you mean 'pipelined'"),
        ({"tolerance": -1.0}, "tolerance must be a finite real number, at least 0 and below 1, but was -1.0"),
        ({"tolerance": 5}, "below 1, but was 5"),
        ({"tolerance": True}, "but was True"),
        ({"tolerance": float("inf")}, "but was inf"),
        ({"callback": 3}, "callback must be a function"),
        ({"coarse": "dpmpp2m"}, "did you mean 'dpmpp_2m'"),
        ({"coarse": 3}, "scheduler of diffusers"),
        ({"max_batch": 0}, "max_batch must be a whole number"),
        ({"pad_batch": True}, "give max_batch"),
        ({"window": 0}, "window"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"tolerence": 1e-3}, "unexpected keyword argument 'tolerence'"),
    ],
)
def test_invalid_options_are_refused_by_parallelize(options, match):
    pipe = tiny.sd()
    with pytest.raises((ValueError, TypeError), match=match):
        parallelize(pipe, **options)
    assert type(pipe) is diffusers.StableDiffusionPipeline


def test_a_tolerance_below_the_resolution_of_the_states_is_refused_before_any_work():
    assert_refused(tiny.sd(), "rtol=1e-09 is below 1.2e-07", tolerance=1e-9)


def test_more_slices_than_steps_are_refused():
    with parallelize(pipe := tiny.sd(), slices=40), pytest.raises(ValueError, match="12 steps"):
        pipe(**TWO)


def test_eta_out_of_range_is_refused():
    assert_refused(tiny.sd(), "eta must be between 0", {**TWO, "eta": 1.5})


def test_every_family_is_a_pipeline_of_diffusers():
    for name in FAMILIES:
        assert issubclass(getattr(diffusers, name), diffusers.DiffusionPipeline)
