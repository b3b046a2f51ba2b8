"""Snapshots of schedulers: the state of a running scheduler as tensors, and copies restored from it.

A scheduler of diffusers keeps the state of its run in attributes. One probe run on a small state shows which attributes
change. Tensors of the sample's shape among them are data: they are stacked, one row per state in flight. Everything
else (counters, flags, the lists that tensors stand in) forms a skeleton. Few skeletons occur in a run, so each is
stored once and states refer to it by its number.
"""

import copy
from collections.abc import Iterator, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

PROBE_STATE = torch.linspace(-1, 1.5, 16).reshape(2, 2, 2, 2)
"""the initial state of the probe run: two samples of different norms, so that a coupling between samples is noticed"""
_SET_BY_RESTORE = ("_step_index", "_begin_index", "is_scale_input_called", "noise_sampler")
"""attributes that change in a run, but follow from the node or are shared by all rows"""
_ABSENT = "absent"
"""the value that stands for an attribute which the scheduler does not have yet"""


class _ProbeStep(NamedTuple):
    """One step of the probe run."""

    attributes_before: dict[str, Any]
    """attributes of the scheduler before the step"""
    scheduler: Any
    """the scheduler after the step"""
    state: Tensor
    """the state after the step"""
    generator_state: Tensor
    """state of the CPU's global generator before the step"""
    input_scale: float
    """divisor of states on their way to the network"""


@final
class Snapshots:
    """The possible states of one scheduler at the starts of its steps.

    Args:
        scheduler: a diffusers scheduler with its timesteps set; it is not changed.
        options: further keyword arguments of its `step`.

    Attributes:
        attributes: names of the attributes that change in a run.
        slots: position in the stacked data of each tensor of the sample's shape, by attribute and by index in its list
            (0 for an attribute that is no list).
        states: states of the probe run after each step.
        generator_states: states of the CPU's global generator before each step of the probe run.
        input_scale: divisor of states on their way to the network, for each step.
        draws_noise: whether the probe run drew random numbers.
        brownian_path: Brownian path of the probe run; None for a scheduler whose noise is no path.
    """

    def __init__(self, scheduler: Any, options: Mapping[str, Any] = MappingProxyType({})):
        self.scheduler, self.options = scheduler, options
        self.attributes: list[str] = []
        self.slots: dict[tuple[str, int], int] = {}
        self.input_scale: list[float] = []
        self.states: list[Tensor] = []
        self.generator_states: list[Tensor] = []
        self._skeletons: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        # The probe run gets no generator, so it draws from the CPU's global one, whose state must survive it.
        with torch.random.fork_rng(devices=[]):
            self.brownian_path = brownian_path_of(scheduler, PROBE_STATE, None, options)
            # Taken after the path was seeded: `draws_noise` is about draws of the steps themselves.
            state_before = torch.get_rng_state()
            for step in _run_probe(scheduler, self.brownian_path, options):
                self._register(step)
            self.draws_noise = not torch.equal(torch.get_rng_state(), state_before)

    def _register(self, step: _ProbeStep) -> None:
        """Add a step of the probe run, and what it changed in the scheduler, to attributes and slots."""
        self.input_scale.append(step.input_scale)
        self.states.append(step.state)
        self.generator_states.append(step.generator_state)
        for name, value in step.scheduler.__dict__.items():
            before = step.attributes_before.get(name, _ABSENT)
            # The identity test comes first because comparing large tables by value is slow.
            changed = before is not value and _key(before) != _key(value)
            if changed and name not in (*_SET_BY_RESTORE, *self.attributes):
                self.attributes.append(name)
        # All attributes are searched after every step: lists fill up during the first steps of a multistep method.
        for name in self.attributes:
            for i, x in _entries(getattr(step.scheduler, name, _ABSENT)):
                if _is_data(x):
                    self.slots.setdefault((name, i), len(self.slots))

    def capture(self, scheduler: Any, like: Tensor, row: int = 0) -> tuple[Tensor, int]:
        """Return one row of a scheduler's state.

        Args:
            scheduler: a copy that `restore` returned, after its step.
            like: a sample, for shape, dtype and device of the data.
            row: the row to capture of the tensors in the scheduler.

        Returns:
            Its data of shape (slots, *sample), zero in empty slots, and the number of its skeleton.

        Raises:
            KeyError: for a tensor in an attribute or list entry that held none in the probe run.
        """
        data, skeleton = like.new_zeros(len(self.slots), *like.shape), {}
        for name in self.attributes:
            value = getattr(scheduler, name, _ABSENT)
            entries = []
            for i, x in _entries(value):
                if _is_data(x):
                    position = self.slots[name, i]
                    data[position] = x[row]
                    x = _Slot(position)
                entries.append(x)
            skeleton[name] = entries if isinstance(value, list) else entries[0]
        key = _key(skeleton)
        if key not in self._numbers:
            self._numbers[key] = len(self._skeletons)
            self._skeletons.append(skeleton)
        return data, self._numbers[key]

    def slots_in(self, skeleton: int) -> list[tuple[str, int]]:
        """Return attribute and position of each slot that a skeleton uses; none for skeleton -1."""
        values = {} if skeleton < 0 else self._skeletons[skeleton]
        return [
            (name, x.position) for name, value in values.items() for _, x in _entries(value) if isinstance(x, _Slot)
        ]

    def restore(self, data: Tensor, skeleton: int, node: int, copies: int = 1, path: Any = None) -> Any:
        """Return a copy of the scheduler in a captured state.

        Args:
            data: shape (slots, *sample).
            skeleton: number of the skeleton; -1 for a scheduler that has made no step and begins at `node`.
            node: the step that the copy makes next.
            copies: the number of equal rows in its tensors.
            path: the Brownian path to use instead of that of the probe run.
        """
        # The copy is shallow, so all copies share the tables of sigmas and alphas, which no step changes. Attributes
        # that steps do change are replaced one by one.
        scheduler = copy.copy(self.scheduler)
        if self.brownian_path is not None:
            scheduler.noise_sampler = self.brownian_path if path is None else path
        for name in self.attributes:
            if skeleton < 0:
                if hasattr(self.scheduler, name):
                    setattr(scheduler, name, copy.deepcopy(getattr(self.scheduler, name)))
                continue
            value = self._skeletons[skeleton][name]
            entries = [_repeat(data[x.position], copies) if isinstance(x, _Slot) else x for _, x in _entries(value)]
            if value is not _ABSENT:
                setattr(scheduler, name, entries if isinstance(value, list) else entries[0])
        # Only attributes that the scheduler has are set, because its code may test whether an attribute exists.
        indices = {"_step_index": node, "_begin_index": node, "is_scale_input_called": True}
        scheduler.__dict__.update({name: value for name, value in indices.items() if hasattr(scheduler, name)})
        return scheduler


