"""Wrappers around a pipeline's networks, which let a network see the rows that the loop carries.

Who calls whom in one pass of a parallelized pipeline:

1. The pipeline's loop calls its network as usual. Its latents are rows of several samples and timesteps; embeddings
   and other conditioning were computed before the loop and hold one entry per sample.
2. The network's `NetworkWrapper` looks up the active `LoopBridge`, and reads from it which rows the latents are.
3. `NetworkBatch` gathers the conditioning for those rows, and calls the network itself, or its copies on several
   devices (`Replicas`).
4. The output goes back to the pipeline, which applies guidance and calls `scheduler.step`.

The active bridge is held in a context variable, because two pipelines may share a network and run in two threads: each
thread has its own value, and calls from a thread without one pass through unchanged.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, final

from torch import nn

from parareal_diffusers._pipelines.stand_ins.batch import NetworkBatch, restore_positional
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows


class NetworkBridge(Protocol):
    """The part of `LoopBridge` that a wrapped network uses."""

    @property
    def rows(self) -> LatentRows | None:
        """The rows that the loop's latents are; None before and after the loop."""
        ...

    @property
    def replicas(self) -> Replicas | None:
        """The networks on several devices; None if they run on the pipeline's own."""
        ...

    def batch_limits(self, copies: int) -> tuple[int | None, list[int]]:
        """Return the most rows of one call and the sizes to pad calls to, for `copies` guidance copies of each row."""
        ...


ACTIVE_BRIDGE: ContextVar[NetworkBridge | None] = ContextVar("parareal_bridge", default=None)
"""the bridge of the pipeline call that runs in this thread"""
_INSTALL_LOCK = threading.Lock()
"""guards the installation of wrappers, since networks may be shared among pipelines in several threads"""


@contextmanager
def suspend_bridge() -> Iterator[None]:
    """Run a user's function as if no pipeline call were active.

    The function may call another pipeline that shares a network with this one. That call has rows of its own, and must
    not be given the rows of this one.
    """
    token = ACTIVE_BRIDGE.set(None)
    try:
        yield
    finally:
        ACTIVE_BRIDGE.reset(token)


@final
class NetworkWrapper:
    """A replacement for a module's call; transparent unless a bridge is active in the current context.

    Args:
        module: the network.
        original_call: the callable that the module's `__call__` has used so far.
    """

    def __init__(self, module: nn.Module, original_call: Callable[..., Any]):
        original = getattr(module, "_orig_mod", module)  # of a module returned by `torch.compile`
        self.parameters = list(inspect.signature(type(original).forward).parameters)[1:]  # without self
        self.module, self.name, self.original_call = module, type(original).__name__, original_call
        self.users = 0
        """the number of running pipeline calls that have installed this wrapper"""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module for the rows that the active bridge names."""
        bridge = ACTIVE_BRIDGE.get()
        rows = None if bridge is None else bridge.rows
        # Without rows the loop is not running: the call belongs to a pipeline that is not parallelized, or to this
        # one outside its loop.
        if bridge is None or rows is None:
            return self.original_call(*args, **kwargs)
        positional = self.parameters[: len(args)]
        batch = NetworkBatch(self.name, rows, {**dict(zip(positional, args, strict=True)), **kwargs})
        max_rows, pad_sizes = bridge.batch_limits(batch.copies)
        if bridge.replicas is None:
            call = restore_positional(self.original_call, positional)
            return batch.apply_scale(batch.run(call, max_rows, pad_sizes))
        return batch.apply_scale(batch.run_on(bridge.replicas, self.module, positional, max_rows, pad_sizes))


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is compiled, by `module.compile()` or by `torch.compile(module)`."""
    call = module.__dict__.get("_compiled_call_impl")
    call = call.original_call if isinstance(call, NetworkWrapper) else call
    return hasattr(module, "_orig_mod") or call not in (None, module._call_impl)


@contextmanager
def wrap_networks(modules: list[nn.Module]) -> Iterator[None]:
    """Install wrappers around modules, and remove them at the end.

    `nn.Module.__call__` calls the attribute `_compiled_call_impl` if there is one; `nn.Module.compile` sets it. The
    wrapper takes this place because it lies outside a module's hooks and outside any replacement of its `forward`.
    So offloading hooks and compiled networks see the gathered rows.
    """
    with ExitStack() as stack:  # if one module fails, the wrappers of the modules before it are removed
        for module in modules:
            _install(module)
            stack.callback(_remove, module)
        yield


def _install(module: nn.Module) -> None:
    """Wrap a module, or count one more user if another pipeline call has wrapped it already."""
    with _INSTALL_LOCK:
        wrapper = module.__dict__.get("_compiled_call_impl")
        if not isinstance(wrapper, NetworkWrapper):
            wrapper = NetworkWrapper(module, module._call_impl if wrapper is None else wrapper)
            module.__dict__["_compiled_call_impl"] = wrapper
        wrapper.users += 1


def _remove(module: nn.Module) -> None:
    """Count one user less, and restore the module when the last user has left."""
    with _INSTALL_LOCK:
        wrapper = module.__dict__["_compiled_call_impl"]
        wrapper.users -= 1
        # A module that was not compiled had no such entry: it is deleted, so that the module is as it was.
        if not wrapper.users and wrapper.original_call == module._call_impl:
            del module.__dict__["_compiled_call_impl"]
        elif not wrapper.users:
            module.__dict__["_compiled_call_impl"] = wrapper.original_call
