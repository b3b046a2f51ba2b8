"""FID and CLIP score by torchmetrics, or the reason why they cannot be had."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MODEL = "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"  # the paper's ViT-g-14


def fid(pictures: Tensor, real: Path | None) -> str:
    """Return the FID of pictures (n, 3, height, width), uint8, to those in a folder; or why there is none."""
    if real is None:
        return "none: no real pictures (--real FOLDER)"
    if find_spec("torchmetrics") is None or find_spec("torch_fidelity") is None:
        return "none: needs torchmetrics and torch-fidelity"
    if len(pictures) < 2:
        return "none: needs two samples at least, and means little below a thousand"
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048)
    except Exception as error:  # whatever stops the weights from being fetched
        return f"none: Inception's weights cannot be had ({_first_line(error)})"
    for file in sorted(real.iterdir()):
        metric.update(_read(file)[None], real=True)
    metric.update(pictures, real=False)
    return f"{float(metric.compute()):.1f}"


def clip(pictures: Tensor, prompts: Sequence[str]) -> str:
    """Return the CLIP score of pictures (n, 3, height, width), uint8, for their prompts; or why there is none."""
    if not prompts:
        return "none: the model takes no prompts; give Stable Diffusion 2 as --model"
    if find_spec("torchmetrics") is None:
        return "none: needs torchmetrics"
    try:
        from torchmetrics.multimodal.clip_score import CLIPScore

        metric = CLIPScore(model_name_or_path=CLIP_MODEL)  # pyright: ignore[reportArgumentType], any id will do
    except Exception as error:
        return f"none: CLIP's weights cannot be had ({_first_line(error)})"
    metric.update(list(pictures), list(prompts))
    return f"{float(metric.compute()):.1f}"


def _read(file: Path) -> Tensor:
    with Image.open(file) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


def _first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0].replace("|", "/")
    return line if len(line) <= 100 else f"{line[:97]}..."
