"""Copies of a pipeline's networks on several devices. Each device computes its share of the rows of every call.

`Replicas` belongs to one call of a pipeline: it copies the networks and starts one thread per device. `WeightCopies`
belongs to the handle: it keeps the weights on the other devices from call to call, because transferring all of them
every time would cost more than the devices gain, and copies those again that have changed.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from math import ceil
from typing import Any, final

import torch
from torch import Tensor, nn

from parareal_diffusers._pipelines.stand_ins.trees import map_tensors

Fingerprint = tuple[int, int, float, float]
"""address, version, sum and norm of a tensor"""


def check_devices(devices: Any) -> tuple[torch.device, ...]:
    """Return devices with their indices, after allocating a number on each; an empty tuple for None.

    Raises:
        TypeError: if `devices` is not a sequence of devices.
        ValueError: if a device does not exist or cannot hold numbers.
    """
    if devices is None:
        return ()
    if isinstance(devices, str | torch.device) or not isinstance(devices, Sequence) or not devices:
        raise TypeError(f'devices must be a sequence of devices, such as ["cuda:0", "cuda:1"], but was {devices!r}')
    return tuple(_check_device(device) for device in devices)


def _check_device(device: Any) -> torch.device:
    try:
        number = torch.zeros(1, device=torch.device(device))
    except Exception as error:  # each backend raises errors of its own kind
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"devices: {device!r} cannot be used on this machine ({reason}); leave it out") from error
    if number.is_meta:
        raise ValueError("devices: 'meta' holds no numbers; leave it out")
    return number.device  # "cuda" has become "cuda:0", so that equal devices compare equal


def check_replicable(name: str, network: nn.Module, compiled: bool) -> None:
    """Raise `ValueError` for a network that cannot be copied to several devices."""
    if compiled:
        raise ValueError(
            f"devices: the {name} is compiled, and its copies would not be: use it uncompiled, or leave devices out"
        )
    if any(_has_hooks(module) for module in network.modules()):
        raise ValueError(
            f"devices: the {name} has hooks, such as those of offloading and layerwise casting, which would run for "
            "several devices at once: remove them, or leave devices out"
        )
    if getattr(network, "hf_quantizer", None) is not None:
        raise ValueError(f"devices: the {name} is quantised, and copying it is unsupported: leave devices out")
    places = {x.device for x in _weights(network)}
    if len(places) > 1 or any(place.type == "meta" for place in places):
        raise ValueError(
            f"devices: the {name} is spread over {', '.join(sorted(map(str, places)))}: move it to one device"
        )


def _has_hooks(module: nn.Module) -> bool:
    """Return whether torch, accelerate or diffusers would run a hook around a module's forward."""
    registry = getattr(module, "_diffusers_hook", None)  # diffusers leaves empty registries behind
    has_own = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    return bool(has_own or (registry is not None and registry.hooks))


