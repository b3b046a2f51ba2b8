"""Nested levels: every propagation of a `Level` is a solve of its own, by a machine over inner slices."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

from parareal._iteration.machine import Machine
from parareal._iteration.messages import Delivery, Kind, Request, Result, Value
from parareal._iteration.rules import Rules
from parareal._problem.levels import Level, bound_iterations, count_runs_until_exact, list_leaves
from parareal._problem.propagators import make_memory_correction
from parareal._state import Layout, nan_like

Send = Callable[[list[Request]], None]
"""a queue's `add`, or that of the inner solves of a level"""
Path = tuple[int, ...]
"""a sample and the slices of all levels, outermost first"""


@dataclass(slots=True)
class _InnerSolve:
    """One propagation of a level that is under way: its request, and the machine that computes it."""

    request: Request
    machine: Machine
    start_time: float
    full_costs: dict[int, float] = field(default_factory=dict)
    """sequential cost of F on each inner slice"""


@final
class InnerSolves:
    """The solves within the slices of one level, one at a time per slice.

    Each solve of a fine propagator starts where the last one in its slice ended. Those of a coarse one start afresh.
    The machines of these solves send their requests to the same queues as the outermost level, so all levels share
    batches. `receive` accepts the results of inner propagations and returns the propagations of this level that they
    complete. `same_stepper` tells whether the outer coarse propagator's memory suits the inner one.
    """

    def __init__(self, level: Level, outer: Rules, layout: Layout, kind: Kind, same_stepper: bool):
        self.level, self.same_stepper = level, same_stepper
        # F gets better from one outer iteration to the next, so each inner solve starts where the last one ended. G
        # must be the same map in every iteration, or its difference would not cancel: its solves start afresh.
        self.warm_start = kind is Kind.FINE
        criterion, self.runs_to_exact = level.criterion, count_runs_until_exact(level.fine)
        correction = outer.correction if level.correction is None else level.correction
        # these hold for a slice of at least `slices` steps; `_build_rules` adapts them to shorter slices
        self.rules = replace(
            outer,
            criterion=outer.criterion.for_inner_solves(outer.slices, level.slices)
            if criterion is None
            else criterion.resolve(layout),
            correction=correction,
            has_coarse=level.coarse is not None,
            boundaries=list(range(level.slices + 1)),
            correct_memory=make_memory_correction(list_leaves(level)[0]),
            # Windows and waiting are decisions of the outermost level. Within a slice all inner slices may run.
            window=None,
            speculate_until=float("inf"),
            inexact=self.runs_to_exact > 1,
        )
        self.destinations: dict[Kind, Send] = {}  # of the requests of inner machines; set by the runner
        self.inner_levels: list[InnerSolves] = []  # levels within this one; set by the runner
        # By the id of the outer request: requests hold arrays, which have no hash. The solve keeps its request alive,
        # so that no other object can have the same id meanwhile.
        self.solves: dict[int, _InnerSolve] = {}
        self.queues: dict[Path, deque[Request]] = {}  # per slice: the request under way, and those behind it
        self.paths: dict[Path, set[Path]] = {}  # the keys of `queues`, grouped by the path of the enclosing solve
        self.trajectories: dict[Path, dict[Path, tuple[list[Value], float]]] = {}  # by the outermost slice's path

    def add(self, requests: list[Request]) -> None:
        """Start the solves of these propagations, or queue each behind that of the iteration before."""
        for request in requests:
            path = request.path
            queue = self.queues.setdefault(path, deque())
            queue.append(request)
            # One solve at a time per slice: the next one starts from the trajectory of the one before.
            if len(queue) == 1:
                self.paths.setdefault(path[:-1], set()).add(path)
                self._start_solve(request)

    def drop(self, path: Path) -> None:
        """Drop the solves that are part of the one with this path: of a sample, or of a slice further out."""
        depth = len(path)
        # solves are indexed by the solve directly above them; all are searched only where levels lie between
        parents = [path] if path in self.paths else [p for p in self.paths if len(p) > depth and p[:depth] == path]
        for inner in [p for parent in parents for p in self.paths.pop(parent)]:
            solve = self.solves.pop(id(self.queues.pop(inner)[0]))
            # requests of this solve that still wait are cancelled by its scope; each queue discards them later
            solve.machine.scope.close()
            self.trajectories.get(inner[:2], {}).pop(inner, None)

    def discard_trajectories(self, path: Path) -> None:
        """Discard the trajectories within an outermost slice that is done."""
        self.trajectories.pop(path, None)

    def receive(self, request: Request, result: Result) -> list[Delivery]:
        """Accept the result of an inner propagation; return the propagations of this level that it completes."""
        solve = self.solves[id(request.outer)]
        if request.kind is Kind.FINE:
            solve.full_costs[request.slice] = result.sequential_cost
        solve.machine.receive(request, result)
        dispatch(solve.machine.take(), self.destinations)
        return [self._finish_solve(solve)] if solve.machine.done else []

    def expects(self, request: Request) -> bool:
        """Return whether a propagation is part of a solve that is under way on this level."""
        return id(request.outer) in self.solves

    def _start_solve(self, request: Request) -> None:
        """Start the solve that computes a propagation of this level."""
        value, path = request.value, request.path
        trajectories = self.trajectories.get(path[:2], {}) if self.warm_start else {}
        guess, depth = trajectories.get(path, (None, 0.0))
        # the span counts the wait for the solve of the iteration before
        depth = max(depth, value.depth)
        if guess is not None:
            guess = [u._replace(depth=depth) for u in guess]
        rules = self._build_rules(request)
        machine = Machine(rules, request.sample, range(rules.slices), guess, request)
        self.solves[id(request)] = _InnerSolve(request, machine, time.perf_counter())
        # The memory at the slice's start belongs to the innermost fine stepper of the propagator that is solved here:
        # for an outer F the fine memory, for an outer G the coarse one. Coarse memory only helps if one stepper
        # produced it and uses it.
        if request.kind is Kind.COARSE:
            memory, coarse_memory = value.coarse_memory, None
        else:
            memory, coarse_memory = value.memory, value.coarse_memory if self.same_stepper else None
        # For the inner solve its initial state is exact by definition, whatever the outer level knows of it.
        start = Value(0, value.state, memory, coarse_memory, exact=True, depth=depth)
        measure = rules.measure  # not the sizes of `value`: the outer criterion may name another norm
        machine.enter(measure.carry_sizes(measure.fill_sizes(start), value))
        dispatch(machine.take(), self.destinations)

    def _build_rules(self, request: Request) -> Rules:
        """Return the rules of one solve: a slice with few steps has fewer inner slices, and needs fewer iterations."""
        boundaries = self.level.edges(request.start, request.stop)
        last = bound_iterations(self.runs_to_exact, len(boundaries) - 1)
        count = self.rules.criterion.last_iteration
        count = self.level.inner_iterations if count is None else count
        return replace(self.rules, boundaries=boundaries, limit=last if count is None else min(last, count))

    def _finish_solve(self, solve: _InnerSolve) -> Delivery:
        """Return the result of a solve that is done, keep its trajectory, and start the next solve of the slice."""
        request, machine, outlet = solve.request, solve.machine, solve.machine.outlet
        path = request.path
        del self.solves[id(request)]
        # propagations that it speculated on may still wait, here or on deeper levels
        machine.scope.close()
        for level in self.inner_levels:
            level.drop(path)
        if outlet is None or machine.failure is not None:
            # NaN instead of an exception: the outer level substitutes the state, or ends this sample only. Exact,
            # because F itself is not finite, so the outer level must not request a more accurate result.
            outlet = Value(0, nan_like(request.value.state), exact=True, depth=request.value.depth)
        else:
            trajectory = [_to_guess(u) for u in machine.outputs if u is not None]
            self.trajectories.setdefault(path[:2], {})[path] = trajectory, outlet.depth
        self._start_next(path)
        result = Result(
            outlet.state,
            outlet.memory,
            # the outer level adds this to the depth of its own value
            cost=outlet.depth - request.value.depth,
            exact=outlet.exact,
            accepted=outlet.final,
            estimate=0.0 if outlet.exact else outlet.estimate,
            full_cost=sum(solve.full_costs.values()),
        )
        return Delivery(request, result, solve.start_time)

    def _start_next(self, path: Path) -> None:
        """Start the next solve of a slice, if one is queued."""
        queue = self.queues[path]
        queue.popleft()
        if queue:
            self._start_solve(queue[0])
            return
        # remove empty entries: otherwise their number would grow with the slices of all levels
        del self.queues[path]
        siblings = self.paths[path[:-1]]
        siblings.discard(path)
        if not siblings:
            del self.paths[path[:-1]]


def dispatch(requests: list[Request], destinations: dict[Kind, Send]) -> None:
    """Send the fine and coarse requests of one level to their queues."""
    if len(requests) == 1:  # nothing to sort
        destinations[requests[0].kind](requests)
        return
    for kind, send in destinations.items() if requests else ():
        if requests_of_kind := [r for r in requests if r.kind is kind]:
            send(requests_of_kind)


def _to_guess(value: Value) -> Value:
    # `largest` stays: the error estimate of the next solve compares its increments with those of this one
    return value._replace(iteration=0, exact=False, settled=False, estimate=float("inf"), increment=float("inf"))
