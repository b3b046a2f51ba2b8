"""A network on several devices: each has a copy, which is given its share of the rows of every call.

`WeightCopies` spares the transfer of all weights at every call of a pipeline: it keeps copies and renews changed ones.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from math import ceil
from typing import Any, final

import torch
from torch import Tensor, nn

from parareal_diffusers._pipelines.stand_ins.trees import mapped

Mark = tuple[int, int, float, float]


def checked_devices(devices: Any) -> tuple[torch.device, ...]:
    """Return devices, each asked for a byte of memory; none for None.

    Raises:
        TypeError, ValueError: for what is no sequence of devices, or a device that there is not.
    """
    if devices is None:
        return ()
    if isinstance(devices, str | torch.device) or not isinstance(devices, Sequence) or not devices:
        raise TypeError(f'devices must be a sequence of devices, as in ["cuda:0", "cuda:1"], got {devices!r}')
    return tuple(_checked(device) for device in devices)


def _checked(device: Any) -> torch.device:
    try:
        found = torch.device(device)
        held = torch.zeros(1, device=found)
    except Exception as error:  # whatever the backend raises
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"devices: {device!r} is no device that can be used here ({first}); leave it out") from error
    if held.is_meta:
        raise ValueError("devices: 'meta' holds no numbers; leave it out")
    return held.device  # with its index


def check_replicable(name: str, network: nn.Module, compiled: bool) -> None:
    """Raise `ValueError` for a network of which there cannot be one for each device."""
    if compiled:
        raise ValueError(f"devices: the {name} is compiled, and copies of it would not be: leave one of the two out")
    if any(_hooked(module) for module in network.modules()):
        raise ValueError(
            f"devices: the {name} has hooks, as offloading and layerwise casting put there, which would run for "
            "several devices at once: take them off, or leave devices out"
        )
    if getattr(network, "hf_quantizer", None) is not None:
        raise ValueError(f"devices: the {name} is quantised, and is not copied: leave devices out")
    places = {x.device for x in _tensors(network)}
    if len(places) > 1 or any(place.type == "meta" for place in places):
        raise ValueError(f"devices: the {name} is spread over {', '.join(sorted(map(str, places)))}: move it to one")


def _hooked(module: nn.Module) -> bool:
    """Say whether torch, accelerate or diffusers would call something around a module's forward."""
    registry = getattr(module, "_diffusers_hook", None)  # diffusers leaves empty ones behind
    own = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    return bool(own or (registry is not None and registry.hooks))


@final
class WeightCopies:
    """Weights on other devices than a network's own, kept from call to call and copied again where they changed.

    A change is seen by where a tensor lies, its version, its sum and its norm; all but what goes through `.data` and
    leaves sum and norm as they were.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.device, int], tuple[Tensor, Mark, Tensor]] = {}

    def on(self, devices: Sequence[torch.device], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return tensors on each of some devices: themselves, where that is their own."""
        own = [all(x.device == device for x in tensors) for device in devices]
        if all(own):
            return [list(tensors) for _ in devices]
        marked = list(zip(tensors, _marks(tensors), strict=True))  # once for all devices: it reads all weights
        return [
            list(tensors) if home else [self._one(device, x, mark) for x, mark in marked]
            for device, home in zip(devices, own, strict=True)
        ]

    def _one(self, device: torch.device, tensor: Tensor, mark: Mark) -> Tensor:
        kept = self._kept.get((device, id(tensor)))
        if kept is None or kept[0] is not tensor or kept[1] != mark:
            made = tensor.detach().to(device, copy=True)
            made = nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
            kept = self._kept[device, id(tensor)] = tensor, mark, made
        return kept[2]

    def keep_only(self, tensors: Sequence[Tensor]) -> None:
        """Let go of copies of all other tensors."""
        wanted = {id(x) for x in tensors}
        self._kept = {key: kept for key, kept in self._kept.items() if key[1] in wanted}


