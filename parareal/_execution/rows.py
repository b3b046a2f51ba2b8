"""Rows: stacked propagations of one stepper, so that a step is a handful of array operations for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._iteration.messages import Kind, Request
from parareal._problem.propagators import Stepper, StepRoutine
from parareal._state import Nodes, Stack, concatenate, count_rows, stack, subtract, take

_START, _LENGTH, _COUNT, _DONE, _COST, _NODE, _SAMPLE = range(7)


@dataclass(slots=True)
class Rows:
    """Propagations of one stepper at the start of a step.

    Rows of different slices, samples, levels and iterations may stand at different nodes: a stepper takes a vector of
    start nodes, so they still form one stack.
    """

    requests: list[Request]
    start_times: list[float]
    """seconds of `time.perf_counter`"""
    columns: np.ndarray
    """int64 of shape (rows, 7): the slice's first node, its length in nodes, and what the properties below name. One
    matrix, because rows are selected at every step, and one selection costs less than seven"""
    state: Stack
    memory: Stack
    embedded_difference: Stack = None
    """embedded second result minus the first, summed over steps; None where there is none"""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def steps(self) -> np.ndarray:
        """Number of steps in the slice."""
        return self.columns[:, _COUNT]

    @property
    def steps_made(self) -> np.ndarray:
        """Number of steps already made."""
        return self.columns[:, _DONE]

    @property
    def cost(self) -> np.ndarray:
        """Number of evaluations already made."""
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
    def has_new_rows(self) -> bool:
        """Whether some row has made no step yet."""
        return bool((self.steps_made == 0).any())

    def take(self, index: np.ndarray) -> "Rows":
        """Return some of the rows; consecutive rows are views."""
        if len(index) == len(self):  # the usual case: rows advance together, and no array is touched
            return self
        numbers = index.tolist()
        requests, start_times = [self.requests[i] for i in numbers], [self.start_times[i] for i in numbers]
        arrays = [pick(x, index) for x in (self.state, self.memory, self.embedded_difference)]
        return Rows(requests, start_times, self.columns[index], *arrays)

    def copy_row(self, i: int) -> "Rows":
        """Return a copy of one row."""
        # an index array copies: a view would keep the whole stack alive while this row waits
        one = np.array([i])
        arrays = [None if x is None else take(x, one) for x in (self.state, self.memory, self.embedded_difference)]
        return Rows([self.requests[i]], [self.start_times[i]], self.columns[one], *arrays)

    def compute_next_nodes(self) -> np.ndarray:
        """Return the node of each row after its next step."""
        # Computed from the slice's start, not from the last node: rounding then does not add up, and the last step
        # ends at the boundary.
        start, length, count, done = self.columns[:, :_COST].T
        return start + np.rint(length * (done + 1) / count).astype(np.int64)

    @staticmethod
    def of(new: list[tuple[Request, int]], stepper: Stepper, now: float) -> "Rows":
        """Stack propagations that are about to begin, each with its number of steps."""
        requests = [r for r, _ in new]
        state = stack([r.value.state for r in requests])
        ends = [(int(r.start), int(r.stop)) for r in requests]
        columns = np.array([(a, b - a, n, 0, 0, a, r.sample) for (a, b), (r, n) in zip(ends, new, strict=True)])
        return Rows(requests, [now] * len(new), columns, state, _stack_memories(requests, stepper, state))

    @staticmethod
    def join(parts: Sequence["Rows"]) -> "Rows":
        """Join rows, the oldest first."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            requests=[r for p in parts for r in p.requests],
            start_times=[b for p in parts for b in p.start_times],
            columns=np.concatenate([p.columns for p in parts]),
            state=concatenate([p.state for p in parts]),
            memory=concatenate([p.memory for p in parts]),
            embedded_difference=_join_embedded_differences(parts),
        )


def make_start_key(request: Request) -> tuple[int, int, int]:
    """Return a key of the state that a propagation starts from.

    Propagations with equal keys can share their first evaluation if the `where` that they evaluate at agree.
    The key holds on any level: an inner solve starts from the very state object of the outer propagation.
    """
    # The identity of the state object, not its numbers: F and G of one iterate are requested with one `Value`, so they
    # have one object, and comparing identities costs nothing. Requests keep their states alive, so an id is not reused
    # while it is compared.
    return (request.sample, id(request.value.state), int(request.start))


def _join_embedded_differences(parts: Sequence[Rows]) -> Stack:
    """Join embedded differences; rows that have made no step yet have none, which is zero."""
    if all(p.embedded_difference is None for p in parts):
        return None
    return concatenate(
        [subtract(p.state, p.state) if p.embedded_difference is None else p.embedded_difference for p in parts]
    )


def _stack_memories(requests: list[Request], stepper: Stepper, state: Stack) -> Stack:
    """Return the stepper's memory where these propagations begin."""
    memories = [r.value.memory if r.kind is Kind.FINE else r.value.coarse_memory for r in requests]
    # A value has no memory at the start of the problem. A value that G predicted has no memory for F.
    if any(m is None for m in memories):
        begin = stepper.begin(state)
        if begin is None:  # a one-step method
            return None
        memories = [take(begin, slice(i, i + 1)) if m is None else m for i, m in enumerate(memories)]
    return concatenate(memories)


@dataclass(slots=True)
class Group:
    """Rows of one stepper within a step, waiting for an evaluation."""

    stepper: Stepper
    rows: Rows
    next_node: np.ndarray
    routine: StepRoutine
    samples: tuple[Nodes, ...]
    """the vector of sample indices if the stepper is `per_sample`, else nothing"""
    state: Stack = None
    """the states that the stepper wants evaluated"""
    where: Any = None
    """the second argument of the evaluation, as the stepper yielded it"""
    evaluations: int = 0
    """number of evaluations made in this step"""
    may_share: bool = False
    """some row waits for the first evaluation of its slice, at the slice's initial state; other rows may need it too"""


def pick(stacked: Stack, index: np.ndarray | slice) -> Stack:
    """Return rows of a stack: the stack itself for all rows, a view for consecutive rows, else a copy."""
    if stacked is None:
        return None
    if isinstance(index, np.ndarray):
        # the cheap comparison of the ends rules out most indices that are not consecutive
        if index[-1] - index[0] != len(index) - 1 or (index[1:] - index[:-1] != 1).any():
            return take(stacked, index)
        index = slice(int(index[0]), int(index[-1]) + 1)
    whole = index.start == 0 and index.stop == count_rows(stacked)
    return stacked if whole else take(stacked, index)
