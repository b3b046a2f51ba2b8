"""One call of a network, its arguments gathered for the rows that the loop carries.

The pipeline computed embeddings and the like per sample, before its loop. An argument's name says whether its tensors
hold something per sample, per row, or neither; a tensor of unknown name is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows
from parareal_diffusers._pipelines.stand_ins.scales import RowScale
from parareal_diffusers._pipelines.stand_ins.trees import joined, mapped

STATES = frozenset({"sample", "hidden_states"})
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
"""arguments whose tensors, at any depth, hold something for each sample and each copy that guidance makes"""
PER_ROW = frozenset(
    {
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        "block_controlnet_hidden_states",
    }
)
"""arguments that the loop has computed of the rows"""
SHARED = frozenset({"img_ids", "txt_ids"})
"""arguments that hold nothing for each sample"""


@final
class NetworkBatch:
    """One call of a network: its arguments, with what is per sample gathered for the rows."""

    def __init__(self, name: str, rows: LatentRows, given: Mapping[str, Any]):
        self.name, self.rows, self.given = name, rows, dict(given)
        state = next((x for key, x in given.items() if key in STATES), None)
        if not isinstance(state, Tensor):
            raise RuntimeError(f"{name} was called without {' or '.join(sorted(STATES))}")
        self.count = len(state)
        if not rows.count:
            self.rows = rows = LatentRows.first(rows.steps, self.count)
        if self.count % rows.count:
            raise RuntimeError(f"{name} was called with a state of shape {tuple(state.shape)} for {rows.count} rows")
        self.copies = self.count // rows.count
        self.index = None
        if rows.sample is not None:
            copies = torch.arange(self.copies, device=rows.sample.device)[:, None] * rows.samples
            self.index = (copies + rows.sample).flatten()
        self.home = state.device
        scale = self.given.get("conditioning_scale")
        self.scale = scale if isinstance(scale, RowScale) else None
        if self.scale is not None:
            self.given["conditioning_scale"] = float(self.scale)
        self.by_row = {key for key in self.given if key in STATES | TIMES | PER_SAMPLE | PER_ROW}
        self._gather()

    def _gather(self) -> None:
        for key, value in self.given.items():
            if key in TIMES:
                self.given[key] = self._times(value)
            elif key in PER_SAMPLE:
                self.given[key] = mapped(value, lambda x, key=key: self._per_sample(x, key))
            elif key in PER_ROW:
                mapped(value, lambda x, key=key: self._checked(x, self.count, key))
            elif key not in STATES | SHARED:
                mapped(value, lambda x, key=key: self._unknown(x, key))

    def _times(self, value: Any) -> Any:
        if self.rows.times is None:  # a vector as in later passes, so that a compiled network needs no graph more
            if not isinstance(value, Tensor):
                return value
            return value.repeat(self.count) if value.ndim == 0 else value.contiguous()
        times = getattr(value, "rows", value)  # a `RowTime`, or what `expand` made of it
        if not isinstance(times, Tensor) or times.ndim != 1 or len(times) not in (self.rows.count, self.count):
            raise RuntimeError(
                f"{self.name} was given a timestep that its pipeline has made something else of: it cannot be sampled "
                "in parallel in time"
            )
        if self.rows.check:
            self._check_times(times)
        return times if len(times) == self.count else times.repeat(self.copies)

    def _check_times(self, times: Tensor) -> None:
        """Raise where what the network is told is not the rows' timesteps, in any unit."""
        assert self.rows.times is not None
        wanted = self.rows.times.double().repeat(len(times) // self.rows.count)
        found, wanted = (x.double() / x.double().abs().max().clamp(min=1e-30) for x in (times, wanted))
        if not torch.allclose(found, wanted, rtol=0.0, atol=1e-2):  # in half precision they are rounded
            raise RuntimeError(
                f"{self.name} was given other timesteps than those of its rows: this pipeline cannot be sampled in "
                "parallel in time"
            )

    def _per_sample(self, x: Tensor, key: str) -> Tensor:
        if key == "guidance" and len(x) == self.count:  # one number; some pipelines repeat it within their loop
            return x
        x = self._checked(x, self.copies * self.rows.samples, key)
        return x if self.index is None else x[self.index.to(x.device)]

    def _checked(self, x: Tensor, count: int, key: str) -> Tensor:
        if x.ndim == 0 or len(x) != count:
            raise RuntimeError(
                f"{self.name} was given {key} of shape {tuple(x.shape)}, which should have {count} rows: this pipeline "
                "cannot be sampled in parallel in time with these arguments"
            )
        return x

    def _unknown(self, x: Tensor, key: str) -> Tensor:
        if x.ndim == 0:
            return x
        raise RuntimeError(
            f"{self.name} was given a tensor {key}, of which it is not known whether it belongs to samples: this "
            "pipeline cannot be sampled in parallel in time with these arguments"
        )

    def run(self, call: Callable[..., Any], most: int | None, sizes: list[int]) -> Any:
        """Call the network in parts of so many rows, each filled up to the next of the sizes."""
        parts = self._parts(most, sizes)
        if parts == [(0, self.count, self.count)]:
            return call(**self.given)
        return joined([_cut(call(**self._part(*part)), part[1]) for part in parts])

    def run_on(
        self, replicas: Replicas, network: nn.Module, positional: Sequence[str], most: int | None, sizes: list[int]
    ) -> Any:
        """Call the network's copies on several devices, each for its share of the rows, in parts as for one."""
        parts = self._parts(replicas.share(self.count, most), sizes)
        calls = [partial(_called, positional, self._part(*part)) for part in parts]
        outputs = replicas.calls(network, calls, self.home)
        return joined([_cut(output, part[1]) for output, part in zip(outputs, parts, strict=True)])

    def _parts(self, most: int | None, sizes: list[int]) -> list[tuple[int, int, int]]:
        """Return where each part begins, how many rows it has, and to how many it is filled up."""
        most, parts = self.count if most is None else most, []
        for start in range(0, self.count, most):
            count = min(most, self.count - start)
            parts.append((start, count, next((s for s in sizes if s >= count), count)))
        return parts

    def weighted(self, output: Any) -> Any:
        """Return what a ControlNet says, in the steps in which it is kept, and zeros for rows in others."""
        if self.scale is None:
            return output
        kept = self.scale.kept(self.rows).to(self.home).expand(self.rows.count).repeat(self.copies)
        return mapped(output, lambda x: x * kept.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))

    def _part(self, start: int, count: int, size: int) -> dict[str, Any]:
        def part(x: Tensor) -> Tensor:
            if x.ndim == 0:
                return x
            x = x[start : start + count]
            return x if size == count else torch.cat([x, x[-1:].expand(size - count, *x.shape[1:])])

        return {key: mapped(x, part) if key in self.by_row else x for key, x in self.given.items()}


def by_name(call: Callable[..., Any], positional: Sequence[str]) -> Callable[..., Any]:
    """Return a call, given names, with as many arguments by position as it was made with: hooks may count."""
    return lambda **given: call(*[given.pop(name) for name in positional], **given)


def _cut(output: Any, count: int) -> Any:
    return mapped(output, lambda x: x[:count])


def _called(positional: Sequence[str], given: dict[str, Any], call: Callable[..., Any]) -> Any:
    return by_name(call, positional)(**given)