@final
class WeightCopies:
    """Weights on devices other than a network's own, kept from call to call and copied again if they have changed.

    A change is detected by the tensor's address, version, sum and norm. The version misses changes made through
    `.data`; sum and norm detect these, unless both happen to stay the same.
    """

    def __init__(self) -> None:
        # The original is kept next to its copy, so that its id, the key, cannot be reused by another tensor.
        self._copies: dict[tuple[torch.device, int], tuple[Tensor, Fingerprint, Tensor]] = {}

    def on(self, devices: Sequence[torch.device], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return the tensors on each of the devices; on the device that they are on, the tensors themselves."""
        at_home = [all(x.device == device for x in tensors) for device in devices]
        if all(at_home):
            return [list(tensors) for _ in devices]
        # Once for all devices, because fingerprints read all weights.
        pairs = list(zip(tensors, _fingerprints(tensors), strict=True))
        return [
            list(tensors) if home else [self._copy_to(device, x, fingerprint) for x, fingerprint in pairs]
            for device, home in zip(devices, at_home, strict=True)
        ]

    def _copy_to(self, device: torch.device, tensor: Tensor, fingerprint: Fingerprint) -> Tensor:
        """Return the stored copy of a tensor, or a new one if there is none or the tensor has changed."""
        entry = self._copies.get((device, id(tensor)))
        if entry is None or entry[0] is not tensor or entry[1] != fingerprint:
            copied = tensor.detach().to(device, copy=True)
            # The copy takes the place of the original in a module, which accepts only parameters as parameters.
            copied = nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied
            entry = self._copies[device, id(tensor)] = tensor, fingerprint, copied
        return entry[2]

    def keep_only(self, tensors: Sequence[Tensor]) -> None:
        """Discard the copies of all other tensors."""
        wanted = {id(x) for x in tensors}
        self._copies = {key: entry for key, entry in self._copies.items() if key[1] in wanted}


@final
class Replicas:
    """The networks of one pipeline call on several devices, with one thread per device.

    For every call of the pipeline all of a network is copied except for its weights, so that the copies have the
    adapters, adapter scales and other settings that the network has at that moment. The network's own device never
    gets a second copy of the weights, even if it is named twice.
    """

    def __init__(self, devices: Sequence[torch.device], weights: WeightCopies, networks: Sequence[nn.Module]):
        self.devices, self.weights = devices, weights
        self.copies = {id(network): self._copy(network) for network in networks}
        weights.keep_only([x for network in networks for x in _weights(network)])
        # Single-thread pools: the calls of one device run one after another, those of different devices concurrently.
        self.workers = [ThreadPoolExecutor(1, "parareal") for _ in devices]

    def _copy(self, network: nn.Module) -> list[nn.Module]:
        """Return one copy of a network per device, with the weights on that device.

        `deepcopy` takes what its memo holds for an object as the copy of that object. The memo maps each weight to the
        tensor on the device, so that everything but the weights is copied. A `NetworkWrapper` is not copied, because
        modules leave `_compiled_call_impl` out of their state.
        """
        originals = _weights(network)
        memos: list[dict[int, Any]] = [
            dict(zip(map(id, originals), tensors, strict=True)) for tensors in self.weights.on(self.devices, originals)
        ]
        try:
            return [copy.deepcopy(network, memo) for memo in memos]
        except Exception as error:  # a module may hold any object, such as a lock
            raise ValueError(
                f"devices: {type(network).__name__} cannot be copied ({error}): leave devices out"
            ) from error

    def part_size(self, count: int, max_rows: int | None) -> int:
        """Return the number of rows per part, at most `max_rows`.

        Every device gets the same number of parts, and parts are as equal as possible.
        """
        devices = len(self.devices)
        rounds = 1 if max_rows is None else ceil(count / (max_rows * devices))
        return ceil(count / (devices * rounds))

    def call(
        self, network: nn.Module, parts: Sequence[Callable[[Callable[..., Any]], Any]], home: torch.device
    ) -> list[Any]:
        """Call one of the networks in parts, on all devices at once; return the outputs on the home device, in order.

        Args:
            network: the network that the pipeline calls.
            parts: each is given a callable that takes tensors of the home device, and calls it.
            home: the device of the rows.

        Raises:
            Exception: the first error of a part, after all parts have ended.
        """
        enter_context, copies = _capture_context([*self.devices, home]), self.copies[id(network)]
        futures: list[Future[Any]] = []
        for i, part in enumerate(parts):
            place = i % len(self.devices)
            task = (part, copies[place], self.devices[place], home, enter_context)
            futures.append(self.workers[place].submit(_call_in_thread, *task))
        # `exception` waits. No part may still be running on a device when an error goes up to the pipeline.
        errors = [future.exception() for future in futures]
        for error in filter(None, errors):
            raise error
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        for worker in self.workers:
            worker.shutdown()


def _call_in_thread(part: Any, network: nn.Module, device: torch.device, home: torch.device, enter_context: Any) -> Any:
    """Compute one part on a device, in the thread of that device."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = (map_tensors(x, lambda x: x.to(device)) for x in (args, kwargs))
        return map_tensors(network(*args, **kwargs), lambda x: x.to(home))

    with ExitStack() as stack:
        enter_context(stack, device)
        return part(call)


def _capture_context(devices: Sequence[torch.device]) -> Callable[[ExitStack, torch.device], None]:
    """Return a function that gives another thread the modes and streams of this one.

    torch keeps gradient and inference mode, autocast and current streams per thread, so a new thread would record
    gradients and would not be ordered with the work that this thread has queued on a device.
    """
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kinds = {device.type for device in devices}
    casts = [(k, torch.get_autocast_dtype(k), torch.is_autocast_enabled(k)) for k in kinds if k != "meta"]
    streams = {d: torch.accelerator.current_stream(d) for d in set(devices) if d.type != "cpu"}

    def enter(stack: ExitStack, device: torch.device) -> None:
        # Inference mode first: entering it changes gradient mode.
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(gradients))
        for kind, dtype, enabled in casts:
            stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
        # Setting a stream also makes its device the current one, so the thread's own device comes last.
        for place in sorted(streams, key=lambda place: place == device):
            torch.accelerator.set_stream(streams[place])

    return enter


def _weights(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _fingerprints(tensors: Sequence[Tensor]) -> list[Fingerprint]:
    """Return a fingerprint of each tensor."""
    values = [_sum_and_norm(torch.view_as_real(x) if x.is_complex() else x) for x in map(Tensor.detach, tensors)]
    # One transfer for all numbers, instead of a wait for the device per tensor.
    sums = torch.stack(values).cpu().tolist() if values else []
    return [(x.data_ptr(), x._version, *pair) for x, pair in zip(tensors, sums, strict=True)]


def _sum_and_norm(x: Tensor) -> Tensor:
    dtype = sum_dtype(x.device)
    total = x.sum(dtype=dtype)
    norm = torch.linalg.vector_norm(x, dtype=dtype) if x.is_floating_point() else total
    return torch.stack([total, norm])


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the widest dtype in which a device adds: MPS has no double precision."""
    return torch.float32 if device.type == "mps" else torch.float64
