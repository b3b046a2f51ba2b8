"""The class that a pipeline object has while it is parallelized.

`pipe(...)` looks `__call__` up in the class of `pipe`, never in the object, so one pipeline object can be changed
only by giving it another class. The class is derived from the pipeline's own and has its name, so that `isinstance`,
`save_pretrained` and the signature of the call work as before.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

_NETWORK_CHANGES = (
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
"""methods of pipelines that change the function that the network computes"""


class ClassHandle(Protocol):
    """The part of `Handle` that the pipeline's class uses."""

    pipe: Any

    @property
    def running(self) -> bool:
        """True while the engine drives the pipeline's loop."""
        ...

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the pipeline."""
        ...

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Return the progress bar of the pipeline's loop."""
        ...


def build_parallel_class(kind: type, handle: ClassHandle) -> type:
    """Return the class of a parallelized pipeline: `kind` with another call, progress bar and `interrupt`."""

    # `wraps` keeps the signature of the call, which tools and users inspect.
    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not handle.pipe:  # `copy.copy` copies the class along
            raise RuntimeError(
                "this is a copy of a parallelized pipeline: copy the pipeline first, and parallelize the copy"
            )
        return handle.call(*args, **kwargs)

    def progress_bar(self: Any, iterable: Any = None, total: int | None = None) -> Any:
        return handle.progress_bar(iterable, total)

    namespace: dict[str, Any] = {
        "__call__": call,
        "progress_bar": progress_bar,
        "_parareal_handle": handle,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    guards = {name: _guard(getattr(kind, name), handle) for name in _NETWORK_CHANGES if hasattr(kind, name)}
    namespace |= guards
    if isinstance(inspect.getattr_static(kind, "interrupt", None), property):
        # An interrupted loop skips the rest of its passes, and its latents would stay rows of many steps. So the
        # interrupt is hidden while the engine runs. `LoopBridge.step` ends the run in the current pass and returns the
        # newest iterate.
        namespace["interrupt"] = property(lambda self: self._interrupt and not handle.running)
    return type(kind.__name__, (kind,), namespace)


def _guard(method: Callable[..., Any], handle: ClassHandle) -> Callable[..., Any]:
    """Return a method that raises `ValueError` while the pipeline samples, for example from a callback."""

    @functools.wraps(method)
    def guard(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is handle.pipe and handle.running:
            raise ValueError(
                f"{method.__name__} was called while the pipeline samples. Parallel in time, all steps use the same "
                "network: call it before, or sample without parallelize"
            )
        return method(self, *args, **kwargs)

    return guard
