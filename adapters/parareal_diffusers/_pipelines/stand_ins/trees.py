"""Tensors in the arguments and outputs of networks, at any depth."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors in a value."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([mapped(x, function) for x in value])
    if isinstance(value, dict):  # also the outputs of diffusers' models
        found = {key: mapped(x, function) for key, x in value.items()}
        return found if type(value) is dict else type(value)(**found)
    return value


def joined(outputs: list[Any]) -> Any:
    """Join the outputs of parts of a batch."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, list | tuple):
        return type(first)([joined(list(xs)) for xs in zip(*outputs, strict=True)])
    if isinstance(first, dict):
        return type(first)(**{key: joined([x[key] for x in outputs]) for key in first})
    return first
