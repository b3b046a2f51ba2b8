"""One call of a network, with its arguments gathered for the rows that the loop carries.

The pipeline computes embeddings and other conditioning per sample, before its loop. In a pass, the rows belong to
samples in an order that the engine chooses, so the conditioning is gathered by each row's sample index. The name of an
argument says whether its tensors hold one entry per sample, one per row, or neither. A tensor with an unknown name is
refused: guessing would silently give rows the conditioning of other samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scales import RowScale
from parareal_diffusers._pipelines.stand_ins.trees import join_outputs, map_tensors

STATES = frozenset({"sample", "hidden_states"})
"""arguments that are the loop's latents, one entry per row and guidance copy"""
TIMES = frozenset({"timestep"})
PER_SAMPLE = frozenset(
    {
        "encoder_hidden_states",
        "pooled_projections",
        "class_labels",
        "timestep_cond",
        "attention_mask",
        "encoder_attention_mask",
        "added_cond_kwargs",
        "controlnet_cond",
        "controlnet_mode",
        "guidance",
        "joint_attention_kwargs",
    }
)
"""arguments whose tensors, at any depth, have one entry per sample and guidance copy"""
PER_ROW = frozenset(
    {
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        "block_controlnet_hidden_states",
    }
)
"""arguments that the loop computes from the rows, such as the outputs of a ControlNet; one entry per row and copy"""
SHARED = frozenset({"img_ids", "txt_ids"})
"""arguments that are the same for all samples"""


