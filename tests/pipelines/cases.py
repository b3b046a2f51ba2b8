"""Test cases of pipelines, which are also the rows of the tables in docs/results/pipelines.md."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import tiny
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image

STEPS = 12


@dataclass(frozen=True, eq=False)
class Case:
    """A pipeline, the arguments of a call for two samples, and options of `parallelize`."""

    pipeline: str
    task: str
    feature: str
    build: Callable[..., Any]
    call: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self):
        return f"{self.pipeline}, {self.task}, {self.feature}"


@functools.cache
def input_image(seed, size=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


SHARED = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
    "ip_adapter_image_embeds",
    "negative_ip_adapter_image_embeds",
    "skip_guidance_layers",
)
"""arguments with one value for all samples, even if it is a list"""


def call_of_one_sample(call, i):
    """Return the arguments of a call for two samples, reduced to sample `i`."""

    def select(name, value):
        if name == "batch_size":
            return 1
        if name in SHARED:
            return value
        return value[i : i + 1] if isinstance(value, list | tiny.torch.Tensor) else value

    return {name: select(name, value) for name, value in call.items()}


# Every call has two samples, so that a row with the conditioning of the other sample is noticed.
TWO = {"prompt": ["a cat", "the dog"], "num_inference_steps": STEPS}
SIZE = {"height": 16, "width": 16}
I2I = {"image": [input_image(0), input_image(1)], "strength": 0.6}
LATENTS = tiny.torch.randn(2, 4, 8, 8, generator=tiny.new_generator(4))
CONTROL = {"image": [input_image(2), input_image(3)]}
PIXELS = {"batch_size": 2, "num_inference_steps": STEPS}
LATENT_SOLVERS = {
    "DDIM": lambda: diffusers.DDIMScheduler(**tiny.DDIM),
    "DDPM": lambda: diffusers.DDPMScheduler(**tiny.LATENT, clip_sample=False),
    "DPM-Solver++(2M)": lambda: diffusers.DPMSolverMultistepScheduler(**tiny.LATENT),
    "DPM-Solver++(2M), Karras": lambda: diffusers.DPMSolverMultistepScheduler(**tiny.LATENT, use_karras_sigmas=True),
    "SDE-DPM-Solver++(2M)": lambda: diffusers.DPMSolverMultistepScheduler(
        **tiny.LATENT, algorithm_type="sde-dpmsolver++"
    ),
    "DPM-Solver++(2S)": lambda: diffusers.DPMSolverSinglestepScheduler(
        **{k: v for k, v in tiny.LATENT.items() if k != "steps_offset"}
    ),
    "Euler": lambda: diffusers.EulerDiscreteScheduler(**tiny.LATENT),
    "Euler ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**tiny.LATENT),
    "Heun": lambda: diffusers.HeunDiscreteScheduler(**tiny.LATENT),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**tiny.LATENT),
    "DEIS": lambda: diffusers.DEISMultistepScheduler(**tiny.LATENT),
    "DPM2": lambda: diffusers.KDPM2DiscreteScheduler(**tiny.LATENT),
    "LMS": lambda: diffusers.LMSDiscreteScheduler(**tiny.LATENT),
    "LCM": lambda: diffusers.LCMScheduler(**tiny.LATENT),
    "TCD": lambda: diffusers.TCDScheduler(**tiny.LATENT),
    "DPM2 ancestral": lambda: diffusers.KDPM2AncestralDiscreteScheduler(**tiny.LATENT),
    "SA-Solver": lambda: diffusers.SASolverScheduler(**tiny.LATENT),
}
PIXEL_SOLVERS = {
    "DDPM": lambda: diffusers.DDPMScheduler(**tiny.PIXEL),
    "DDIM": lambda: diffusers.DDIMScheduler(**tiny.PIXEL),
    "DPM-Solver++(2M)": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
}
FLOW_SOLVERS = {
    "flow Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow Euler, stochastic_sampling": lambda: diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, stochastic_sampling=True
    ),
    "flow LCM": lambda: diffusers.FlowMatchLCMScheduler(shift=3.0),
    "flow Heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
}
SD, XL, SD3, FLUX = "StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux"
T2I, IMG, CTL = "text to image", "image to image", "ControlNet"


def builder(kind, build=tiny.sd):
    """Return a function that builds a pipeline of a class, given its scheduler."""
    return functools.partial(build, kind)


def with_controlnet(kind, build=tiny.sd, **nets):
    """Return a function that builds a pipeline with a ControlNet, given its scheduler."""
    return lambda scheduler=None: build(kind, scheduler, controlnet=tiny.controlnet(**nets))


def with_two_controlnets(scheduler=None):
    nets = [tiny.controlnet(1), tiny.controlnet(2)]
    return tiny.sd(diffusers.StableDiffusionControlNetPipeline, scheduler, controlnet=nets)


def default_builder(build):
    """Return a function that builds a pipeline of the default class, given its scheduler."""
    return lambda scheduler=None: build(scheduler=scheduler)


def with_slicing(scheduler=None):
    pipe = tiny.sd(scheduler=scheduler)
    pipe.enable_attention_slicing()
    pipe.vae.enable_slicing()
    return pipe


def with_lora(build, name="unet"):
    def build_with_adapter(scheduler=None):
        from peft import LoraConfig

        pipe = build(scheduler=scheduler)
        net = getattr(pipe, name)
        tiny.torch.manual_seed(3)
        net.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
        return pipe

    return build_with_adapter


def with_ip_adapter(build=tiny.sd, add=tiny.add_ip_adapter, name="unet"):
    def build_with_adapter(scheduler=None):
        pipe = build(scheduler=scheduler)
        add(getattr(pipe, name))
        return pipe

    return build_with_adapter


def image_embedding(guided=True):
    """Return the embedding of an image: with guidance that of no image, too, in the first entry."""
    one = tiny.torch.randn(1, 1, 16, generator=tiny.new_generator(7))
    return tiny.torch.cat([tiny.torch.zeros(1, 1, 16), one]) if guided else one


CASES = [
    Case("DDPM", "unconditional", "-", functools.partial(tiny.pixels, diffusers.DDPMPipeline), PIXELS),
    Case("DDIM", "unconditional", "-", functools.partial(tiny.pixels, diffusers.DDIMPipeline), PIXELS),
    Case(
        "DDIM", "unconditional", "eta", functools.partial(tiny.pixels, diffusers.DDIMPipeline), {**PIXELS, "eta": 0.7}
    ),
    Case("DiT", "class conditional", "guidance", tiny.dit, {"class_labels": [1, 5], "num_inference_steps": STEPS}),
    Case(
        "DiT",
        "class conditional",
        "no guidance",
        tiny.dit,
        {"class_labels": [1, 5], "num_inference_steps": STEPS, "guidance_scale": 1.0},
    ),
    Case(SD, T2I, "guidance", default_builder(tiny.sd), TWO),
    Case(SD, T2I, "no guidance", default_builder(tiny.sd), {**TWO, "guidance_scale": 1.0}),
    Case(SD, T2I, "guidance_rescale", default_builder(tiny.sd), {**TWO, "guidance_rescale": 0.7}),
    Case(SD, T2I, "negative_prompt", default_builder(tiny.sd), {**TWO, "negative_prompt": ["ugly", "blurred"]}),
    Case(SD, T2I, "num_images_per_prompt", default_builder(tiny.sd), {**TWO, "num_images_per_prompt": 2}),
    Case(SD, T2I, "eta", default_builder(tiny.sd), {**TWO, "eta": 0.5}),
    Case(SD, T2I, "latents", default_builder(tiny.sd), {**TWO, "latents": LATENTS}),
    Case(SD, T2I, "LoRA", with_lora(tiny.sd), {**TWO, "cross_attention_kwargs": {"scale": 0.8}}),
    Case(SD, T2I, "IP-Adapter", with_ip_adapter(), {**TWO, "ip_adapter_image_embeds": [image_embedding()]}),
    Case(SD, T2I, "attention and VAE slicing", with_slicing, TWO),
    Case(SD, T2I, "max_batch", default_builder(tiny.sd), TWO, {"max_batch": 3}),
    Case(SD, T2I, "pad_batch", default_builder(tiny.sd), TWO, {"pad_batch": (2, 8)}),
    Case(SD, T2I, "levels", default_builder(tiny.sd), TWO, {"levels": (3, 2)}),
    Case(SD, T2I, "synchronous", default_builder(tiny.sd), TWO, {"schedule": "synchronous"}),
    Case(SD, T2I, "two devices", default_builder(tiny.sd), TWO, {"devices": ["cpu", "cpu"]}),
    Case(SD, T2I, "Picard", default_builder(tiny.sd), TWO, {"slices": "steps", "coarse": "identity"}),
    Case(SD, IMG, "guidance", builder(diffusers.StableDiffusionImg2ImgPipeline), {**TWO, **I2I}),
    Case(SD, CTL, "guidance", with_controlnet(diffusers.StableDiffusionControlNetPipeline), {**TWO, **CONTROL}),
    Case(
        SD,
        CTL,
        "num_images_per_prompt",
        with_controlnet(diffusers.StableDiffusionControlNetPipeline),
        {**TWO, **CONTROL, "num_images_per_prompt": 2},
    ),
    Case(
        SD,
        CTL,
        "guess_mode",
        with_controlnet(diffusers.StableDiffusionControlNetPipeline),
        {**TWO, **CONTROL, "guess_mode": True},
    ),
    Case(
        SD,
        CTL,
        "two ControlNets",
        with_two_controlnets,
        {**TWO, "image": [CONTROL["image"]] * 2, "controlnet_conditioning_scale": [0.5, 1.0]},
    ),
    Case(
        SD,
        CTL,
        "max_batch",
        with_controlnet(diffusers.StableDiffusionControlNetPipeline),
        {**TWO, **CONTROL},
        {"max_batch": 3},
    ),
    Case(
        SD,
        CTL,
        "begins and ends within the loop",
        with_controlnet(diffusers.StableDiffusionControlNetPipeline),
        {**TWO, **CONTROL, "control_guidance_start": 0.2, "control_guidance_end": 0.7},
    ),
    Case(
        SD,
        CTL,
        "two, each with its own end, two devices",
        with_two_controlnets,
        {
            **TWO,
            "image": [CONTROL["image"]] * 2,
            "controlnet_conditioning_scale": [0.5, 1.0],
            "control_guidance_start": [0.0, 0.3],
            "control_guidance_end": [0.5, 1.0],
        },
        {"devices": ["cpu", "cpu"]},
    ),
    Case(
        SD,
        CTL,
        "guess_mode, ends within the loop",
        with_controlnet(diffusers.StableDiffusionControlNetPipeline),
        {**TWO, **CONTROL, "guess_mode": True, "control_guidance_end": 0.5},
    ),
    Case(
        SD,
        "ControlNet, " + IMG,
        "ends within the loop",
        with_controlnet(diffusers.StableDiffusionControlNetImg2ImgPipeline),
        {**TWO, **I2I, "control_image": CONTROL["image"], "control_guidance_end": 0.5},
    ),
    Case(
        SD,
        "ControlNet, " + IMG,
        "guidance",
        with_controlnet(diffusers.StableDiffusionControlNetImg2ImgPipeline),
        {**TWO, **I2I, "control_image": CONTROL["image"]},
    ),
    Case(XL, T2I, "guidance", default_builder(tiny.sdxl), TWO),
    Case(XL, T2I, "guidance_rescale", default_builder(tiny.sdxl), {**TWO, "guidance_rescale": 0.7}),
    Case(XL, T2I, "denoising_end", default_builder(tiny.sdxl), {**TWO, "denoising_end": 0.6}),
    Case(XL, T2I, "LoRA", with_lora(tiny.sdxl), TWO),
    Case(XL, T2I, "IP-Adapter", with_ip_adapter(tiny.sdxl), {**TWO, "ip_adapter_image_embeds": [image_embedding()]}),
    Case(XL, IMG, "guidance", builder(diffusers.StableDiffusionXLImg2ImgPipeline, tiny.sdxl), {**TWO, **I2I}),
    Case(
        XL,
        IMG,
        "denoising_start and _end",
        builder(diffusers.StableDiffusionXLImg2ImgPipeline, tiny.sdxl),
        {**TWO, "image": I2I["image"], "denoising_start": 0.3, "denoising_end": 0.9},
    ),
    Case(
        XL,
        CTL,
        "guidance",
        with_controlnet(diffusers.StableDiffusionXLControlNetPipeline, tiny.sdxl, width=64, **tiny.XL),
        {**TWO, **CONTROL},
    ),
    Case(
        XL,
        CTL,
        "ends within the loop, denoising_end",
        with_controlnet(diffusers.StableDiffusionXLControlNetPipeline, tiny.sdxl, width=64, **tiny.XL),
        {**TWO, **CONTROL, "control_guidance_end": 0.4, "denoising_end": 0.7},
    ),
    Case(SD3, T2I, "guidance", default_builder(tiny.sd3), TWO),
    Case(
        SD3,
        T2I,
        "skip-layer guidance",
        default_builder(tiny.sd3),
        {**TWO, "skip_guidance_layers": [0], "skip_layer_guidance_start": 0.2, "skip_layer_guidance_stop": 0.6},
    ),
    Case(
        SD3,
        T2I,
        "IP-Adapter",
        with_ip_adapter(tiny.sd3, tiny.add_ip_adapter_to_sd3, "transformer"),
        {**TWO, "ip_adapter_image_embeds": image_embedding()},
    ),
    Case(SD3, T2I, "no guidance", default_builder(tiny.sd3), {**TWO, "guidance_scale": 1.0}),
    Case(SD3, T2I, "LoRA", with_lora(tiny.sd3, "transformer"), TWO),
    Case(SD3, IMG, "guidance", builder(diffusers.StableDiffusion3Img2ImgPipeline, tiny.sd3), {**TWO, **I2I, **SIZE}),
    Case(SD3, CTL, "guidance", tiny.sd3_with_controlnet, {**TWO, **SIZE, "control_image": CONTROL["image"]}),
    Case(
        SD3,
        CTL,
        "ends within the loop",
        tiny.sd3_with_controlnet,
        {**TWO, **SIZE, "control_image": CONTROL["image"], "control_guidance_end": 0.5},
    ),
    Case(FLUX, T2I, "embedded guidance", default_builder(tiny.flux), {**TWO, **SIZE}),
    Case(
        FLUX,
        T2I,
        "true CFG",
        default_builder(tiny.flux),
        {**TWO, **SIZE, "negative_prompt": ["ugly", "blurred"], "true_cfg_scale": 3.0},
    ),
    Case(FLUX, T2I, "LoRA", with_lora(tiny.flux, "transformer"), {**TWO, **SIZE}),
    Case(FLUX, CTL, "embedded guidance", tiny.flux_with_controlnet, {**TWO, **SIZE, "control_image": CONTROL["image"]}),
    Case(
        FLUX,
        T2I,
        "IP-Adapter, two devices",
        with_ip_adapter(tiny.flux, tiny.add_ip_adapter_to_flux, "transformer"),
        {
            **TWO,
            **SIZE,
            "ip_adapter_image_embeds": [image_embedding(False)],
            "negative_ip_adapter_image_embeds": [0 * image_embedding(False)],
        },
        {"devices": ["cpu", "cpu"]},
    ),
    Case(
        FLUX,
        CTL,
        "begins and ends within the loop",
        tiny.flux_with_controlnet,
        {
            **TWO,
            **SIZE,
            "control_image": CONTROL["image"],
            "control_guidance_start": 0.2,
            "control_guidance_end": 0.7,
        },
    ),
    Case(FLUX, IMG, "embedded guidance", builder(diffusers.FluxImg2ImgPipeline, tiny.flux), {**TWO, **I2I, **SIZE}),
]

TASKS = {
    "StableDiffusion, text to image": (default_builder(tiny.sd), TWO),
    "image to image": (builder(diffusers.StableDiffusionImg2ImgPipeline), {**TWO, **I2I}),
    "ControlNet": (with_controlnet(diffusers.StableDiffusionControlNetPipeline), {**TWO, **CONTROL}),
    "StableDiffusionXL, text to image": (default_builder(tiny.sdxl), TWO),
}
"""builder and call of the tasks in which every solver is tested"""
FLOW_TASKS = {
    "StableDiffusion3, text to image": (default_builder(tiny.sd3), TWO),
    "StableDiffusion3, image to image": (
        builder(diffusers.StableDiffusion3Img2ImgPipeline, tiny.sd3),
        {**TWO, **I2I, **SIZE},
    ),
}
"""the same for every solver of flow models"""


def with_step_cache():
    pipe = tiny.sd()
    config = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    diffusers.apply_pyramid_attention_broadcast(pipe.unet, config)
    return pipe


def refusals():
    """Return the unsupported combinations: a name, a pipeline, and the arguments of a call."""
    cutoff = SDCFGCutoffCallback()
    with_embeddings = {
        "callback_on_step_end": print,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    img2img = diffusers.StableDiffusionImg2ImgPipeline
    return [
        ("inpainting", tiny.sd(diffusers.StableDiffusionInpaintPipeline), TWO),
        ("perturbed-attention guidance", tiny.sd(diffusers.StableDiffusionPAGPipeline), TWO),
        ("PNDM", tiny.sd(scheduler=diffusers.PNDMScheduler(**tiny.LATENT)), TWO),
        ("LMS, image to image", tiny.sd(img2img, LATENT_SOLVERS["LMS"]()), {**TWO, **I2I}),
        (
            "LCM in half precision",
            copy.deepcopy(tiny.sd(scheduler=LATENT_SOLVERS["LCM"]())).to(tiny.torch.float16),
            TWO,
        ),
        ("step caches", with_step_cache(), TWO),
        ("callbacks that change settings", tiny.sd(), {**TWO, "callback_on_step_end": cutoff}),
        ("callbacks that ask for embeddings", tiny.sd(), {**TWO, **with_embeddings}),
        ("the old callback", tiny.sd(), {**TWO, "callback": print, "callback_steps": 1}),
        (
            "DiT with added noise",
            tiny.dit(diffusers.DDPMScheduler(**tiny.LATENT)),
            {"class_labels": [1], "num_inference_steps": STEPS},
        ),
    ]
