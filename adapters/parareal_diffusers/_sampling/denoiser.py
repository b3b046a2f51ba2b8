"""The network as the engine calls it: for many rows, each with its own timestep and its sample's conditioning."""

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
    """Classifier-free guidance (Ho, Salimans 2022, arXiv 2207.12598).

    The guided output is unconditional + scale * (conditional - unconditional). Both outputs are made in one call with
    twice the rows, which counts as one evaluation per row.

    Args:
        scale: the guidance scale, as `guidance_scale` in diffusers; 1 is no guidance.
        model_kwargs: replacements, for the unconditional half, of entries of `sample`'s `model_kwargs`: for instance
            the labels or text embeddings that stand for "anything". Entries that it does not name are shared.
    """

    scale: float
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)


@final
class Denoiser:
    """A network with its conditioning and guidance, called for rows of several samples and nodes at once.

    Args:
        model: called as `model(x, t, **kwargs)` with x of shape (rows, *sample) in the model's own dtype and t of shape
            (rows,), the scheduler's timesteps; a model marked `denoised` is called as `model(x, sigma, **kwargs)`. It
            returns a tensor like x, a tuple that begins with one, or an object whose attribute `sample` is one, as
            diffusers' networks do. The tensor may have twice the channels of x, for a predicted variance.
        grid: the nodes, on the device of the states.
        samples: the number of samples.
        model_kwargs: keyword arguments of the model. Tensors among them, at any depth, whose first dimension is the
            number of samples are gathered row by row; everything else is passed on unchanged.
        guidance: classifier-free guidance, or None.
        sizes: batch sizes; calls are filled up to the next size by repeating the last row. Empty for no filling.

    Raises:
        ValueError: for guidance whose `model_kwargs` do not fit those of the model.
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
        self.takes_sigma = isinstance(model, Denoised)
        self.model = model.model if isinstance(model, Denoised) else model
        self.grid, self.samples, self.guidance, self.batch_sizes = grid, samples, guidance, sorted(sizes)
        self.kwargs = dict(model_kwargs)
        conditional: Any = self.kwargs
        unconditional: Any = conditional if guidance is None else self._unconditional_kwargs(guidance)
        # The tree is flattened once, here: in a call only the leaves with a row per sample are worked on.
        leaves, self.tree = optree.tree_flatten(conditional)
        self.leaves = [
            (x, y, self._is_per_sample(y)) for x, y in zip(optree.tree_leaves(unconditional), leaves, strict=True)
        ]
        self.input_dtype = _input_dtype(self.model)

    def __call__(self, state: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        """Return the network's output for every row, guided, in the dtype of the states.

        This is the `evaluate` of both steppers, so every evaluation of a solve ends here.

        Args:
            state: shape (rows, *sample).
            node: the rows' nodes, int64 of shape (rows,).
            sample: the rows' sample indices, int64 of shape (rows,).

        Raises:
            StructureError: for an output of another shape.
            TypeError: for an output without a tensor.
        """
        count = len(state)
        # Padding rows repeat the last row, so they are valid input of its sample; their output is cut off below.
        if self.batch_sizes:
            state, node, sample = (_pad(x, self._choose_size(count)) for x in (state, node, sample))
        output = self._call_model(state, node, sample)
        # Shapes are compared exactly: an output that only broadcasts to the states' shape would give wrong results.
        fits = output.shape == state.shape or (
            output.ndim == state.ndim
            and output.shape[0] == state.shape[0]
            and output.shape[1] == 2 * state.shape[1]
            and output.shape[2:] == state.shape[2:]
        )
        if not fits:
            raise StructureError(
                f"the model was given rows of shape {tuple(state.shape)} and must return the same shape, or twice the "
                f"channels if it predicts the variance too, but returned {tuple(output.shape)}"
            )
        return (output[:count] if self.batch_sizes else output).to(state.dtype)

    def _call_model(self, state: Tensor, node: Tensor, sample: Tensor) -> Tensor:
        """Call the model once, with twice the rows under guidance."""
        x, timestep = self._model_input(state, node)
        # The timestep is not cast: whole timesteps above 256 have no exact value in bfloat16.
        x = x if self.input_dtype is None else x.to(self.input_dtype)
        if self.guidance is None:
            kwargs = self._gather(lambda _, conditional: conditional[sample])
            return extract_tensor(self.model(x, timestep, **kwargs))
        # Unconditional rows come first, as in the pipelines of diffusers.
        kwargs = self._gather(
            lambda unconditional, conditional: torch.cat([unconditional[sample], conditional[sample]])
        )
        output = self.model(torch.cat([x, x]), torch.cat([timestep, timestep]), **kwargs)
        # Guidance is applied in the states' dtype: a difference in half precision would lose digits.
        unconditional, conditional = extract_tensor(output).to(state.dtype).chunk(2)
        return unconditional + self.guidance.scale * (conditional - unconditional)

    def _model_input(self, state: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's arguments: the scaled state and its timestep, or the state over alpha and its sigma."""
        if not self.takes_sigma:
            return self.grid.scale_input(state, node), self.grid.timesteps[node]
        # States are alpha * clean + sigma * noise; k-diffusion's are clean + sigma * noise: both are divided by alpha.
        _, alpha, sigma = self.grid.start
        return state / per_row(alpha[node], state), (sigma / alpha)[node].to(state.dtype)

    def _choose_size(self, count: int) -> int:
        """Return the smallest of the fixed batch sizes that holds `count` rows."""
        return next(size for size in self.batch_sizes if size >= count)

    def _gather(self, pick: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Return the keyword arguments for some rows.

        Args:
            pick: called with the unconditional and the conditional tensor of every leaf that has a row per sample.
        """
        leaves = [pick(x, y) if per_sample else y for x, y, per_sample in self.leaves]
        kwargs: Any = optree.tree_unflatten(self.tree, leaves)
        return kwargs

    def _is_per_sample(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.ndim > 0 and len(x) == self.samples

    def _unconditional_kwargs(self, guidance: Guidance) -> dict[str, Any]:
        """Return the keyword arguments of the unconditional half, checked against those of the conditional half."""
        unknown = sorted(set(guidance.model_kwargs) - set(self.kwargs))
        if unknown:
            raise ValueError(
                f"guidance: its model_kwargs name {', '.join(unknown)}, which the model_kwargs of sample do not (they "
                f"are {', '.join(self.kwargs) or 'empty'}): add them to model_kwargs, or leave them out of guidance"
            )
        unconditional: Any = {**self.kwargs, **guidance.model_kwargs}
        conditional: Any = self.kwargs
        # Not strict: trees of different structure are reported by the second check, which says more about them.
        for x, y in zip(optree.tree_leaves(unconditional), optree.tree_leaves(conditional), strict=False):
            # Both halves are rows of one call, so only leaves with one row per sample can differ between them. A leaf
            # that is the same object in both halves needs no check.
            if x is not y and not self._is_per_sample(y):
                raise ValueError(
                    f"guidance: its model_kwargs may only name entries with a row for each of the {self.samples} "
                    "samples, because both halves share one call: give other entries such rows, for instance by expand"
                )
        trees = (unconditional, conditional)
        shapes = [[getattr(x, "shape", None) for x in optree.tree_leaves(tree)] for tree in trees]
        if optree.tree_structure(unconditional) != optree.tree_structure(conditional) or shapes[0] != shapes[1]:
            raise ValueError(
                "guidance: its model_kwargs must have the structure and shapes of those of sample, including "
                f"a row for each of the {self.samples} samples"
            )
        return unconditional


@final
@dataclass(frozen=True)
class Denoised:
    """A network that returns the clean sample, called with sigma; made by `denoised`."""

    model: Callable[..., Any]


def denoised(model: Callable[..., Any]) -> Denoised:
    """Declare that a network is called as `model(x, sigma, **kwargs)` and returns the clean sample.

    This is k-diffusion's convention (Karras et al. 2022, arXiv 2206.00364): x = clean + sigma * noise, of shape
    (rows, *sample), and sigma of shape (rows,), in the states' dtype. Solver and latents stay those of the scheduler,
    which may be variance preserving: rows are divided by alpha before they are passed to the network.
    """
    return Denoised(model)


def _pad(x: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size` rows."""
    return x if len(x) == size else torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def _input_dtype(model: Any) -> torch.dtype | None:
    """Return the dtype of a module's floating point parameters, to which its input is cast; None for a function."""
    if not isinstance(model, torch.nn.Module):
        return None
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def extract_tensor(output: Any) -> Tensor:
    """Return the tensor in the output of a model: the output itself, its first element, or its attribute `sample`.

    Raises:
        TypeError: for an output of another form.
    """
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
