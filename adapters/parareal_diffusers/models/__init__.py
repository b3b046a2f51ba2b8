"""Small trained models that ship with the package, in the folder format of diffusers."""

import json
from pathlib import Path
from typing import Any

from parareal.driver import one_of

FOLDERS = {
    "fashion-mnist": Path(__file__).parent / "fashion_mnist",
    "fashion-mnist-flow": Path(__file__).parent / "fashion_mnist_flow",
    "maze": Path(__file__).parent / "maze",
}
"""folders of the shipped models, by the names that `load` takes"""
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
"""names of the classes of Fashion-MNIST, by label"""


def load(name: str) -> tuple[Any, Any]:
    """Return a shipped network and its scheduler.

    Args:
        name: `"fashion-mnist"` is a `diffusers.UNet2DModel` with 2.7 million parameters. It predicts the noise in
            28 x 28 grey images, shape (rows, 1, 28, 28). Its argument `class_labels`, int64 of shape (rows,), is an
            index of `FASHION_MNIST_CLASSES`, or 10 for "any class".
            `"fashion-mnist-flow"` is such a network with 1.9 million parameters. It predicts the velocity of a
            rectified flow in these images.
            `"maze"` is a diffusion policy, a residual MLP with 1.4 million parameters. Its samples are plans of 32 way
            points through one maze, shape (rows, 32, 2). Its argument `ends`, shape (rows, 4), has start and goal:
            x, y, x, y.

    Returns:
        The network, float32 and in evaluation mode, and its scheduler: a `diffusers.DDIMScheduler`, or for a flow a
        `diffusers.FlowMatchEulerDiscreteScheduler`.

    Raises:
        ValueError: for an unknown name.
    """
    one_of("name", name, FOLDERS)
    return load_folder(FOLDERS[name])


def load_folder(folder: Path) -> tuple[Any, Any]:
    """Return the network and the scheduler in a folder of diffusers' format, of one of the shipped kinds."""
    # Imported here: only users of the shipped models should spend the time that importing these classes takes.
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    from parareal_diffusers.models._planner import Planner

    classes = {kind.__name__: kind for kind in (DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel, Planner)}

    def read_class(file: str) -> Any:
        return classes[json.loads((folder / file).read_text())["_class_name"]]

    scheduler_class = read_class("scheduler_config.json")
    network = read_class("config.json").from_pretrained(folder, local_files_only=True)
    return network.eval(), scheduler_class.from_pretrained(folder, local_files_only=True)
