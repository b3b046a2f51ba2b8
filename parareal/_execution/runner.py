"""The runner of one solve: a queue for every propagator of every level, and results carried back to their solves."""

from functools import partial
from typing import final

from parareal._execution.evaluations import Asking, Tally, answer
from parareal._execution.executors import AbstractExecutor
from parareal._execution.levels import InnerSolves, Send, hand_out
from parareal._execution.queue import Queue
from parareal._iteration.messages import Delivery, Kind, PropagatorFailure, Request
from parareal._iteration.rules import Rules
from parareal._problem.levels import Level
from parareal._problem.problem import Problem
from parareal._problem.propagators import Propagator, Steps
from parareal._problem.states import StructureError


@final
class Runner:
    """Runs the propagations of one solve.

    `rules` are those of the outermost level, which inner levels follow; without them a nested solve is one call, as
    any plain function.
    """

    def __init__(self, problem: Problem, executor: AbstractExecutor, rules: Rules | None):
        self.tally = Tally()
        self._layout, self._executor = problem.layout, executor
        self._functions: dict[tuple[Kind, int], Queue] = {}
        self._steppers: Queue | None = None
        self._levels: list[InnerSolves] = []
        self._send = self._destinations(problem.fine, problem.coarse, rules)
        # Coarse functions first: all slices to the right wait for them. Steppers of both kinds share batches. Fine
        # functions, the longest calls, last, so that whatever is short has been started before.
        coarse = [queue for (kind, _), queue in self._functions.items() if kind is Kind.COARSE]
        fine = [queue for (kind, _), queue in self._functions.items() if kind is Kind.FINE]
        self._queues = [*coarse, *([] if self._steppers is None else [self._steppers]), *fine]

    def _destinations(self, fine: Propagator, coarse: Propagator | None, rules: Rules | None) -> dict[Kind, Send]:
        """Return where the fine and coarse requests of one level go."""
        level = {Kind.FINE: fine} | ({} if coarse is None else {Kind.COARSE: coarse})
        return {kind: self._destination(kind, own, coarse, rules) for kind, own in level.items()}

    def _destination(self, kind: Kind, own: Propagator, coarse: Propagator | None, rules: Rules | None) -> Send:
        if isinstance(own, Steps):
            if self._steppers is None:
                self._steppers = self._executor.steppers(self._layout, self.tally)
            return partial(self._steppers.add, own)
        if isinstance(own, Level) and rules is not None:
            inner = InnerSolves(own, rules, self._layout, kind, _same_stepper(coarse, own.coarse))
            self._levels.append(inner)
            count = len(self._levels)
            inner.send = self._destinations(own.fine, own.coarse, inner.rules)
            inner.deeper = self._levels[count:]
            return inner.add
        assert callable(own)  # a `Level` is, if it is a `Parareal`: then it is one call
        key = (kind, id(own))
        if key not in self._functions:
            self._functions[key] = self._executor.functions(kind, own, self._layout, self.tally)
        return partial(self._functions[key].add, own)

    def add(self, requests: list[Request]) -> None:
        """Queue requests of the outermost level."""
        hand_out(requests, self._send)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return all(queue.idle for queue in self._queues)

    def drop(self, sample: int) -> None:
        """Drop the inner solves of a sample that is done; its requests are dropped by their scope."""
        for level in self._levels:
            level.drop((sample,))

    def forget(self, sample: int, slice: int) -> None:
        """Discard what was kept for an outermost slice that is done."""
        for level in self._levels:
            level.forget((sample, slice))

    def close(self) -> None:
        """Take back what was handed to others and has not begun."""
        for queue in self._queues:
            queue.close()

    def tick(self) -> list[Delivery]:
        """Work until at least one call was made or nothing waits; return what is finished, on all levels.

        What a propagator raises is passed on as it is.
        """
        try:
            return answer(self.ticking())
        except PropagatorFailure as failure:
            error = failure.error
        raise error  # out here, so that it keeps the context in which it was raised

    def ticking(self) -> Asking[list[Delivery]]:
        """Do what `tick` does, but yield the evaluations that are to be made.

        Raises:
            PropagatorFailure: if a propagator or the evaluation of a network raises an error.
            StructureError: if a propagator does not keep structure, shape and dtype of its input.
        """
        results: list[Delivery] = []
        for queue in self._queues:
            # Only what a propagator does is caught here. What goes wrong in `_delivered`, where criteria of inner
            # solves are asked, is not its fault.
            try:
                results = yield from queue.ticking()
            except (StructureError, PropagatorFailure):
                raise
            except Exception as error:
                raise PropagatorFailure(error) from error
            if results:
                break
        return self._delivered(results)

    def _delivered(self, results: list[Delivery]) -> list[Delivery]:
        """Take inner results to their solves, which may complete outer propagations."""
        if not self._levels:
            return results
        pending, delivered = list(results), []
        while pending:
            delivery = pending.pop(0)
            delivered.append(delivery)
            for level in self._levels:
                if level.expects(delivery.request):
                    pending += level.receive(delivery.request, delivery.result)
                    break
        return delivered


def _same_stepper(outer: Propagator | None, inner: Propagator | None) -> bool:
    """Return whether the coarse propagators of two levels are one stepper, so that its memory suits both."""
    return isinstance(outer, Steps) and isinstance(inner, Steps) and outer.stepper is inner.stepper
