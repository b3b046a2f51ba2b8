"""Weights that go by the number of the loop's step: each row's is that of its own step, whichever the pass.

Pipelines look them up by the number of the pass of their loop. What is given to them in place of a weight does not
heed that, and is applied to the rows where they are.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, final

from torch import Tensor

from parareal_diffusers._pipelines.stand_ins.rows import LatentRows


class HasRows(Protocol):
    """The source of the loop's rows: `Drive`."""

    @property
    def rows(self) -> LatentRows | None:
        """The rows; None before the loop, and after it."""
        ...


@final
class RowScale(float):
    """A ControlNet's scale, kept in the steps between two fractions of the loop.

    The pipeline multiplies it by 1 or 0, by its pass, which does nothing; the gate takes it for `float` and multiplies
    the rows of the ControlNet's output by what `kept` says, the same 1 or 0 by each row's step.
    """

    start: float
    stop: float

    @staticmethod
    def of(scale: float, start: float, stop: float) -> "RowScale":
        """Return a scale that is kept from a fraction to another."""
        made = RowScale(scale)
        made.start, made.stop = float(start), float(stop)
        return made

    def __mul__(self, _: Any) -> "RowScale":
        """Return itself: the number of the pass says nothing."""
        return self

    __rmul__ = __mul__

    def kept(self, rows: LatentRows) -> Tensor:
        """Return 1 or 0 for each row, shape (R,)."""
        places = rows.places.double()
        out = (places / rows.steps < self.start) | ((places + 1) / rows.steps > self.stop)  # as the pipelines have it
        return (~out).float()


@final
class RowFactor:
    """A factor of a tensor of rows, in the steps strictly between two; nothing in the others.

    Args:
        factor: the number.
        start, stop: numbers of steps.
        driver: has the rows that the tensor has.
    """

    def __init__(self, factor: float, start: float, stop: float, driver: HasRows):
        self.factor, self.start, self.stop, self.driver = factor, start, stop, driver

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Multiply."""
        if getattr(func, "__name__", "") not in ("mul", "__mul__", "__rmul__") or len(args) != 2:
            raise RuntimeError(
                "skip-layer guidance is expected to multiply by its scale: leave skip_guidance_layers out"
            )
        tensor, factor = args if isinstance(args[1], RowFactor) else args[::-1]
        return tensor * factor.of(tensor)

    def of(self, tensor: Tensor) -> Tensor:
        """Return the factor of each of a tensor's rows."""
        assert self.driver.rows is not None
        places = self.driver.rows.places.to(tensor.device)
        factors = self.factor * ((places > self.start) & (places < self.stop)).to(tensor.dtype)
        return factors.reshape(-1, *[1] * (tensor.ndim - 1))


def control_by_row(pipe: Any, bound: inspect.BoundArguments) -> None:
    """Put scales that know their steps in place of a call's, if control begins or ends within the loop.

    Raises:
        ValueError: where starts, ends and scales do not belong to each other.
    """
    given = _with_defaults(bound)
    starts, stops = given.get("control_guidance_start"), given.get("control_guidance_end")
    if starts is None or stops is None or _whole(starts, stops):
        return
    scale = given["controlnet_conditioning_scale"]
    nets = getattr(getattr(pipe, "controlnet", None), "nets", None)
    lists = [list(x) for x in (starts, stops, scale) if isinstance(x, list | tuple)]
    count = len(lists[0]) if lists else 1 if nets is None else len(nets)
    starts, stops, scales = (_each(x, count) for x in (starts, stops, scale))
    if not len(starts) == len(stops) == len(scales) or not all(isinstance(x, float) for x in scales):
        raise ValueError(
            f"{type(pipe).__name__}: control that begins or ends within the loop needs as many controlnet_conditioning"
            "_scale, control_guidance_start and control_guidance_end as there are ControlNets, all of them floats"
        )
    made = [RowScale.of(*item) for item in zip(scales, starts, stops, strict=True)]
    many = isinstance(scale, list | tuple) or nets is not None
    bound.arguments["controlnet_conditioning_scale"] = made if many else made[0]


@contextmanager
def skipping_by_row(pipe: Any, bound: inspect.BoundArguments, driver: HasRows) -> Iterator[None]:
    """Have skip-layer guidance computed in every pass, and its scale be each row's own; for one call."""
    given = _with_defaults(bound)
    if given.get("skip_guidance_layers") is None:
        yield
        return
    steps = given["num_inference_steps"] if given.get("sigmas") is None else len(given["sigmas"])
    start, stop, scale = (given[f"skip_layer_guidance_{name}"] for name in ("start", "stop", "scale"))
    factor = RowFactor(scale, steps * start, steps * stop, driver)
    every = {"skip_layer_guidance_start": -1.0, "skip_layer_guidance_stop": float("inf")}
    bound.arguments.update(every, skip_layer_guidance_scale=factor)
    try:
        yield
    finally:
        if getattr(pipe, "_skip_layer_guidance_scale", None) is factor:
            pipe._skip_layer_guidance_scale = scale


def _with_defaults(bound: inspect.BoundArguments) -> Mapping[str, Any]:
    parameters = bound.signature.parameters
    return {**{name: p.default for name, p in parameters.items()}, **bound.arguments}


def _whole(starts: Any, stops: Any) -> bool:
    """Say whether control has all of the loop."""
    return all(x <= 0 for x in _each(starts, 1)) and all(x >= 1 for x in _each(stops, 1))


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * count
