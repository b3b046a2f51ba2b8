"""The stand-in for a pipeline's scheduler, by which the pipeline's own loop makes the engine's evaluations.

It is a copy of the scheduler, of a class derived from the scheduler's: everything but the loop's three calls (iterating
`timesteps`, `scale_model_input` and `step`) is the scheduler's own code, so that pipelines find the signatures, options
and helpers that they look for.
"""

import copy
import functools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor


class Loop(Protocol):
    """The driver of a pipeline's loop: `Drive`."""

    def times(self, timesteps: Tensor, first: int) -> Iterator[Tensor]:
        """Yield what the loop takes for timesteps; `first` is the number of the first of them."""
        ...

    def scaled(self, latents: Tensor) -> Tensor:
        """Return latents as the network is given them."""
        ...

    def step(self, output: Tensor, latents: Tensor, options: dict[str, Any]) -> Tensor:
        """Take the network's output, guided, and return the loop's next latents."""
        ...

    def begin(self) -> None:
        """Take notice of new timesteps."""
        ...


class Timesteps(Tensor):
    """A scheduler's timesteps: a tensor like any other, but for who iterates it, or a part of it that a slice gives."""

    # everything computed from it is a plain tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]
    loop: Loop
    first: int

    @staticmethod
    def of(values: Tensor, loop: Loop, first: int = 0) -> "Timesteps":
        """Return values as timesteps of a loop, the first of which has a number."""
        made = values.as_subclass(Timesteps)
        made.loop, made.first = loop, first
        return made

    def __iter__(self) -> Iterator[Tensor]:
        """Let the loop decide."""
        return self.loop.times(self.as_subclass(Tensor), self.first)

    def __getitem__(self, key: Any) -> Tensor:
        """Return a part that remembers where it begins, if it is one without gaps."""
        part = self.as_subclass(Tensor)[key]
        if not isinstance(key, slice) or key.step not in (None, 1):
            return part
        return Timesteps.of(part, self.loop, self.first + key.indices(len(self))[0])


class RowTime(Tensor):
    """A timestep of the loop, which is another one for each of R rows.

    Pipelines hand it to the network as it is, scale it, or spread it over their batch by `expand`. Whatever else they
    would compute with it, or decide by it, would be right for one row only, and raises `RuntimeError`.
    """

    rows: Tensor
    """shape (R,)"""

    @staticmethod
    def of(rows: Tensor, lead: bool = False) -> "RowTime":
        """Return the timesteps of rows, shape (R,), as one; `lead`, with a dimension of length 1."""
        made = (rows[:1] if lead else rows[0]).clone().as_subclass(RowTime)
        made.rows = rows
        return made

    def expand(self, *sizes: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the rows' timesteps, once for each of the copies that guidance makes of the rows."""
        size = sizes[0] if len(sizes) == 1 else None
        size = size[0] if isinstance(size, list | tuple) and len(size) == 1 else size
        if not isinstance(size, int) or size % len(self.rows):
            raise RuntimeError(
                f"this pipeline spreads its timestep over {sizes}, which does not go with {len(self.rows)} rows: it "
                "cannot be sampled in parallel in time"
            )
        return self.rows.repeat(size // len(self.rows))

    repeat = expand  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do to all rows what is done to one, if that is known to be meant."""
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if name in ("__get__", "__repr__", "as_subclass", "clone", "dim", "size"):
                return func(*args, **kwargs)
            known = name == "to" or (name in _SCALINGS and not isinstance(args[1], Tensor))
            if known and isinstance(args[0], RowTime):
                return cls.of(func(args[0].rows, *args[1:], **kwargs), args[0].ndim == 1)
            if name == "__getitem__" and args[1] is None and args[0].ndim == 0:
                return cls.of(args[0].rows, lead=True)
        raise RuntimeError(
            f"this pipeline computes {name} of its timestep, which is another one for every row: it cannot be sampled "
            "in parallel in time"
        )


_SCALINGS = ("div", "true_divide", "__truediv__", "mul", "__mul__", "__rmul__")


def stand_in(scheduler: Any, loop: Loop) -> Any:
    """Return a copy of a scheduler that does what a loop decides; the scheduler itself is not touched."""
    made = copy.deepcopy(scheduler)
    made.__class__ = _derived(type(scheduler))
    made.__dict__["_parareal_loop"] = loop
    return made


def plain(made: Any) -> Any:
    """Return a stand-in as a scheduler of its own class, with the timesteps that were set and nothing begun."""
    scheduler = copy.copy(made)
    scheduler.__class__ = type(made).__mro__[1]
    del scheduler.__dict__["_parareal_loop"]
    return _unbegun(scheduler)


def with_steps(scheduler: Any, steps: int, **options: Any) -> Any:
    """Return a copy of a scheduler with timesteps set, and nothing begun."""
    made = copy.deepcopy(scheduler)
    made.set_timesteps(steps, **options)
    return _unbegun(made)


def _unbegun(scheduler: Any) -> Any:
    for name in ("_begin_index", "_step_index"):
        if name in scheduler.__dict__:
            scheduler.__dict__[name] = None
    return scheduler


@functools.cache
def _derived(kind: type) -> type:
    """Return the class of stand-ins for schedulers of a class."""

    def timesteps(self: Any) -> Any:
        values = self.__dict__["timesteps"]
        return Timesteps.of(values, self._parareal_loop) if isinstance(values, Tensor) else values

    def set_values(self: Any, values: Any) -> None:
        self.__dict__["timesteps"] = values

    @functools.wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = kind.set_timesteps(self, *args, **kwargs)
        self._parareal_loop.begin()
        return result

    def scale_model_input(self: Any, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        return self._parareal_loop.scaled(sample)

    @functools.wraps(kind.step)
    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args:
            raise TypeError("a scheduler's options must be given to step by name")
        as_object = kwargs.pop("return_dict", True)
        new = self._parareal_loop.step(model_output, sample, kwargs)
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
    return type(kind.__name__, (kind,), namespace)
