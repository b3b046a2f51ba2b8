"""Small trained models that come with the package, in diffusers' folder format."""

from pathlib import Path
from typing import Any

from parareal._checks import one_of

FOLDERS = {"fashion-mnist": Path(__file__).parent / "fashion_mnist"}
FASHION_MNIST_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def load(name: str) -> tuple[Any, Any]:
    """Return a model that comes with the package and its scheduler.

    Args:
        name: `"fashion-mnist"`: a `diffusers.UNet2DModel` of 2.7 million parameters that predicts the noise in 28 x 28
            grey images; `class_labels` 0 to 9 are the classes of `FASHION_MNIST_CLASSES` and 10 is "any".

    Returns:
        The network, float32 and in evaluation mode, and a `diffusers.DDIMScheduler`.

    Raises:
        ValueError: for an unknown name.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    one_of("name", name, FOLDERS)
    folder = FOLDERS[name]
    net = UNet2DModel.from_pretrained(folder, local_files_only=True)
    return net.eval(), DDIMScheduler.from_pretrained(folder, local_files_only=True)
