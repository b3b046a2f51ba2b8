"""Small trained models that come with the package, in diffusers' folder format."""

import json
from pathlib import Path
from typing import Any

from parareal.driver import one_of

FOLDERS = {
    "fashion-mnist": Path(__file__).parent / "fashion_mnist",
    "fashion-mnist-flow": Path(__file__).parent / "fashion_mnist_flow",
    "maze": Path(__file__).parent / "maze",
}
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
            `"fashion-mnist-flow"`: one of 1.9 million that predicts the velocity of a rectified flow in them.
            `"maze"`: a diffusion policy, a residual MLP of 1.4 million parameters over plans of 32 way points, shape
            (rows, 32, 2), through one maze; `ends`, shape (rows, 4), says where they begin and end: x, y, x, y.

    Returns:
        The network, float32 and in evaluation mode, and a `diffusers.DDIMScheduler`, for a flow a
        `diffusers.FlowMatchEulerDiscreteScheduler`.

    Raises:
        ValueError: for an unknown name.
    """
    one_of("name", name, FOLDERS)
    return model_in(FOLDERS[name])


def model_in(folder: Path) -> tuple[Any, Any]:
    """Return the network and the scheduler in a folder of diffusers' format."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    from parareal_diffusers.models._planner import Planner

    kinds = (DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel, Planner)
    known = {kind.__name__: kind for kind in kinds}

    def of(file: str) -> Any:
        return known[json.loads((folder / file).read_text())["_class_name"]]

    kind = of("scheduler_config.json")
    net = of("config.json").from_pretrained(folder, local_files_only=True)
    return net.eval(), kind.from_pretrained(folder, local_files_only=True)
