"""A gate in front of a pipeline's network: it lets the network see the rows that the loop carries.

The loop's latents are rows of several samples and timesteps; what the pipeline computed before its loop, embeddings and
the like, has something for each sample. The gate gathers it for the rows, by the argument's name.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, final

from torch import nn

from parareal_diffusers._pipelines.stand_ins.batch import NetworkBatch, by_name
from parareal_diffusers._pipelines.stand_ins.replicas import Replicas
from parareal_diffusers._pipelines.stand_ins.rows import LatentRows


class Driver(Protocol):
    """The source of the rows, devices and batch sizes: `Drive`."""

    @property
    def rows(self) -> LatentRows | None:
        """The rows; None before the loop, and after it."""
        ...

    @property
    def replicas(self) -> Replicas | None:
        """The networks on several devices; None for one."""
        ...

    def sizes(self, copies: int) -> tuple[int | None, list[int]]:
        """Return the most rows of one call and the sizes to fill calls up to; a call holds each row `copies` times."""
        ...


ACTIVE: ContextVar[Driver | None] = ContextVar("parareal_driver", default=None)
"""the driver of the pipeline that runs in this thread"""
_LOCK = threading.Lock()


@contextmanager
def outside() -> Iterator[None]:
    """Let a user's function run as if no pipeline did: what it calls has its own rows."""
    token = ACTIVE.set(None)
    try:
        yield
    finally:
        ACTIVE.reset(token)


@final
class Gate:
    """Stands before a module's call; for a thread in which no pipeline is driven it is not there.

    Args:
        module: the network.
        inner: what calling the module did before.
    """

    def __init__(self, module: nn.Module, inner: Callable[..., Any]):
        original = getattr(module, "_orig_mod", module)  # of a compiled one
        self.positional = list(inspect.signature(type(original).forward).parameters)[1:]
        self.module, self.name, self.inner, self.users = module, type(original).__name__, inner, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module for the rows that the driver names."""
        driver = ACTIVE.get()
        rows = None if driver is None else driver.rows
        if driver is None or rows is None:
            return self.inner(*args, **kwargs)
        positional = self.positional[: len(args)]
        batch = NetworkBatch(self.name, rows, {**dict(zip(positional, args, strict=True)), **kwargs})
        most, sizes = driver.sizes(batch.copies)
        if driver.replicas is None:
            return batch.weighted(batch.run(by_name(self.inner, positional), most, sizes))
        return batch.weighted(batch.run_on(driver.replicas, self.module, positional, most, sizes))


def is_compiled(module: nn.Module) -> bool:
    """Say whether a module is compiled, in place or not."""
    call = module.__dict__.get("_compiled_call_impl")
    call = call.inner if isinstance(call, Gate) else call
    return hasattr(module, "_orig_mod") or call not in (None, module._call_impl)


@contextmanager
def gated(modules: list[nn.Module]) -> Iterator[None]:
    """Put gates in front of modules, and take them away again.

    The gate takes the place that `nn.Module.compile` uses, outside a module's hooks and whatever replaces its
    `forward`: offloading and compiled networks see the rows. Pipelines that share a network share its gate.
    """
    with ExitStack() as stack:  # an error at one module takes the gates of those before away
        for module in modules:
            _install(module)
            stack.callback(_remove, module)
        yield


def _install(module: nn.Module) -> None:
    with _LOCK:
        gate = module.__dict__.get("_compiled_call_impl")
        if not isinstance(gate, Gate):
            gate = Gate(module, module._call_impl if gate is None else gate)
            module.__dict__["_compiled_call_impl"] = gate
        gate.users += 1


def _remove(module: nn.Module) -> None:
    with _LOCK:
        gate = module.__dict__["_compiled_call_impl"]
        gate.users -= 1
        if not gate.users and gate.inner == module._call_impl:
            del module.__dict__["_compiled_call_impl"]
        elif not gate.users:
            module.__dict__["_compiled_call_impl"] = gate.inner
