"""Running nested levels: every propagation of a `Level` is a solve of its own, by a machine over inner slices."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Kind, Request, Result, Value
from parareal._iteration.rules import Rules
from parareal._problem.levels import Level, runs_until_exact, last_iteration, leaves
from parareal._problem.propagators import make_memory_correction
from parareal._state import Layout, missing

Send = Callable[[list[Request]], None]
Path = tuple[int, ...]
"""a sample and the slices of all levels, outermost first"""


@dataclass(slots=True)
class _Solve:
    request: Request
    machine: Machine
    began: float
    full_costs: dict[int, float] = field(default_factory=dict)


@final
class InnerSolves:
    """The solves within the slices of one level, one at a time per slice, each starting where the last one ended.

    `receive` brings the results of inner propagations and returns the propagations of this level that are finished
    with them. `same_stepper` says that the outer coarse propagator's memory suits the inner one.
    """

    def __init__(self, level: Level, outer: Rules, layout: Layout, kind: Kind, same_stepper: bool):
        self.level, self.same_stepper = level, same_stepper
        self.warm = kind is Kind.FINE  # G must be one map in every iteration, so its solves start afresh
        own, self.answers = level.criterion, runs_until_exact(level.fine)
        correction = outer.correction if level.correction is None else level.correction
        self.rules = replace(  # for a slice with enough steps; `_rules` adapts them
            outer,
            criterion=outer.criterion.nested(outer.slices, level.slices) if own is None else own.resolved(layout),
            correction=correction,
            predicts=level.coarse is not None,
            boundaries=list(range(level.slices + 1)),
            correct_memory=make_memory_correction(leaves(level)[0]),
            window=None,
            speculate_until=float("inf"),
            inexact=self.answers > 1,
        )
        self.send: dict[Kind, Send] = {}  # where the inner propagations go
        self.deeper: list[InnerSolves] = []  # levels within this one
        self.solves: dict[int, _Solve] = {}  # by the id of the propagation that is being made
        self.queues: dict[Path, deque[Request]] = {}
        self.paths: dict[Path, set[Path]] = {}  # of queues, by the path of the solve that they are part of
        self.trajectories: dict[Path, dict[Path, tuple[list[Value], float]]] = {}  # by the outermost slice's path

    def add(self, requests: list[Request]) -> None:
        """Begin the solves of these propagations, or queue them behind that of the iteration before."""
        for request in requests:
            path = request.path
            queue = self.queues.setdefault(path, deque())
            queue.append(request)
            if len(queue) == 1:
                self.paths.setdefault(path[:-1], set()).add(path)
                self._begin(request)

    def drop(self, path: Path) -> None:
        """Drop the solves that are part of the one with this path: of a sample, or of a slice further out."""
        depth = len(path)
        # solves are indexed by the solve directly above them; all are searched only where levels lie between
        parents = [path] if path in self.paths else [p for p in self.paths if len(p) > depth and p[:depth] == path]
        for inner in [p for parent in parents for p in self.paths.pop(parent)]:
            solve = self.solves.pop(id(self.queues.pop(inner)[0]))
            solve.machine.scope.close()
            self.trajectories.get(inner[:2], {}).pop(inner, None)

    def forget(self, path: Path) -> None:
        """Discard the trajectories within an outermost slice that is done."""
        self.trajectories.pop(path, None)

    def receive(self, request: Request, result: Result) -> list[Delivery]:
        """Take the result of an inner propagation; return what is finished with it."""
        solve = self.solves[id(request.outer)]
        if request.kind is Kind.FINE:
            solve.full_costs[request.slice] = result.sequential_cost
        solve.machine.receive(request, result)
        hand_out(solve.machine.take(), self.send)
        return [self._end(solve)] if solve.machine.done else []

    def expects(self, request: Request) -> bool:
        """Return whether a propagation is part of a solve that is under way here."""
        return id(request.outer) in self.solves

    def _begin(self, request: Request) -> None:
        value, path = request.value, request.path
        kept = self.trajectories.get(path[:2], {}) if self.warm else {}
        guess, depth = kept.get(path, (None, 0.0))
        depth = max(depth, value.depth)
        if guess is not None:
            guess = [u._replace(depth=depth) for u in guess]
        rules = self._rules(request)
        machine = Machine(rules, request.sample, range(rules.slices), guess, request)
        self.solves[id(request)] = _Solve(request, machine, time.perf_counter())
        # The memory at the slice's start belongs to the innermost fine stepper of whatever is being solved: for an
        # outer F the fine memory, for an outer G the coarse one. Coarse memory only helps if it is of one stepper.
        if request.kind is Kind.COARSE:
            memory, coarse_memory = value.coarse_memory, None
        else:
            memory, coarse_memory = value.memory, value.coarse_memory if self.same_stepper else None
        machine.enter(Value(0, value.state, memory, coarse_memory, exact=True, depth=depth, size=value.size))
        hand_out(machine.take(), self.send)

    def _rules(self, request: Request) -> Rules:
        boundaries = self.level.edges(request.start, request.stop)
        last = last_iteration(self.answers, len(boundaries) - 1)
        count = self.rules.criterion.last_iteration
        count = self.level.inner_iterations if count is None else count
        return replace(self.rules, boundaries=boundaries, limit=last if count is None else min(last, count))

    def _end(self, solve: _Solve) -> Delivery:
        request, machine, outlet = solve.request, solve.machine, solve.machine.outlet
        path = request.path
        del self.solves[id(request)]
        machine.scope.close()
        for level in self.deeper:
            level.drop(path)
        if outlet is None or machine.failure is not None:  # the outer level finds that it is not finite, and stops
            outlet = Value(0, missing(request.value.state), depth=request.value.depth)
        else:
            trajectory = [_as_guess(u) for u in machine.outputs if u is not None]
            self.trajectories.setdefault(path[:2], {})[path] = trajectory, outlet.depth
        self._next(path)
        result = Result(
            outlet.state,
            outlet.memory,
            cost=outlet.depth - request.value.depth,
            exact=outlet.exact,
            accepted=outlet.final,
            estimate=0.0 if outlet.exact else outlet.estimate,
            full_cost=sum(solve.full_costs.values()),
        )
        return Delivery(request, result, solve.began)

    def _next(self, path: Path) -> None:
        """Begin the next solve of a slice, if one is queued."""
        queue = self.queues[path]
        queue.popleft()
        if queue:
            self._begin(queue[0])
            return
        del self.queues[path]
        siblings = self.paths[path[:-1]]
        siblings.discard(path)
        if not siblings:
            del self.paths[path[:-1]]


def hand_out(requests: list[Request], send: dict[Kind, Send]) -> None:
    """Give fine and coarse propagations of one level to their queues."""
    if len(requests) == 1:
        send[requests[0].kind](requests)
        return
    for kind, to in send.items() if requests else ():
        if chosen := [r for r in requests if r.kind is kind]:
            to(chosen)


def _as_guess(value: Value) -> Value:
    # how far the last solve moved is kept: the next one's increments are held against it
    return value._replace(iteration=0, exact=False, settled=False, estimate=float("inf"), increment=float("inf"))
