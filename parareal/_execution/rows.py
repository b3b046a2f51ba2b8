"""Rows: propagations of one stepper, stacked, so that a step is a handful of array operations for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._iteration.messages import Kind, Request
from parareal._problem.propagators import Stepper, StepRoutine
from parareal._state import Nodes, Stack, concatenate, stack, subtract, take
from parareal._state import rows as count_rows

_START, _LENGTH, _COUNT, _AT, _COST, _NODE, _SAMPLE = range(7)


@dataclass(slots=True)
class Rows:
    """Propagations of one stepper that stand at the start of a step."""

    requests: list[Request]
    began: list[float]
    """seconds on the clock"""
    columns: np.ndarray
    """int64 of shape (rows, 7), one matrix because rows are selected at every step: the slice's first node, its length
    in nodes, and what the properties below name"""
    state: Stack
    memory: Stack
    embedded_difference: Stack = None
    """embedded second answer minus the first, summed over steps; None where there is none"""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def steps(self) -> np.ndarray:
        """Steps to make in the slice."""
        return self.columns[:, _COUNT]

    @property
    def steps_made(self) -> np.ndarray:
        """Steps already made."""
        return self.columns[:, _AT]

    @property
    def cost(self) -> np.ndarray:
        """Evaluations already made."""
        return self.columns[:, _COST]

    @property
    def node(self) -> np.ndarray:
        """Node at which each row stands."""
        return self.columns[:, _NODE]

    @property
    def sample(self) -> np.ndarray:
        """Sample of each row."""
        return self.columns[:, _SAMPLE]

    @property
    def starting(self) -> bool:
        """Whether some row has made no step yet."""
        return bool((self.steps_made == 0).any())

    def take(self, index: np.ndarray) -> "Rows":
        """Return some of the rows; a run of neighbours is a view."""
        if len(index) == len(self):
            return self
        chosen = index.tolist()
        requests, began = [self.requests[i] for i in chosen], [self.began[i] for i in chosen]
        arrays = [pick(x, index) for x in (self.state, self.memory, self.embedded_difference)]
        return Rows(requests, began, self.columns[index], *arrays)

    def row(self, i: int) -> "Rows":
        """Return a copy of one row."""
        one = np.array([i])
        arrays = [None if x is None else take(x, one) for x in (self.state, self.memory, self.embedded_difference)]
        return Rows([self.requests[i]], [self.began[i]], self.columns[one], *arrays)

    def next_node(self) -> np.ndarray:
        """Return where each row stands after its next step."""
        start, length, count, at = self.columns[:, :_COST].T
        return start + np.rint(length * (at + 1) / count).astype(np.int64)

    @staticmethod
    def of(begun: list[tuple[Request, int]], stepper: Stepper, now: float) -> "Rows":
        """Stack propagations that are about to begin, each with the number of steps to make."""
        requests = [r for r, _ in begun]
        state = stack([r.value.state for r in requests])
        ends = [(int(r.start), int(r.stop)) for r in requests]
        columns = np.array([(a, b - a, n, 0, 0, a, r.sample) for (a, b), (r, n) in zip(ends, begun, strict=True)])
        return Rows(requests, [now] * len(begun), columns, state, _memory(requests, stepper, state))

    @staticmethod
    def join(parts: Sequence["Rows"]) -> "Rows":
        """Join rows, the oldest first."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            requests=[r for p in parts for r in p.requests],
            began=[b for p in parts for b in p.began],
            columns=np.concatenate([p.columns for p in parts]),
            state=concatenate([p.state for p in parts]),
            memory=concatenate([p.memory for p in parts]),
            embedded_difference=_embedded_differences(parts),
        )


def start_key(request: Request) -> tuple[int, int, int]:
    """Return a name for what a propagation starts from: first evaluations with the same name are one, on any level."""
    return (request.sample, id(request.value.state), int(request.start))


def _embedded_differences(parts: Sequence[Rows]) -> Stack:
    """Join embedded differences; rows that have not made a step yet have none, which is zero."""
    if all(p.embedded_difference is None for p in parts):
        return None
    return concatenate(
        [subtract(p.state, p.state) if p.embedded_difference is None else p.embedded_difference for p in parts]
    )


def _memory(requests: list[Request], stepper: Stepper, state: Stack) -> Stack:
    """Return what the stepper remembers where these propagations begin."""
    memories = [r.value.memory if r.kind is Kind.FINE else r.value.coarse_memory for r in requests]
    if any(m is None for m in memories):
        begin = stepper.begin(state)
        if begin is None:
            return None
        memories = [take(begin, slice(i, i + 1)) if m is None else m for i, m in enumerate(memories)]
    return concatenate(memories)


@dataclass(slots=True)
class Group:
    """Rows within a step, waiting for an evaluation."""

    stepper: Stepper
    rows: Rows
    next_node: np.ndarray
    routine: StepRoutine
    samples: tuple[Nodes, ...]
    """the vector of samples, where the stepper wants it"""
    state: Stack = None
    """what the evaluation is of"""
    where: Any = None
    evaluations: int = 0
    """those made in this step"""
    shares: bool = False
    """some row asks for the first evaluation of its slice, at the state it starts from, which others may ask for too"""


def pick(stacked: Stack, index: np.ndarray | slice) -> Stack:
    """Take rows; all of them are the stack itself, and a run of neighbours is a view."""
    if stacked is None:
        return None
    if isinstance(index, np.ndarray):
        if index[-1] - index[0] != len(index) - 1 or (index[1:] - index[:-1] != 1).any():
            return take(stacked, index)
        index = slice(int(index[0]), int(index[-1]) + 1)
    whole = index.start == 0 and index.stop == count_rows(stacked)
    return stacked if whole else take(stacked, index)
