"""The stand-in for a pipeline's scheduler, through which the pipeline's own loop drives the engine.

A pipeline's loop calls its scheduler in this order:

1. `set_timesteps(...)`, once before the loop. The stand-in sets them and resets the bridge.
2. `for t in scheduler.timesteps`. The tensor is a `Timesteps`, whose iterator is the bridge's: it yields one timestep
   per evaluation that the engine requests, a `RowTimestep` with one timestep per row.
3. `scale_model_input(latents, t)`, in every pass: the bridge divides each row by its own input scale.
4. `step(output, t, latents)`, at the end of every pass: the bridge hands the guided output to the engine, and returns
   the rows of the engine's next request as the loop's next latents or, at the end, the final state.

The stand-in is a copy of the scheduler whose class is derived from the scheduler's own. Everything but these calls is
the scheduler's own code, so pipelines find the signatures, options and helpers that they look for.
"""

import copy
import functools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor


class SchedulerBridge(Protocol):
    """The part of `LoopBridge` that the stand-in calls."""

    def reset(self) -> None:
        """Drop a loop that has begun: the scheduler has new timesteps."""
        ...

    def iterate_timesteps(self, timesteps: Tensor, first: int) -> Iterator[Tensor]:
        """Yield the timesteps of the loop's passes; `first` is the number of the first of `timesteps`."""
        ...

    def scale_input(self, latents: Tensor) -> Tensor:
        """Return latents scaled for the network."""
        ...

    def step(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Take the network's output, after guidance, and return the loop's next latents."""
        ...


class Timesteps(Tensor):
    """A tensor of timesteps whose iterator, also that of a contiguous part of it, is the bridge's."""

    # Everything computed from the timesteps is a plain tensor: only iteration, overridden below, is special.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]
    bridge: SchedulerBridge
    first: int

    @staticmethod
    def of(values: Tensor, bridge: SchedulerBridge, first: int = 0) -> "Timesteps":
        """Return `values` as timesteps that `bridge` iterates; `first` is the step number of `values[0]`."""
        timesteps = values.as_subclass(Timesteps)
        timesteps.bridge, timesteps.first = bridge, first
        return timesteps

    def __iter__(self) -> Iterator[Tensor]:
        """Let the bridge choose the timesteps and the number of passes."""
        return self.bridge.iterate_timesteps(self.as_subclass(Tensor), self.first)

    def __getitem__(self, key: Any) -> Tensor:
        """Return a part. A contiguous slice knows the number of its first step; any other part is a plain tensor.

        Image-to-image pipelines loop over `timesteps[start:]`, and `denoising_end` cuts the other end off.
        """
        part = self.as_subclass(Tensor)[key]
        if not isinstance(key, slice) or key.step not in (None, 1):
            return part
        return Timesteps.of(part, self.bridge, self.first + key.indices(len(self))[0])


class RowTimestep(Tensor):
    """The timestep of a pass: it looks like one number and holds one timestep per row.

    Pipelines pass it to the network as it is, scale it, or spread it over their batch by `expand`; these operations act
    on all rows. Any other computation, comparison or conversion to a number would be right for one row only, and raises
    `RuntimeError`.
    """

    rows: Tensor
    """the timestep of each row, shape (R,)"""

    @staticmethod
    def of(rows: Tensor, keep_dim: bool = False) -> "RowTimestep":
        """Return the timesteps of R rows as one: 0-dimensional, or of shape (1,) with `keep_dim`."""
        timestep = (rows[:1] if keep_dim else rows[0]).clone().as_subclass(RowTimestep)
        timestep.rows = rows
        return timestep

    def expand(self, *sizes: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the rows' timesteps, once per guidance copy; the size is the length of the pipeline's batch."""
        size = sizes[0] if len(sizes) == 1 else None
        size = size[0] if isinstance(size, list | tuple) and len(size) == 1 else size
        if not isinstance(size, int) or size % len(self.rows):
            raise RuntimeError(
                f"this pipeline expands its timestep to {sizes}, which is no multiple of its {len(self.rows)} rows, so "
                "it cannot be sampled in parallel in time: call handle.disable() and sample sequentially"
            )
        return self.rows.repeat(size // len(self.rows))

    repeat = expand  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Apply an operation to all rows if it is known to be meant so; raise `RuntimeError` otherwise."""
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():  # the operations below must not dispatch here again
            if name in ("__get__", "__repr__", "as_subclass", "clone", "dim", "size"):
                return func(*args, **kwargs)
            acts_on_rows = name == "to" or (name in _SCALINGS and not isinstance(args[1], Tensor))
            if acts_on_rows and isinstance(args[0], RowTimestep):
                return cls.of(func(args[0].rows, *args[1:], **kwargs), args[0].ndim == 1)
            if name == "__getitem__" and args[1] is None and args[0].ndim == 0:  # t[None]
                return cls.of(args[0].rows, keep_dim=True)
        raise RuntimeError(
            f"this pipeline computes {name} of its timestep, which differs from row to row, so it cannot be sampled "
            "in parallel in time: call handle.disable() and sample sequentially"
        )


_SCALINGS = ("div", "true_divide", "__truediv__", "mul", "__mul__", "__rmul__")


def make_stand_in(scheduler: Any, bridge: SchedulerBridge) -> Any:
    """Return a copy of a scheduler whose loop calls go to a bridge; the scheduler itself is not changed."""
    stand_in = copy.deepcopy(scheduler)
    stand_in.__class__ = _build_stand_in_class(type(scheduler))
    stand_in.__dict__["_parareal_bridge"] = bridge
    return stand_in


def restore_scheduler(stand_in: Any) -> Any:
    """Return a stand-in as a scheduler of its original class, with its timesteps set and before its first step."""
    scheduler = copy.copy(stand_in)
    # The class of a stand-in derives from the scheduler's own class, which is the next in its method resolution order.
    scheduler.__class__ = type(stand_in).__mro__[1]
    del scheduler.__dict__["_parareal_bridge"]
    return _reset_steps(scheduler)


def copy_with_steps(scheduler: Any, steps: int, **options: Any) -> Any:
    """Return a copy of a scheduler with its timesteps set and before its first step."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, **options)
    return _reset_steps(scheduler)


def _reset_steps(scheduler: Any) -> Any:
    """Clear the indices in which diffusers' schedulers count their steps."""
    for name in ("_begin_index", "_step_index"):
        if name in scheduler.__dict__:
            scheduler.__dict__[name] = None
    return scheduler


@functools.cache  # one class per scheduler class, not one per call
def _build_stand_in_class(kind: type) -> type:
    """Return the class of stand-ins for schedulers of a class."""

    # `timesteps` is a property of the class and a value in the instance's dictionary. The property takes precedence,
    # so the scheduler's own code and the pipeline both read `Timesteps`, and `restore_scheduler` finds the plain
    # tensor.
    def timesteps(self: Any) -> Any:
        values = self.__dict__["timesteps"]
        return Timesteps.of(values, self._parareal_bridge) if isinstance(values, Tensor) else values

    def set_values(self: Any, values: Any) -> None:
        self.__dict__["timesteps"] = values

    # `wraps` keeps the signatures: pipelines inspect them to see whether a scheduler accepts `sigmas`, `eta` or
    # `generator`.
    @functools.wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = kind.set_timesteps(self, *args, **kwargs)
        self._parareal_bridge.reset()
        return result

    def scale_model_input(self: Any, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        return self._parareal_bridge.scale_input(sample)

    @functools.wraps(kind.step)
    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args:
            raise TypeError(
                f"the options of {kind.__name__}.step must be passed by keyword, but the pipeline passed {len(args)} "
                "by position: call handle.disable() and sample sequentially"
            )
        as_object = kwargs.pop("return_dict", True)
        new = self._parareal_bridge.step(model_output, sample, kwargs)
        return SchedulerOutput(prev_sample=new) if as_object else (new,)

    namespace: dict[str, Any] = {
        "timesteps": property(timesteps, set_values),
        "set_timesteps": set_timesteps,
        "step": step,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    if hasattr(kind, "scale_model_input"):
        namespace["scale_model_input"] = functools.wraps(kind.scale_model_input)(scale_model_input)
    # The same name as the scheduler's own class, because diffusers shows it in its messages.
    return type(kind.__name__, (kind,), namespace)