@final
class Replicas:
    """The networks of one call of a pipeline, on each of some devices; a thread for each works through its parts.

    All but the weights is copied anew for every call, so that adapters, their scales and other settings are those that
    the networks have. A network's own device has no second copy of the weights, also if it is named twice.
    """

    def __init__(self, devices: Sequence[torch.device], weights: WeightCopies, networks: Sequence[nn.Module]):
        self.devices, self.weights = devices, weights
        self.made = {id(network): self._copies(network) for network in networks}
        weights.keep_only([x for network in networks for x in _tensors(network)])
        self.workers = [ThreadPoolExecutor(1, "parareal") for _ in devices]

    def _copies(self, network: nn.Module) -> list[nn.Module]:
        """Return a copy of a network per device, with the weights that are there."""
        own = _tensors(network)
        memos: list[dict[int, Any]] = [
            dict(zip(map(id, own), tensors, strict=True)) for tensors in self.weights.on(self.devices, own)
        ]
        try:
            return [copy.deepcopy(network, memo) for memo in memos]
        except Exception as error:  # whatever a module holds
            raise ValueError(
                f"devices: {type(network).__name__} cannot be copied ({error}): leave devices out"
            ) from error

    def share(self, count: int, most: int | None) -> int:
        """Return how many rows a part has, `most` at most: all devices have as many parts, as equal as can be."""
        devices = len(self.devices)
        rounds = 1 if most is None else ceil(count / (most * devices))
        return ceil(count / (devices * rounds))

    def calls(
        self, network: nn.Module, parts: Sequence[Callable[[Callable[..., Any]], Any]], home: torch.device
    ) -> list:
        """Make the parts of a call, each by the copy on its device, at the same time; return outputs at home.

        Args:
            network: which of the networks is called.
            parts: each is given a callable that takes tensors of the home device, and calls it.
            home: where the rows are.
        """
        around, copies = _surroundings([*self.devices, home]), self.made[id(network)]
        futures: list[Future[Any]] = []
        for i, part in enumerate(parts):
            place = i % len(self.devices)
            task = (part, copies[place], self.devices[place], home, around)
            futures.append(self.workers[place].submit(_made, *task))
        errors = [future.exception() for future in futures]  # waits for all
        for error in filter(None, errors):
            raise error
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        for worker in self.workers:
            worker.shutdown()


def _made(part: Any, network: nn.Module, device: torch.device, home: torch.device, around: Any) -> Any:
    """Make a part of a call in a thread of its own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = (mapped(x, lambda x: x.to(device)) for x in (args, kwargs))
        return mapped(network(*args, **kwargs), lambda x: x.to(home))

    with ExitStack() as stack:
        around(stack, device)
        return part(call)


def _surroundings(devices: Sequence[torch.device]) -> Callable[[ExitStack, torch.device], None]:
    """Return what gives a thread the modes and streams that this one has: torch keeps them by thread."""
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kinds = {device.type for device in devices}
    casts = [(k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k)) for k in kinds if k != "meta"]
    streams = {d: torch.accelerator.current_stream(d) for d in set(devices) if d.type != "cpu"}

    def enter(stack: ExitStack, device: torch.device) -> None:
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(gradients))
        for kind, dtype, enabled in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
        for place in sorted(streams, key=lambda place: place == device):  # the last is the thread's device
            torch.accelerator.set_stream(streams[place])

    return enter


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _marks(tensors: Sequence[Tensor]) -> list[Mark]:
    """Return by what a change of tensors is seen."""
    values = [_summed(torch.view_as_real(x) if x.is_complex() else x) for x in map(Tensor.detach, tensors)]
    sums = torch.stack(values).cpu().tolist() if values else []
    return [(x.data_ptr(), x._version, *pair) for x, pair in zip(tensors, sums, strict=True)]


def _summed(x: Tensor) -> Tensor:
    dtype = sum_dtype(x.device)
    total = x.sum(dtype=dtype)
    norm = torch.linalg.vector_norm(x, dtype=dtype) if x.is_floating_point() else total
    return torch.stack([total, norm])


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the widest dtype that a device adds in: MPS has no double precision."""
    return torch.float32 if device.type == "mps" else torch.float64
