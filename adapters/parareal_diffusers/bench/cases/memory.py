"""A network that remembers: the runs of many methods on one sample ask it for much of the same.

Rows with the same state, timestep and conditioning, bit by bit, are evaluated once. What a method asks for is counted
where it asks, so that this changes no count; timing goes without it.
"""

from hashlib import blake2b
from typing import Any, final

import torch
from torch import Tensor

from parareal_diffusers._sampling.denoiser import extract_tensor


@final
class Remembering(torch.nn.Module):
    """Calls a network for rows that it has not seen, and remembers them."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.known: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Tensor:
        """Return the network's output, shape (rows, *sample); tensors with a row each are told apart by their rows."""
        t = t.expand(len(x))
        rows = {name: v for name, v in kwargs.items() if isinstance(v, Tensor) and v.ndim and len(v) == len(x)}
        told = [tensor.detach().cpu() for tensor in (x, t, *rows.values())]
        keys = [_key(*(tensor[i] for tensor in told)) for i in range(len(x))]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            given = {name: v[new] if name in rows else v for name, v in kwargs.items()}
            for i, output in zip(new, extract_tensor(self.model(x[new], t[new], **given)), strict=True):
                self.known[keys[i]] = output.clone()
        return torch.stack([self.known[key] for key in keys])


def _key(*tensors: Tensor) -> bytes:
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.digest()
