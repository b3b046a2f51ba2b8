"""The network as the engine calls it: many rows, each with its own timestep and its sample's conditioning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import optree
import torch
from torch import Tensor

from parareal.driver import StructureError
from parareal_diffusers._grid.grid import Grid, per_row


@final
@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho, Salimans 2022, arXiv 2207.12598): output = free + scale * (conditional - free).

    A scale of 1 is no guidance, as `guidance_scale` in diffusers.

    `model_kwargs` replaces, for the free half, those of `sample` that it names, for instance the labels or text
    embeddings that stand for "anything". The pair of outputs is made in one call and counts as one evaluation.
    """

    scale: float
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)


@final
class Denoiser:
    """Calls a network for rows of several samples and nodes at once.

    `model` is called as `model(x, t, **kwargs)` with x of shape (rows, *sample) in the model's own dtype and t of
    shape (rows,), as the scheduler has it; a model marked `denoised` as `model(x, sigma, **kwargs)`. It returns a
    tensor like x, a tuple that begins with one, or an object whose attribute `sample` is one, as diffusers' networks
    do. Tensors among the `kwargs`, at any depth, whose first dimension is the number of samples are gathered row by
    row; everything else is passed on as it is. Calls are filled up to the next of `sizes`, if there are any, by
    repeating the last row.
    """

    def __init__(
        self,
        model: "Callable[..., Any] | Denoised",
        grid: Grid,
        samples: int,
        model_kwargs: Mapping[str, Any],
        guidance: Guidance | None = None,
        sizes: Sequence[int] = (),
    ):
        self.denoises = isinstance(model, Denoised)
        self.model = model.model if isinstance(model, Denoised) else model
        self.grid, self.samples, self.guidance, self.sizes = grid, samples, guidance, sorted(sizes)
        self.kwargs = dict(model_kwargs)
        own: Any = self.kwargs
        free: Any = own if guidance is None else self._checked(guidance)
        leaves, self.tree = optree.tree_flatten(own)
        self.leaves = [(x, y, self._per_sample(y)) for x, y in zip(optree.tree_leaves(free), leaves, strict=True)]
        self.dtype = _dtype(self.model)

    def __call__(self, state: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        """Return the network's output for every row, guided, in the state's dtype."""
        count = len(state)
        if self.sizes:
            state, node, sample = (_padded(x, self._size(count)) for x in (state, node, sample))
        output = self._guided(state, node, sample)
        fits = output.shape == state.shape or (
            output.ndim == state.ndim
            and output.shape[0] == state.shape[0]
            and output.shape[1] == 2 * state.shape[1]
            and output.shape[2:] == state.shape[2:]
        )
        if not fits:
            raise StructureError(
                f"the model was given rows of shape {tuple(state.shape)} and must return the like, or twice the "
                f"channels where it predicts the variance too, not {tuple(output.shape)}"
            )
        return (output[:count] if self.sizes else output).to(state.dtype)

    def _guided(self, state: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        x, timestep = self._input(state, node)
        x = x if self.dtype is None else x.to(self.dtype)
        if self.guidance is None:
            kwargs = self._gather(lambda _, own: own[sample])
            return _tensor(self.model(x, timestep, **kwargs))
        kwargs = self._gather(lambda free, own: torch.cat([free[sample], own[sample]]))
        output = _tensor(self.model(torch.cat([x, x]), torch.cat([timestep, timestep]), **kwargs)).to(state.dtype)
        unconditional, conditional = output.chunk(2)
        return unconditional + self.guidance.scale * (conditional - unconditional)

    def _input(self, state: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is told: the state and its timestep, or the state over alpha and its sigma."""
        if not self.denoises:
            return self.grid.scale_input(state, node), self.grid.timesteps[node]
        _, alpha, sigma = self.grid.start
        return state / per_row(alpha[node], state), (sigma / alpha)[node].to(state.dtype)

    def _size(self, count: int) -> int:
        """Return the smallest of the fixed batch sizes that holds so many rows."""
        return next(size for size in self.sizes if size >= count)

    def _gather(self, pick: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Apply `pick` to the tensors that hold something for each sample, and leave everything else."""
        gathered: Any = optree.tree_unflatten(self.tree, [pick(x, y) if each else y for x, y, each in self.leaves])
        return gathered

    def _per_sample(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.ndim > 0 and len(x) == self.samples

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
        for x, y in zip(optree.tree_leaves(free), optree.tree_leaves(own), strict=False):
            if x is not y and not self._per_sample(y):
                raise ValueError(
                    f"guidance: its model_kwargs may name only what has a row for each of the {self.samples} samples, "
                    "for the guided half and the other share a call; repeat what has not, as by expand"
                )
        shapes = [[getattr(x, "shape", None) for x in optree.tree_leaves(tree)] for tree in (free, own)]
        if optree.tree_structure(free) != optree.tree_structure(own) or shapes[0] != shapes[1]:
            raise ValueError(
                "guidance: its model_kwargs must have the structure and shapes of those of sample, "
                f"a row for each of the {self.samples} samples included"
            )
        return free


@final
@dataclass(frozen=True)
class Denoised:
    """A network that returns the clean sample; made by `denoised`."""

    model: Callable[..., Any]


def denoised(model: Callable[..., Any]) -> Denoised:
    """Declare that a network is called as `model(x, sigma, **kwargs)` and returns the clean sample.

    That is k-diffusion's convention (Karras et al. 2022, arXiv 2206.00364): x = clean + sigma * noise, of shape
    (rows, *sample), and sigma of shape (rows,), in the states' dtype. Solver and latents stay those of the scheduler,
    variance preserving: rows are divided by alpha on their way to the network.
    """
    return Denoised(model)


def _padded(x: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size`."""
    return x if len(x) == size else torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


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
