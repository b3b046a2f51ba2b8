"""Operations on the tensors within arguments and outputs of networks: nested lists, tuples and dictionaries."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with a function applied to each tensor in it; everything else is unchanged."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)([map_tensors(x, function) for x in value])
    if isinstance(value, dict):
        mapping = {key: map_tensors(x, function) for key, x in value.items()}
        # Outputs of diffusers' models are dictionaries too (`BaseOutput`). They are dataclasses, so they are built
        # from keywords.
        return mapping if type(value) is dict else type(value)(**mapping)
    return value


def join_outputs(outputs: list[Any]) -> Any:
    """Return the output of a batch, concatenated from the outputs of its parts along the first axis."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, list | tuple):
        return type(first)([join_outputs(list(xs)) for xs in zip(*outputs, strict=True)])
    if isinstance(first, dict):
        return type(first)(**{key: join_outputs([x[key] for x in outputs]) for key in first})
    return first
