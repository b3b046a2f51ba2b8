"""Taking what a scheduler remembers out of it, and putting it into another copy: the state of a run as tensors.

What changes in a scheduler while it runs is found by running it once on a small sample. Of that, tensors of the
sample's shape are the data; all else (counters, flags, what they hang in) is a skeleton, of which few occur.
"""

import copy
from collections.abc import Iterator, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

SMALL = torch.linspace(-1, 1.5, 16).reshape(2, 2, 2, 2)  # two samples, of different norms
_GIVEN = ("_step_index", "_begin_index", "is_scale_input_called", "noise_sampler")  # known everywhere, not remembered
_ABSENT = "absent"  # an attribute that the scheduler has not got yet


class _Moment(NamedTuple):
    """One step of the small run."""

    before: dict[str, Any]
    """what the scheduler held before"""
    after: Any
    """the scheduler after it"""
    state: Tensor
    """the state after it"""
    random: Tensor
    """the state of the CPU's global generator before it"""
    input_scale: float
    """by what states are divided on their way to the network"""


@final
class Snapshots:
    """The states of one scheduler, with its timesteps set, at the starts of its steps.

    `names` are the attributes that change in a run; `places` those, or entries of lists in them, that hold tensors of
    the sample's shape, in the order in which `take` stacks them. `states` are those of the run on `SMALL`, in which it
    `draws` noise or not, from the CPU's global generator, whose states before each step are `random`. `input_scale` is
    by what states are divided on their way to the network. A scheduler whose noise is a Brownian path is given that of
    the run, `path`. `options` are further arguments of `step`.
    """

    def __init__(self, scheduler: Any, options: Mapping[str, Any] = MappingProxyType({})):
        self.scheduler, self.options = scheduler, options
        self.names: list[str] = []
        self.places: dict[tuple[str, int], int] = {}
        self.input_scale: list[float] = []
        self.states: list[Tensor] = []
        self.random: list[Tensor] = []
        self._skeletons: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        with torch.random.fork_rng(devices=[]):
            self.path = path_of(scheduler, SMALL, None, options)
            before = torch.get_rng_state()
            for moment in _small_run(scheduler, self.path, options):
                self._note(moment)
            self.draws = not torch.equal(torch.get_rng_state(), before)

    def _note(self, moment: _Moment) -> None:
        """Add what has changed in a step to names and places."""
        self.input_scale.append(moment.input_scale)
        self.states.append(moment.state)
        self.random.append(moment.random)
        for name, value in moment.after.__dict__.items():
            then = moment.before.get(name, _ABSENT)
            if then is not value and _key(then) != _key(value) and name not in (*_GIVEN, *self.names):
                self.names.append(name)
        for name in self.names:
            for i, x in _entries(getattr(moment.after, name, _ABSENT)):
                if _is_data(x):
                    self.places.setdefault((name, i), len(self.places))

    def take(self, scheduler: Any, like: Tensor, row: int = 0) -> tuple[Tensor, int]:
        """Return a row of a scheduler's data, (places, *sample), zero where there is none, and its skeleton."""
        data, skeleton = like.new_zeros(len(self.places), *like.shape), {}
        for name in self.names:
            value = getattr(scheduler, name, _ABSENT)
            entries = []
            for i, x in _entries(value):
                if _is_data(x):
                    place = self.places[name, i]  # KeyError: a place that the small run had no data in
                    data[place] = x[row]
                    x = _Place(place)
                entries.append(x)
            skeleton[name] = entries if isinstance(value, list) else entries[0]
        key = _key(skeleton)
        if key not in self._numbers:
            self._numbers[key] = len(self._skeletons)
            self._skeletons.append(skeleton)
        return data, self._numbers[key]

    def held(self, skeleton: int) -> list[tuple[str, int]]:
        """Return the places that hold data in a skeleton, with the attributes that they are in."""
        filled = {} if skeleton < 0 else self._skeletons[skeleton]
        return [(name, x.index) for name, value in filled.items() for _, x in _entries(value) if isinstance(x, _Place)]

    def put(self, data: Tensor, skeleton: int, node: int, copies: int = 1, path: Any = None) -> Any:
        """Return a scheduler in a state, of so many rows alike; skeleton -1 is a fresh one that begins at the node.

        `path` is another one than that of the small run.
        """
        scheduler = copy.copy(self.scheduler)
        if self.path is not None:
            scheduler.noise_sampler = self.path if path is None else path
        for name in self.names:
            if skeleton < 0:
                if hasattr(self.scheduler, name):
                    setattr(scheduler, name, copy.deepcopy(getattr(self.scheduler, name)))
                continue
            value = self._skeletons[skeleton][name]
            filled = [_rows(data[x.index], copies) if isinstance(x, _Place) else x for _, x in _entries(value)]
            if value is not _ABSENT:
                setattr(scheduler, name, filled if isinstance(value, list) else filled[0])
        given = {"_step_index": node, "_begin_index": node, "is_scale_input_called": True}
        scheduler.__dict__.update({name: value for name, value in given.items() if hasattr(scheduler, name)})
        return scheduler


@final
class _Place:
    """Stands for a tensor in a skeleton."""

    def __init__(self, index: int):
        self.index = index

    def __repr__(self) -> str:
        return f"<{self.index}>"


def path_of(scheduler: Any, like: Tensor, generator: Any, options: Mapping[str, Any]) -> Any:
    """Return the Brownian path that a scheduler takes its noise from, made by its own first step; None without one.

    A path is a function of two sigmas, so that slices may share it. What the scheduler draws to seed it is drawn.
    """
    if not hasattr(scheduler, "noise_sampler"):
        return None
    scheduler, t = copy.deepcopy(scheduler), scheduler.timesteps[0]
    given = {"generator": generator} if takes_generator(scheduler) else {}
    scheduler.scale_model_input(like, t)
    scheduler.step(torch.zeros_like(like), t, torch.zeros_like(like), return_dict=False, **given, **options)
    return scheduler.noise_sampler


def takes_generator(scheduler: Any) -> bool:
    """Return whether a scheduler's step can be given a generator to draw from."""
    return "generator" in signature(scheduler.step).parameters


def _small_run(scheduler: Any, path: Any, options: Mapping[str, Any]) -> Iterator[_Moment]:
    """Run a copy of a scheduler on `SMALL`, with half the state as the network's output."""
    scheduler, x = copy.deepcopy(scheduler), SMALL
    if path is not None:
        scheduler.noise_sampler = path
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for t in scheduler.timesteps:
        scale = 1 / float(scheduler.scale_model_input(one, t)) if hasattr(scheduler, "scale_model_input") else 1.0
        before = {n: list(v) if isinstance(v, list) else v for n, v in scheduler.__dict__.items()}
        random = torch.get_rng_state()
        x = scheduler.step(0.5 * x, t, x, return_dict=False, **options)[0]
        yield _Moment(before, scheduler, x, random, scale)


def _rows(x: Tensor, copies: int) -> Tensor:
    return x.expand(copies, *x.shape).clone()


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(value)) if isinstance(value, list) else iter([(0, value)])


def _is_data(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim > 1


def _key(x: Any) -> str:
    """Return what tells two values apart exactly; a tensor's repr would round."""
    if isinstance(x, Tensor):
        return f"{x.dtype}{x.tolist()}"
    if isinstance(x, list):
        return f"[{','.join(map(_key, x))}]"
    if isinstance(x, dict):
        return f"{{{','.join(f'{k}:{_key(v)}' for k, v in x.items())}}}"
    return repr(x)
