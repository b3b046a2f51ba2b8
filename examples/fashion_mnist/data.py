"""The data set Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT licence) as tensors."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package
NO_CLASS = 10  # the label of unconditional samples, for guidance


def _read_idx(path: Path) -> np.ndarray:
    """Read one file in the IDX format: two zero bytes, a type, a rank, the big-endian shape, the data."""
    with gzip.open(path) as file:
        rank = file.read(4)[3]
        shape = np.frombuffer(file.read(4 * rank), dtype=">i4")
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(shape)


def load(split: str, folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Return images, float32 of shape (n, 1, 28, 28) in [-1, 1], and labels, int64 of shape (n,).

    Args:
        split: `"train"` (60 000 images) or `"t10k"` (10 000 images).
        folder: the folder with the four .gz files.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no data set in {folder}: install Debian's package dataset-fashion-mnist, "
            "or name the folder that holds its four .gz files with --data"
        )
    images = torch.from_numpy(_read_idx(folder / f"{split}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(_read_idx(folder / f"{split}-labels-idx1-ubyte.gz").copy())
    return images[:, None].float() / 127.5 - 1, labels.long()
