"""The class that a pipeline has while it is parallelized."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

_CHANGES = (
    "set_ip_adapter_scale",
    "load_ip_adapter",
    "unload_ip_adapter",
    "set_adapters",
    "enable_lora",
    "disable_lora",
    "load_lora_weights",
    "unload_lora_weights",
    "fuse_lora",
    "unfuse_lora",
    "enable_freeu",
    "disable_freeu",
)
"""methods that change what the network computes"""


class Caller(Protocol):
    """The handle, as the pipeline's class sees it."""

    pipe: Any

    @property
    def running(self) -> bool:
        """True while the engine drives the pipeline's loop."""
        ...

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline."""
        ...

    def bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return the progress bar of the pipeline's loop."""
        ...


def parallel_class(kind: type, handle: Caller) -> type:
    """Return the class of a parallelized pipeline: `kind` with another call, another bar and another `interrupt`."""

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not handle.pipe:
            raise RuntimeError("this is a copy of a parallelized pipeline: copy it before, and parallelize the copy")
        return handle.call(*args, **kwargs)

    def progress_bar(self: Any, iterable: Any = None, total: int | None = None) -> Any:
        return handle.bar(iterable, total)

    namespace: dict[str, Any] = {
        "__call__": call,
        "progress_bar": progress_bar,
        "_parareal_handle": handle,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    namespace |= {name: _guarded(getattr(kind, name), handle) for name in _CHANGES if hasattr(kind, name)}
    if isinstance(inspect.getattr_static(kind, "interrupt", None), property):
        # the loop must make one more pass, in which its latents become whole pictures
        namespace["interrupt"] = property(lambda self: self._interrupt and not handle.running)
    return type(kind.__name__, (kind,), namespace)


def _guarded(method: Callable[..., Any], handle: Caller) -> Callable[..., Any]:
    """Return a method that may not be called from a callback."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is handle.pipe and handle.running:
            raise ValueError(
                f"{method.__name__} was called while the pipeline samples. Parallel in time, all steps use the same "
                "network: call it before, or sample without parallelize"
            )
        return method(self, *args, **kwargs)

    return guarded
