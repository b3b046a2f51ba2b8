"""The runner of one solve: its queues, and the way of the results back to their solves.

There is one queue per plain function and kind, and one for all steppers.
"""

from functools import partial
from typing import final

from parareal._execution.evaluations import EvaluationRoutine, Tally, run_routine
from parareal._execution.executors import AbstractExecutor
from parareal._execution.levels import InnerSolves, Send, dispatch
from parareal._execution.queue import Queue
from parareal._iteration.messages import Delivery, Kind, PropagatorFailure, Request
from parareal._iteration.rules import Rules
from parareal._problem.levels import Level, list_leaves
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator, Steps
from parareal._problem.states import StructureError


@final
class Runner:
    """The runner of one solve: the queues for its propagations on all levels.

    `rules` are those of the outermost level, from which inner levels derive theirs. Without them a nested solve is one
    call, like a plain function.
    """

    def __init__(self, problem: Problem, executor: AbstractExecutor, rules: Rules | None):
        self.tally = Tally()
        self._layout, self._executor = problem.layout, executor
        self._innermost = list_leaves(problem.fine)[0]
        self._functions: dict[tuple[Kind, int], Queue] = {}
        self._steppers: Queue | None = None
        self._levels: list[InnerSolves] = []
        self._destinations = self._build_destinations(problem.fine, problem.coarse, rules)
        # Coarse functions first, because all slices to the right wait for them. Then the steppers, fine and coarse,
        # which share batches. Fine functions, the longest calls, come last: everything short has then been started.
        coarse = [queue for (kind, _), queue in self._functions.items() if kind is Kind.COARSE]
        fine = [queue for (kind, _), queue in self._functions.items() if kind is Kind.FINE]
        self._queues = [*coarse, *([] if self._steppers is None else [self._steppers]), *fine]

    def _build_destinations(self, fine: Propagator, coarse: Propagator | None, rules: Rules | None) -> dict[Kind, Send]:
        """Return the functions that accept the fine and the coarse requests of one level."""
        level = {Kind.FINE: fine} | ({} if coarse is None else {Kind.COARSE: coarse})
        return {kind: self._build_destination(kind, own, coarse, rules) for kind, own in level.items()}

    def _build_destination(
        self, kind: Kind, propagator: Propagator, coarse: Propagator | None, rules: Rules | None
    ) -> Send:
        """Return the function that accepts the requests for one propagator; make its queue if there is none yet."""
        if isinstance(propagator, Steps):
            # One queue for all steppers of all levels: rows can share a batched call only within a queue.
            if self._steppers is None:
                self._steppers = self._executor.steppers(self._layout, self.tally)
            return partial(self._steppers.add, propagator)
        if isinstance(propagator, Level) and rules is not None:
            same_stepper = _same_stepper(coarse, propagator.coarse)
            inner = InnerSolves(propagator, rules, self._layout, kind, same_stepper)
            self._levels.append(inner)
            count = len(self._levels)
            inner.destinations = self._build_destinations(propagator.fine, propagator.coarse, inner.rules)
            # the recursion has appended all levels within this one
            inner.inner_levels = self._levels[count:]
            return inner.add
        assert callable(propagator)  # a `Level` without rules is a `Parareal`, which can be called
        # One queue per function, by identity: levels that use the same function then share its calls.
        key = (kind, id(propagator))
        if key not in self._functions:
            self._functions[key] = self._executor.functions(kind, propagator, self._layout, self.tally)
        return partial(self._functions[key].add, propagator)

    def add(self, requests: list[Request]) -> None:
        """Queue requests of the outermost level."""
        dispatch(requests, self._destinations)

    def add_innermost(self, requests: list[Request]) -> None:
        """Queue requests for the innermost fine propagator, past the inner solves of nested levels."""
        if requests:
            # its queue exists: it was built for the innermost level
            self._build_destination(Kind.FINE, self._innermost, None, None)(requests)

    @property
    def idle(self) -> bool:
        """Whether no request waits and none runs."""
        return all(queue.idle for queue in self._queues)

    def drop(self, sample: int) -> None:
        """Drop the inner solves of a sample that is done; its own requests are cancelled by their scope."""
        for level in self._levels:
            level.drop((sample,))

    def discard_trajectories(self, sample: int, slice: int) -> None:
        """Discard the inner trajectories of an outermost slice that is done."""
        for level in self._levels:
            level.discard_trajectories((sample, slice))

    def close(self) -> None:
        """Cancel propagations that were submitted to other threads or processes and have not begun."""
        for queue in self._queues:
            queue.close()

    def tick(self) -> list[Delivery]:
        """Let the queues work in turn until one of them has results; return these, and all that they complete.

        The list is empty if no queue has results. An exception of a propagator is raised as it is.
        """
        try:
            return run_routine(self.ticking())
        except PropagatorFailure as failure:
            error = failure.error
        # outside the `except` clause, which would make the wrapper the context of the caller's own exception
        raise error

    def ticking(self) -> EvaluationRoutine[list[Delivery]]:
        """Do the work of `tick`, but yield the evaluations instead of making them.

        Raises:
            PropagatorFailure: if a propagator or the evaluation of a network raises an error.
            StructureError: if a propagator changes the structure, shape or dtype of its input.
        """
        results: list[Delivery] = []
        for queue in self._queues:
            # Only exceptions from within queues are wrapped here. In `_deliver` the criteria of inner solves run, and
            # what they raise is not the propagator's failure.
            try:
                results = yield from queue.ticking()
            except (StructureError, PropagatorFailure):
                raise  # as it is: a broken contract is broken in every run, and no solution helps to repair it
            except Exception as error:
                raise PropagatorFailure(error) from error
            # Results lead to new requests. A new request for a queue further up must not wait behind the longer calls
            # of the queues further down.
            if results:
                break
        return self._deliver(results)

    def _deliver(self, results: list[Delivery]) -> list[Delivery]:
        """Pass inner results to their solves, which may complete outer propagations; return the results of all levels.

        The history shows inner propagations too, so they are returned as well.
        """
        if not self._levels:
            return results
        pending, deliveries = list(results), []
        while pending:
            delivery = pending.pop(0)
            deliveries.append(delivery)
            # at most one level expects a result; none does if its solve is the outermost, or was dropped meanwhile
            for level in self._levels:
                if level.expects(delivery.request):
                    pending += level.receive(delivery.request, delivery.result)
                    break
        return deliveries


def _same_stepper(outer: Propagator | None, inner: Propagator | None) -> bool:
    """Return whether the coarse propagators of two levels are one stepper, so that its memory suits both."""
    return isinstance(outer, Steps) and isinstance(inner, Steps) and outer.stepper is inner.stepper
