"""Running a nested Parareal: every propagation is a solve of its own, by a machine over the slices within the slice."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Kind, Request, Result, Value
from parareal._iteration.slice import Rules
from parareal._problem.levels import Parareal, last_iteration, leaves, rounds
from parareal._problem.propagators import corrector
from parareal._state import Layout, missing

Send = Callable[[list[Request]], None]


@dataclass(slots=True)
class _Solve:
    request: Request
    machine: Machine
    began: float
    serial: dict[int, float] = field(default_factory=dict)


@final
class Nest:
    """The solves within the slices of one level, one at a time a slice, each starting where the last one ended.

    `receive` brings the results of inner propagations and returns the propagations of this level that are complete
    with them. `follows` says that the outer coarse propagator's memory suits the inner one.
    """

    def __init__(self, parareal: Parareal, outer: Rules, layout: Layout, kind: Kind, follows: bool):
        self.parareal, self.follows = parareal, follows
        self.warm = kind is Kind.FINE  # as G, it must be the same map in every iteration
        own, self.answers = parareal.criterion, rounds(parareal.fine)
        self.rules = replace(  # for a slice that has as many steps as it takes
            outer,
            criterion=outer.criterion.nested(outer.slices, parareal.slices) if own is None else own.resolved(layout),
            boundaries=list(range(parareal.slices + 1)),
            correct=corrector(leaves(parareal)[0]),
            record=_unrecorded,
            window=None,
            eager=float("inf"),
            inexact=self.answers > 1,
        )
        self.send: dict[Kind, Send] = {}  # where the inner propagations go
        self.cancel_inner: Callable[[Request], None] = lambda request: None
        self.solves: dict[int, _Solve] = {}  # by the id of the propagation that is being made
        self.queues: dict[tuple[int, ...], deque[Request]] = {}
        self.trajectories: dict[tuple[int, ...], tuple[list[Value], float]] = {}

    def add(self, requests: list[Request]) -> None:
        """Begin the solves of these propagations, or queue them behind that of the iteration before."""
        for request in requests:
            queue = self.queues.setdefault(request.path, deque())
            queue.append(request)
            if len(queue) == 1:
                self._begin(request)

    def cancel(self, owner: int | Request) -> None:
        """Drop the solves within what is done."""
        for path, begun in [(path, queue[0]) for path, queue in self.queues.items() if queue[0].within(owner)]:
            del self.queues[path], self.solves[id(begun)]
            self.trajectories.pop(path, None)

    def forget(self, paths: list[tuple[int, int]]) -> None:
        """Let go of the trajectories within slices that nothing will be asked of again."""
        for path in [path for path in self.trajectories if path[:2] in paths] if paths else []:
            del self.trajectories[path]

    @property
    def idle(self) -> bool:
        """Whether no solve is under way."""
        return not self.solves

    def receive(self, request: Request, result: Result) -> list[Delivery]:
        """Take the result of an inner propagation; return what is complete with it."""
        solve = self.solves[id(request.outer)]
        if request.kind is Kind.FINE:
            solve.serial[request.slice] = result.sequential_cost
        solve.machine.receive(request, result)
        hand_out(solve.machine.take(), self.send)
        return [self._end(solve)] if solve.machine.done else []

    def expects(self, request: Request) -> bool:
        """Return whether a propagation is part of a solve that is under way here."""
        return id(request.outer) in self.solves

    def _begin(self, request: Request) -> None:
        value, path = request.value, request.path
        guess, depth = self.trajectories.get(path, (None, 0.0)) if self.warm else (None, 0.0)
        depth = max(depth, value.depth)
        if guess is not None:
            guess = [u._replace(depth=depth) for u in guess]
        rules = self._rules(request)
        machine = Machine(rules, request.sample, range(rules.slices), guess, request)
        self.solves[id(request)] = _Solve(request, machine, time.perf_counter())
        coarse = request.kind is Kind.COARSE
        memory, trail = (value.trail, None) if coarse else (value.memory, value.trail if self.follows else None)
        machine.enter(Value(0, value.state, memory, trail, exact=True, depth=depth, size=value.size))
        hand_out(machine.take(), self.send)

    def _rules(self, request: Request) -> Rules:
        boundaries = self.parareal.edges(request.start, request.stop)
        last = last_iteration(self.answers, len(boundaries) - 1)
        count = self.rules.criterion.last_iteration
        count = self.parareal.inner_iterations if count is None else count
        return replace(self.rules, boundaries=boundaries, limit=last if count is None else min(last, count))

    def _end(self, solve: _Solve) -> Delivery:
        request, machine, outlet = solve.request, solve.machine, solve.machine.outlet
        del self.solves[id(request)]
        self.cancel_inner(request)
        if outlet is None or machine.failure is not None:  # the outer level finds that it is not finite, and stops
            outlet = Value(0, missing(request.value.state), depth=request.value.depth)
        else:
            self.trajectories[request.path] = [_as_guess(u) for u in machine.outputs if u is not None], outlet.depth
        queue = self.queues[request.path]
        queue.popleft()
        if queue:
            self._begin(queue[0])
        else:
            del self.queues[request.path]
        cost = outlet.depth - request.value.depth
        estimate = 0.0 if outlet.exact else outlet.estimate
        result = Result(
            outlet.state,
            outlet.memory,
            cost,
            exact=outlet.exact,
            accepted=outlet.final,
            estimate=estimate,
            serial=sum(solve.serial.values()),
        )
        return request, result, solve.began


def hand_out(requests: list[Request], send: dict[Kind, Send]) -> None:
    """Give fine and coarse propagations of one level to those who run them."""
    for kind, to in send.items() if requests else ():
        if chosen := [r for r in requests if r.kind is kind]:
            to(chosen)


def _as_guess(value: Value) -> Value:
    # how far the last solve moved is kept: the next one's increments are held against it
    return value._replace(iteration=0, exact=False, settled=False, estimate=float("inf"), increment=float("inf"))


def _unrecorded(sample: int, boundary: int, iteration: int, increment: float, defect: float) -> None:
    """Keep no history of an inner solve."""
