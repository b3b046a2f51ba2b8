"""Guidance weights that depend on the step, applied to each row by its own step.

Some pipelines switch a weight on or off within the loop: ControlNets by `control_guidance_start` and
`control_guidance_end`, Stable Diffusion 3 by `skip_layer_guidance_start` and `_stop`. They look the weight up by the
number of the pass. In a parallelized loop a pass holds rows of several steps, so that number is meaningless. The
pipeline is therefore given stand-ins for the weights: `RowScale` for a ControlNet's scale and `RowFactor` for the
skip-layer scale. Both ignore the number of the pass and use the step numbers of the rows.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, final

from torch import Tensor

from parareal_diffusers._pipelines.stand_ins.rows import LatentRows


class RowsBridge(Protocol):
    """The part of `LoopBridge` that scales use."""

    @property
    def rows(self) -> LatentRows | None:
        """The rows that the loop's latents are; None before and after the loop."""
        ...


@final
class RowScale(float):
    """A ControlNet's conditioning scale that is active in steps between two fractions of the loop.

    It is a `float`, because pipelines check the type of the scale. A pipeline multiplies it by 1 or 0, looked up by the
    number of the pass; this multiplication does nothing. The scale then reaches `NetworkBatch` as the ControlNet's
    argument `conditioning_scale`. `NetworkBatch` passes the plain number to the ControlNet and multiplies each row of
    the output by the same 1 or 0, looked up by the row's step.
    """

    start: float
    stop: float

    @staticmethod
    def of(scale: float, start: float, stop: float) -> "RowScale":
        """Return a scale that is active from one fraction of the loop to another, both in [0, 1]."""
        row_scale = RowScale(scale)
        row_scale.start, row_scale.stop = float(start), float(stop)
        return row_scale

    def __mul__(self, _: Any) -> "RowScale":
        """Return itself: the factor was looked up by the number of the pass."""
        return self

    __rmul__ = __mul__  # for `number * scale`

    def active(self, rows: LatentRows) -> Tensor:
        """Return 1 for rows whose step is within the interval and 0 for others, float32 of shape (R,) or (1,)."""
        numbers = rows.step_numbers_or_zero.double()
        # The same expression as in the pipelines, in double precision as there, so that it rounds alike.
        outside = (numbers / rows.num_steps < self.start) | ((numbers + 1) / rows.num_steps > self.stop)
        return (~outside).float()


@final
class RowFactor:
    """A factor for a tensor of rows: a number in steps strictly between two bounds, zero in all others.

    A pipeline multiplies its guidance by it. torch then calls `__torch_function__`, which multiplies each row by the
    factor of its own step.

    Args:
        factor: the number.
        start, stop: the bounds, in steps.
        bridge: knows the rows of the tensor.
    """

    def __init__(self, factor: float, start: float, stop: float, bridge: RowsBridge):
        self.factor, self.start, self.stop, self.bridge = factor, start, stop, bridge

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Multiply a tensor by the factor; raise `RuntimeError` for any other operation."""
        if getattr(func, "__name__", "") not in ("mul", "__mul__", "__rmul__") or len(args) != 2:
            raise RuntimeError(
                "skip-layer guidance is expected to multiply by its scale: leave skip_guidance_layers out"
            )
        # torch calls this for `tensor * factor` and for `torch.mul` in either order.
        tensor, factor = args if isinstance(args[1], RowFactor) else args[::-1]
        return tensor * factor.for_rows(tensor)

    def for_rows(self, tensor: Tensor) -> Tensor:
        """Return the factor of each row of a tensor, in a shape that broadcasts with it."""
        assert self.bridge.rows is not None
        numbers = self.bridge.rows.step_numbers_or_zero.to(tensor.device)
        factors = self.factor * ((numbers > self.start) & (numbers < self.stop)).to(tensor.dtype)
        return factors.reshape(-1, *[1] * (tensor.ndim - 1))


def scale_control_by_row(pipe: Any, bound: inspect.BoundArguments) -> None:
    """Replace a call's ControlNet scales by `RowScale`s, if control begins or ends within the loop.

    Changes `bound`, the arguments of the pipeline's call.

    Raises:
        ValueError: if the numbers of starts, ends and scales differ, or a scale is no float.
    """
    arguments = _with_defaults(bound)
    starts, stops = arguments.get("control_guidance_start"), arguments.get("control_guidance_end")
    if starts is None or stops is None or _covers_loop(starts, stops):
        return
    scale = arguments["controlnet_conditioning_scale"]
    # Pipelines accept one value for all ControlNets, or a list with one value for each. If start, end or scale is a
    # list, its length is the number of ControlNets; otherwise the pipeline's ControlNets are counted.
    nets = getattr(getattr(pipe, "controlnet", None), "nets", None)
    lists = [list(x) for x in (starts, stops, scale) if isinstance(x, list | tuple)]
    count = len(lists[0]) if lists else 1 if nets is None else len(nets)
    starts, stops, scales = (_repeat(x, count) for x in (starts, stops, scale))
    if not len(starts) == len(stops) == len(scales) or not all(isinstance(x, float) for x in scales):
        raise ValueError(
            f"{type(pipe).__name__}: control that begins or ends within the loop needs one controlnet_conditioning"
            "_scale, control_guidance_start and control_guidance_end per ControlNet, all of them floats, but they were "
            f"{scales}, {starts} and {stops}"
        )
    row_scales = [RowScale.of(*item) for item in zip(scales, starts, stops, strict=True)]
    several = isinstance(scale, list | tuple) or nets is not None
    bound.arguments["controlnet_conditioning_scale"] = row_scales if several else row_scales[0]


@contextmanager
def scale_skip_guidance_by_row(pipe: Any, bound: inspect.BoundArguments, bridge: RowsBridge) -> Iterator[None]:
    """Compute skip-layer guidance in every pass of one call, and multiply each row by the scale of its own step.

    Changes `bound`, the arguments of the pipeline's call. The interval is made infinite, so that the pipeline's own
    test, by the number of the pass, is always true; rows outside the interval are multiplied by zero.
    """
    arguments = _with_defaults(bound)
    if arguments.get("skip_guidance_layers") is None:
        yield
        return
    # The pipeline compares the number of the pass with fractions of the number of steps.
    steps = arguments["num_inference_steps"] if arguments.get("sigmas") is None else len(arguments["sigmas"])
    start, stop, scale = (arguments[f"skip_layer_guidance_{name}"] for name in ("start", "stop", "scale"))
    factor = RowFactor(scale, steps * start, steps * stop, bridge)
    always = {"skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": float("inf")}
    bound.arguments.update(always, skip_layer_guidance_scale=factor)
    try:
        yield
    finally:
        # The pipeline keeps the scale as an attribute after the call: leave the user's number there.
        if getattr(pipe, "_skip_layer_guidance_scale", None) is factor:
            pipe._skip_layer_guidance_scale = scale


def _with_defaults(bound: inspect.BoundArguments) -> Mapping[str, Any]:
    parameters = bound.signature.parameters
    return {**{name: p.default for name, p in parameters.items()}, **bound.arguments}


def _covers_loop(starts: Any, stops: Any) -> bool:
    """Return whether control is active in the whole loop."""
    return all(x <= 0 for x in _repeat(starts, 1)) and all(x >= 1 for x in _repeat(stops, 1))


def _repeat(value: Any, count: int) -> list[Any]:
    """Return a list as it is, and a single value `count` times."""
    return list(value) if isinstance(value, list | tuple) else [value] * count
