"""The pipelines that are known to be right in parallel in time, and those known not to be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

Refusal = Callable[[Any, Mapping[str, Any]], str | None]
"""given the pipeline and the arguments of a call, the reason why it cannot be right; None where it can"""


@final
@dataclass(frozen=True)
class Family:
    """The facts about a class of pipelines that its loop's correctness rests on."""

    networks: tuple[str, ...] = ("unet",)
    """components that its loop calls with its latents, the denoiser first"""
    refusals: tuple[Refusal, ...] = ()
    doubled: Callable[[Mapping[str, Any]], bool] = field(default=lambda _: False)
    """whether a call keeps each sample twice in its latents, for guidance"""
    counted: bool = False
    """whether its loop looks something up by the number of the pass"""


def _noise_of_both_halves(pipe: Any, given: Mapping[str, Any]) -> str | None:
    name = type(pipe.scheduler).__name__
    if (
        "DDPM" not in name
        and "Ancestral" not in name
        and not str(pipe.scheduler.config.get("algorithm_type", "")).startswith("sde")
    ):
        return None
    return f"{name} draws noise for the copies that the pipeline makes for guidance too: use DDIMScheduler"


FAMILIES: dict[str, Family] = {
    "DDPMPipeline": Family(),
    "DDIMPipeline": Family(),
    "DiTPipeline": Family(
        ("transformer",), (_noise_of_both_halves,), doubled=lambda given: given.get("guidance_scale", 4.0) > 1
    ),
    "StableDiffusionPipeline": Family(),
    "StableDiffusionImg2ImgPipeline": Family(),
    "StableDiffusionControlNetPipeline": Family(("unet", "controlnet"), counted=True),
    "StableDiffusionControlNetImg2ImgPipeline": Family(("unet", "controlnet"), counted=True),
    "StableDiffusionXLPipeline": Family(),
    "StableDiffusionXLImg2ImgPipeline": Family(),
    "StableDiffusionXLControlNetPipeline": Family(("unet", "controlnet"), counted=True),
    "StableDiffusion3Pipeline": Family(("transformer",)),
    "StableDiffusion3Img2ImgPipeline": Family(("transformer",)),
    "StableDiffusion3ControlNetPipeline": Family(("transformer", "controlnet"), counted=True),
    "FluxPipeline": Family(("transformer",)),
    "FluxImg2ImgPipeline": Family(("transformer",)),
    "FluxControlNetPipeline": Family(("transformer", "controlnet"), counted=True),
}
"""by the name of the class in diffusers that defines `__call__`"""

_PARTS = {
    "Inpaint": "it blends its latents with the masked picture after every step; use the image-to-image pipeline, and "
    "blend its picture",
    "PAG": "perturbed-attention guidance changes the network's layers by the step; use the pipeline without PAG",
    "LatentConsistency": "it makes a handful of steps that add noise anew, of which nothing can be gained",
    "Pix2Pix": "it stacks its picture's latents on its own for every copy that guidance makes; use image-to-image",
    "Upscale": "it stacks a picture on its latents in every step; use image-to-image",
    "AttendAndExcite": "it optimises its latents in every step; use the pipeline without it",
    "Paradigms": "it is parallel in time itself; use StableDiffusionPipeline",
}


def known(kind: type) -> tuple[str, Family | None]:
    """Return the name of the class that defines a pipeline's loop, and its family, if it is known.

    Raises:
        ValueError: for a pipeline of which it is known that it cannot be right.
    """
    owner = next(base for base in kind.__mro__ if "__call__" in base.__dict__)
    name = owner.__name__
    if not owner.__module__.startswith("diffusers."):
        return name, None
    for part, reason in _PARTS.items():
        if part in name:
            raise ValueError(f"{name} cannot be sampled in parallel in time: {reason}")
    return name, FAMILIES.get(name)


def unknown_family(pipe: Any) -> Family:
    """Return what is to be tried with a pipeline that is not known.

    Raises:
        ValueError: where it is not known which network its loop calls.
    """
    starts = ("unet", "transformer", "controlnet")
    networks = sorted(n for n, x in pipe.components.items() if n.startswith(starts) and x is not None)
    if not any(name.startswith(starts[:2]) for name in networks):
        raise ValueError(
            f"{type(pipe).__name__} has no component called unet or transformer, so it is not known which network its "
            "loop calls; name it so"
        )
    return Family(tuple(networks))
