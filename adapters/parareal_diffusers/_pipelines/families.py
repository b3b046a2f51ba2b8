"""Facts about diffusers' pipelines: those that are supported, and those that would give wrong results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

Refusal = Callable[[Any, Mapping[str, Any]], str | None]
"""takes the pipeline and the arguments of a call; returns the reason if the call is unsupported, else None"""


@final
@dataclass(frozen=True)
class Family:
    """The facts about a class of pipelines that the correctness of its parallel loop depends on."""

    networks: tuple[str, ...] = ("unet",)
    """names of the components that its loop calls with its latents, the denoiser first"""
    refusals: tuple[Refusal, ...] = ()
    """further conditions under which a call is unsupported"""
    doubles_latents: Callable[[Mapping[str, Any]], bool] = field(default=lambda _: False)
    """returns whether a call keeps each sample twice in its latents, for guidance"""
    indexes_by_pass: bool = False
    """whether its loop looks something up by the number of the pass, and so allows no more passes than steps"""


def _noise_for_both_halves(pipe: Any, _: Mapping[str, Any]) -> str | None:
    """Refuse schedulers that add noise: `LoopBridge` assumes that both halves of doubled latents stay equal."""
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
    # DiT keeps [latents, latents] through its loop and passes both halves to `step`.
    "DiTPipeline": Family(
        ("transformer",),
        (_noise_for_both_halves,),
        doubles_latents=lambda arguments: arguments.get("guidance_scale", 4.0) > 1,
    ),
    "StableDiffusionPipeline": Family(),
    "StableDiffusionImg2ImgPipeline": Family(),
    # Pipelines with ControlNets prepare one factor of control per step (`controlnet_keep`) and index it by the pass.
    "StableDiffusionControlNetPipeline": Family(("unet", "controlnet"), indexes_by_pass=True),
    "StableDiffusionControlNetImg2ImgPipeline": Family(("unet", "controlnet"), indexes_by_pass=True),
    "StableDiffusionXLPipeline": Family(),
    "StableDiffusionXLImg2ImgPipeline": Family(),
    "StableDiffusionXLControlNetPipeline": Family(("unet", "controlnet"), indexes_by_pass=True),
    "StableDiffusion3Pipeline": Family(("transformer",)),
    "StableDiffusion3Img2ImgPipeline": Family(("transformer",)),
    "StableDiffusion3ControlNetPipeline": Family(("transformer", "controlnet"), indexes_by_pass=True),
    "FluxPipeline": Family(("transformer",)),
    "FluxImg2ImgPipeline": Family(("transformer",)),
    "FluxControlNetPipeline": Family(("transformer", "controlnet"), indexes_by_pass=True),
}
"""the supported pipelines, by the name of the class in diffusers that defines `__call__`"""

_UNSUPPORTED = {
    "Inpaint": "it blends its latents with the masked image after every step; use the image-to-image pipeline, and "
    "blend its image",
    "PAG": "perturbed-attention guidance changes the network's layers from step to step; use the pipeline without PAG",
    "LatentConsistency": "it makes a handful of steps, each of which adds fresh noise, and there is nothing to gain; "
    "sample it without parallelize",
    "Pix2Pix": "it stacks the latents of its image separately for every copy that guidance makes; use image-to-image",
    "Upscale": "it stacks an image on its latents in every step; use image-to-image",
    "AttendAndExcite": "it optimises its latents in every step; use the pipeline without it",
    "Paradigms": "it is parallel in time itself; use StableDiffusionPipeline",
}
"""reasons by a part of the name of the class"""


def find_family(kind: type) -> tuple[str, Family | None]:
    """Return the name of the class that defines a pipeline's loop, and its family; None if it is not in the table.

    A subclass of a supported pipeline that does not override `__call__` belongs to the same family.

    Raises:
        ValueError: if the pipeline is known to give wrong results in parallel in time.
    """
    # The class that defines `__call__` contains the loop, and only the loop decides whether a pipeline is supported.
    owner = next(base for base in kind.__mro__ if "__call__" in base.__dict__)
    name = owner.__name__
    if not owner.__module__.startswith("diffusers."):
        return name, None
    # By parts of the name, because diffusers has a class of each sort for every model.
    for part, reason in _UNSUPPORTED.items():
        if part in name:
            raise ValueError(f"{name} cannot be sampled in parallel in time: {reason}")
    return name, FAMILIES.get(name)


def guess_family(pipe: Any) -> Family:
    """Return a family for a pipeline that is not in the table, to be verified.

    Raises:
        ValueError: if no component has the name of a denoiser.
    """
    starts = ("unet", "transformer", "controlnet")
    networks = sorted(n for n, x in pipe.components.items() if n.startswith(starts) and x is not None)
    if not any(name.startswith(starts[:2]) for name in networks):
        raise ValueError(
            f"{type(pipe).__name__} has no component called unet or transformer, so it is unknown which network its "
            "loop calls: give the component one of these names"
        )
    return Family(tuple(networks))
