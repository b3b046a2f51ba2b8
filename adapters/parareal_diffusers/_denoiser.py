"""The network as the engine calls it: many rows, each with its own timestep and its sample's conditioning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import optree
import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho, Salimans 2022, arXiv 2207.12598): output = free + scale * (conditional - free).

    `model_kwargs` replaces, for the free half, those of `sample` that it names, for instance the labels or text
    embeddings that stand for "anything". The pair of outputs is made in one call and counts as one evaluation.
    """

    scale: float
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)


@final
class Denoiser:
    """Calls a network for rows of several samples and timesteps at once.

    `model` is called as `model(x, t, **kwargs)` with x of shape (rows, *sample) in the model's own dtype and t of
    shape (rows,), int64. It returns a tensor like x, a tuple that begins with one, or an object whose attribute
    `sample` is one, as diffusers' networks do. Tensors among the `kwargs`, at any depth, whose first dimension is
    the number of samples are gathered row by row; everything else is passed on as it is.
    """

    def __init__(
        self, model: Callable[..., Any], samples: int, model_kwargs: Mapping[str, Any], guidance: Guidance | None
    ):
        self.model, self.samples, self.guidance = model, samples, guidance
        self.kwargs = dict(model_kwargs)
        self.free_kwargs = self.kwargs if guidance is None else self._checked(guidance)
        self.dtype = _dtype(model)

    def __call__(self, state: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        """Return the network's output for every row, guided, in the state's dtype."""
        x = state if self.dtype is None else state.to(self.dtype)
        if self.guidance is None:
            kwargs = self._gather(self.kwargs, self.kwargs, lambda _, own: own[sample])
            return _tensor(self.model(x, timestep, **kwargs)).to(state.dtype)
        kwargs = self._gather(self.free_kwargs, self.kwargs, lambda free, own: torch.cat([free[sample], own[sample]]))
        output = _tensor(self.model(torch.cat([x, x]), torch.cat([timestep, timestep]), **kwargs)).to(state.dtype)
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance.scale * (conditional - unconditional)

    def _gather(self, free: Any, own: Any, pick: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Apply `pick` to the tensors that hold something for each sample, and leave everything else."""

        def leaf(x: Any, y: Any) -> Any:
            return pick(x, y) if isinstance(y, Tensor) and y.ndim > 0 and len(y) == self.samples else y

        gathered: Any = optree.tree_map(leaf, free, own)
        return gathered

    def _checked(self, guidance: Guidance) -> dict[str, Any]:
        """Return the keyword arguments of the unguided half, which must be like those of the guided one."""
        unknown = sorted(set(guidance.model_kwargs) - set(self.kwargs))
        if unknown:
            raise ValueError(
                f"guidance: model_kwargs names {', '.join(unknown)}, which the model_kwargs of sample do not: "
                f"they are {', '.join(self.kwargs) or 'empty'}"
            )
        free: Any = {**self.kwargs, **guidance.model_kwargs}
        own: Any = self.kwargs
        shapes = [[getattr(x, "shape", None) for x in optree.tree_leaves(tree)] for tree in (free, own)]
        if optree.tree_structure(free) != optree.tree_structure(own) or shapes[0] != shapes[1]:
            raise ValueError(
                "guidance: its model_kwargs must have the structure and shapes of those of sample, "
                f"a row for each of the {self.samples} samples included"
            )
        return free


def _dtype(model: Any) -> torch.dtype | None:
    """Return the dtype in which a module wants its input; None for a plain function."""
    if not isinstance(model, torch.nn.Module):
        return None
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        return output[0]
    if isinstance(getattr(output, "sample", None), Tensor):
        return output.sample
    raise TypeError(
        f"the model must return a tensor, a tuple that begins with one, or an object with a tensor named sample, "
        f"not {type(output).__name__}"
    )