@final
class _Slot:
    """The placeholder of a tensor in a skeleton."""

    def __init__(self, position: int):
        self.position = position

    def __repr__(self) -> str:
        return f"<{self.position}>"  # part of the skeleton's key


def brownian_path_of(scheduler: Any, like: Tensor, generator: Any, options: Mapping[str, Any]) -> Any:
    """Return the Brownian path from which a scheduler takes its noise; None for a scheduler without one.

    A path is a function of two sigmas, so all slices can share it. The first step of a copy of the scheduler creates
    it, and draws from the generator the random numbers that seed it.

    Args:
        scheduler: a diffusers scheduler with its timesteps set; it is not changed.
        like: latents, for shape, dtype and device.
        generator: argument of `step`, for schedulers that take one.
        options: further keyword arguments of `step`.
    """
    if not hasattr(scheduler, "noise_sampler"):
        return None
    scheduler, t = copy.deepcopy(scheduler), scheduler.timesteps[0]
    generator_option = {"generator": generator} if takes_generator(scheduler) else {}
    scheduler.scale_model_input(like, t)
    scheduler.step(torch.zeros_like(like), t, torch.zeros_like(like), return_dict=False, **generator_option, **options)
    return scheduler.noise_sampler


def takes_generator(scheduler: Any) -> bool:
    """Return whether a scheduler's `step` has an argument `generator`."""
    return "generator" in signature(scheduler.step).parameters


def _run_probe(scheduler: Any, path: Any, options: Mapping[str, Any]) -> Iterator[_ProbeStep]:
    """Run a copy of a scheduler from `PROBE_STATE`; half of the state stands for the network's output."""
    scheduler, x = copy.deepcopy(scheduler), PROBE_STATE
    if path is not None:
        scheduler.noise_sampler = path
    # Without it, schedulers look the first step up by its timestep, which may occur more than once.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for t in scheduler.timesteps:
        scale = 1 / float(scheduler.scale_model_input(one, t)) if hasattr(scheduler, "scale_model_input") else 1.0
        # Steps change lists in place, so lists are copied to see a change afterwards.
        attributes = {n: list(v) if isinstance(v, list) else v for n, v in scheduler.__dict__.items()}
        generator_state = torch.get_rng_state()
        x = scheduler.step(0.5 * x, t, x, return_dict=False, **options)[0]
        yield _ProbeStep(attributes, scheduler, x, generator_state, scale)


def _repeat(x: Tensor, copies: int) -> Tensor:
    """Return equal rows of a sample in memory of their own: a step may write to them."""
    return x.expand(copies, *x.shape).clone()


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    """Return the entries of a list with their indices; any other value is its own only entry."""
    return iter(enumerate(value)) if isinstance(value, list) else iter([(0, value)])


def _is_data(x: Any) -> bool:
    """Return whether a value is a tensor with a row per sample; tables of sigmas and counters have one axis at most."""
    return isinstance(x, Tensor) and x.ndim > 1


def _key(x: Any) -> str:
    """Return a text that is equal for equal values only; the repr of a tensor would round its numbers."""
    if isinstance(x, Tensor):
        return f"{x.dtype}{x.tolist()}"
    if isinstance(x, list):
        return f"[{','.join(map(_key, x))}]"
    if isinstance(x, dict):
        return f"{{{','.join(f'{k}:{_key(v)}' for k, v in x.items())}}}"
    return repr(x)