@final
class NetworkBatch:
    """One call of a network: its arguments, with those per sample gathered for the rows.

    For classifier-free guidance most pipelines stack copies of their latents into one call. The states then hold
    `copies` blocks of rows, and arguments per sample hold `copies` blocks of samples.

    Args:
        name: the class name of the network, for messages.
        rows: the rows that the loop's latents hold.
        arguments: the arguments of the call by name.

    Raises:
        RuntimeError: if an argument does not fit the rows, or has an unknown name.
    """

    def __init__(self, name: str, rows: LatentRows, arguments: Mapping[str, Any]):
        self.name, self.rows, self.arguments = name, rows, dict(arguments)
        state = next((x for key, x in arguments.items() if key in STATES), None)
        if not isinstance(state, Tensor):
            raise RuntimeError(
                f"{name} was called without {' or '.join(sorted(STATES))}: call handle.disable() and sample "
                "sequentially"
            )
        self.count = len(state)
        if not rows.num_rows:
            # The first pass: the number of samples is not known, so guidance copies cannot be told from samples. All
            # entries are in the pipeline's own order, so nothing needs to be gathered.
            self.rows = rows = LatentRows.first_pass(rows.num_steps, self.count)
        if self.count % rows.num_rows:
            raise RuntimeError(
                f"{name} was called with a state of shape {tuple(state.shape)} for {rows.num_rows} rows: call "
                "handle.disable() and sample sequentially"
            )
        self.copies = self.count // rows.num_rows
        self.index = None
        if rows.sample_index is not None:
            # Entry s of guidance copy c stands at position c * num_samples + s of an argument per sample.
            offsets = torch.arange(self.copies, device=rows.sample_index.device)[:, None] * rows.num_samples
            self.index = (offsets + rows.sample_index).flatten()
        self.device = state.device
        scale = self.arguments.get("conditioning_scale")
        self.scale = scale if isinstance(scale, RowScale) else None
        if self.scale is not None:
            # The ControlNet gets a plain number. `apply_scale` multiplies its output by the factor of each row.
            self.arguments["conditioning_scale"] = float(self.scale)
        # Once gathered, arguments per sample have entries per row as well, so all of these can be cut into parts.
        self.row_arguments = {key for key in self.arguments if key in STATES | TIMES | PER_SAMPLE | PER_ROW}
        self._gather()

    def _gather(self) -> None:
        for key, value in self.arguments.items():
            if key in TIMES:
                self.arguments[key] = self._expand_timesteps(value)
            elif key in PER_SAMPLE:
                self.arguments[key] = map_tensors(value, lambda x, key=key: self._gather_samples(x, key))
            elif key in PER_ROW:
                map_tensors(value, lambda x, key=key: self._check_length(x, self.count, key))
            elif key not in STATES | SHARED:
                map_tensors(value, lambda x, key=key: self._refuse_unknown(x, key))

    def _expand_timesteps(self, value: Any) -> Any:
        """Return one timestep per row and guidance copy."""
        if self.rows.timesteps is None:
            # All rows have the timestep that the loop iterates. It becomes a vector here too, as in all later passes:
            # a compiled network would need one more graph for a scalar.
            if not isinstance(value, Tensor):
                return value
            return value.repeat(self.count) if value.ndim == 0 else value.contiguous()
        times = getattr(value, "rows", value)  # a `RowTimestep`, or the tensor that its `expand` has returned
        if not isinstance(times, Tensor) or times.ndim != 1 or len(times) not in (self.rows.num_rows, self.count):
            raise RuntimeError(
                f"{self.name} was given a timestep that the pipeline has computed in an unsupported way, so the "
                "pipeline cannot be sampled in parallel in time: call handle.disable() and sample sequentially"
            )
        if self.rows.check_timesteps:
            self._check_timesteps(times)
        return times if len(times) == self.count else times.repeat(self.copies)

    def _check_timesteps(self, times: Tensor) -> None:
        """Raise `RuntimeError` unless the timesteps given to the network are those of the rows, in any unit."""
        assert self.rows.timesteps is not None
        expected = self.rows.timesteps.double().repeat(len(times) // self.rows.num_rows)
        # Flow models are given timesteps divided by 1000, so both are compared relative to their largest.
        actual, expected = (x.double() / x.double().abs().max().clamp(min=1e-30) for x in (times, expected))
        if not torch.allclose(actual, expected, rtol=0.0, atol=1e-2):  # wide enough for the rounding of half precision
            raise RuntimeError(
                f"{self.name} was given other timesteps than those of its rows, so this pipeline cannot be sampled in "
                "parallel in time: call handle.disable() and sample sequentially"
            )

    def _gather_samples(self, x: Tensor, key: str) -> Tensor:
        """Return a tensor of one entry per sample as one entry per row."""
        # Flux's embedded guidance is one number for all samples. Some pipelines repeat it within their loop, so
        # its length is that of the latents already.
        if key == "guidance" and len(x) == self.count:
            return x
        x = self._check_length(x, self.copies * self.rows.num_samples, key)
        return x if self.index is None else x[self.index.to(x.device)]

    def _check_length(self, x: Tensor, count: int, key: str) -> Tensor:
        """Return the tensor, or raise `RuntimeError` unless its first axis has `count` entries."""
        if x.ndim == 0 or len(x) != count:
            raise RuntimeError(
                f"{self.name} was given {key} of shape {tuple(x.shape)}, but its first axis should have length "
                f"{count}, so this pipeline cannot be sampled in parallel in time with these arguments: call "
                "handle.disable() and sample sequentially"
            )
        return x

    def _refuse_unknown(self, x: Tensor, key: str) -> Tensor:
        """Return the tensor if it is a single number; raise `RuntimeError` otherwise."""
        if x.ndim == 0:
            return x
        raise RuntimeError(
            f"{self.name} was given a tensor {key}, and it is unknown whether it has one entry per sample, so this "
            "pipeline cannot be sampled in parallel in time with these arguments: call handle.disable() and sample "
            "sequentially"
        )

    def run(self, call: Callable[..., Any], max_rows: int | None, pad_sizes: list[int]) -> Any:
        """Call the network, in parts of at most `max_rows` rows; each is padded to the next larger of `pad_sizes`."""
        parts = self._split(max_rows, pad_sizes)
        if parts == [(0, self.count, self.count)]:  # no copy of anything in the common case
            return call(**self.arguments)
        return join_outputs([_drop_padding(call(**self._slice_arguments(*part)), part[1]) for part in parts])

    def run_on(
        self,
        replicas: Replicas,
        network: nn.Module,
        positional: Sequence[str],
        max_rows: int | None,
        pad_sizes: list[int],
    ) -> Any:
        """Call the copies of a network on several devices, each for its share of the rows; parts are made as in `run`.

        `positional` names the arguments that the pipeline passed by position.
        """
        parts = self._split(replicas.part_size(self.count, max_rows), pad_sizes)
        calls = [partial(_call_copy, positional, self._slice_arguments(*part)) for part in parts]
        outputs = replicas.call(network, calls, self.device)
        return join_outputs([_drop_padding(output, part[1]) for output, part in zip(outputs, parts, strict=True)])

    def _split(self, max_rows: int | None, pad_sizes: list[int]) -> list[tuple[int, int, int]]:
        """Return for each part its first row, its number of rows, and the number of rows after padding."""
        max_rows, parts = self.count if max_rows is None else max_rows, []
        for start in range(0, self.count, max_rows):
            count = min(max_rows, self.count - start)
            parts.append((start, count, next((s for s in pad_sizes if s >= count), count)))
        return parts

    def apply_scale(self, output: Any) -> Any:
        """Return the output of a ControlNet, set to zero for rows whose step lies outside its guidance interval."""
        if self.scale is None:
            return output
        factors = self.scale.active(self.rows).to(self.device).expand(self.rows.num_rows).repeat(self.copies)
        return map_tensors(output, lambda x: x * factors.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))

    def _slice_arguments(self, start: int, count: int, size: int) -> dict[str, Any]:
        """Return the arguments for `count` rows from `start` on, padded to `size` by repeating the last row."""

        def cut(x: Tensor) -> Tensor:
            if x.ndim == 0:
                return x
            x = x[start : start + count]
            return x if size == count else torch.cat([x, x[-1:].expand(size - count, *x.shape[1:])])

        return {key: map_tensors(x, cut) if key in self.row_arguments else x for key, x in self.arguments.items()}


def restore_positional(call: Callable[..., Any], positional: Sequence[str]) -> Callable[..., Any]:
    """Return a call by keywords that passes the arguments in `positional` by position again.

    The network is called in the form that the pipeline used, because forward hooks see positional arguments and
    keywords separately.
    """
    return lambda **arguments: call(*[arguments.pop(name) for name in positional], **arguments)


def _drop_padding(output: Any, count: int) -> Any:
    return map_tensors(output, lambda x: x[:count])


def _call_copy(positional: Sequence[str], arguments: dict[str, Any], call: Callable[..., Any]) -> Any:
    return restore_positional(call, positional)(**arguments)
