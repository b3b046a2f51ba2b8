"""FID and CLIP score by torchmetrics, or the reason why they are not available."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MODEL = "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"  # the paper's ViT-g-14


def compute_fid(images: Tensor, real: Path | None) -> str:
    """Return the FID of images to those in a folder, or the reason why there is none.

    Args:
        images: uint8, shape (n, 3, height, width).
        real: folder of real images; None if there is none.
    """
    if real is None:
        return "none: no real images (--real FOLDER)"
    if find_spec("torchmetrics") is None or find_spec("torch_fidelity") is None:
        return "none: needs torchmetrics and torch-fidelity"
    if len(images) < 2:
        return "none: needs at least two samples, and is unreliable below a thousand"
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048)
    except Exception as error:  # any reason for which the weights cannot be downloaded
        return f"none: Inception's weights are not available ({_first_line(error)})"
    for file in sorted(real.iterdir()):
        metric.update(_read(file)[None], real=True)
    metric.update(images, real=False)
    return f"{float(metric.compute()):.1f}"


def compute_clip_score(images: Tensor, prompts: Sequence[str]) -> str:
    """Return the CLIP score of images for their prompts, or the reason why there is none.

    Args:
        images: uint8, shape (n, 3, height, width).
        prompts: one per image; empty if the model takes none.
    """
    if not prompts:
        return "none: the model takes no prompts; give Stable Diffusion 2 as --model"
    if find_spec("torchmetrics") is None:
        return "none: needs torchmetrics"
    try:
        from torchmetrics.multimodal.clip_score import CLIPScore

        metric = CLIPScore(model_name_or_path=CLIP_MODEL)  # pyright: ignore[reportArgumentType], any id is accepted
    except Exception as error:
        return f"none: CLIP's weights are not available ({_first_line(error)})"
    metric.update(list(images), list(prompts))
    return f"{float(metric.compute()):.1f}"


def _read(file: Path) -> Tensor:
    """Return an image file as uint8, shape (3, height, width)."""
    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def _first_line(error: Exception) -> str:
    """Return a message that fits into a cell of a Markdown table."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].replace("|", "/")
    return line if len(line) <= 100 else f"{line[:97]}..."
