"""The propagations that one slice asks for, and when: at once, or after an iteration has been rejected."""

from typing import final

from parareal._iteration.messages import Kind, Request, Scope, Value
from parareal._iteration.rules import Rules


@final
class Demand:
    """The requests of one slice; speculative ones for F are held back."""

    def __init__(self, rules: Rules, sample: int, index: int, outer: Request | None, scope: Scope):
        self.rules, self.sample, self.index, self.outer, self.scope = rules, sample, index, outer, scope
        self.full_accuracy = rules.full_accuracy  # approximate answers of F are not accepted any more
        self.ready: list[Request] = []
        self.asked: list[int] = []  # iterations that have asked for F
        self.held: list[tuple[int, Value, bool]] = []  # for F that waits for the end of an iteration

    @property
    def newest(self) -> int:
        """The newest iteration for which F was asked for or is held back; -1 for none."""
        return max([*self.asked, *(iteration for iteration, _, _ in self.held)], default=-1)

    def coarse(self, k: int, value: Value) -> None:
        """Ask for G(k, n)."""
        self.ready.append(self._request(Kind.COARSE, k, value, False))

    def fine(self, k: int, value: Value, full_accuracy: bool = False) -> None:
        """Ask for F(k, n), now or when the final state of iteration k has been rejected."""
        if k < self.rules.speculate_until:
            self._ask(k, value, full_accuracy)
        else:
            self.held.append((k, value, full_accuracy))

    def release(self, k: int, depth: float, done: bool) -> None:
        """Ask for F held back up to iteration k: its final state, reached at `depth`, was rejected."""
        free, self.held = [u for u in self.held if u[0] <= k], [u for u in self.held if u[0] > k]
        for iteration, value, full_accuracy in [] if done else free:
            self._ask(iteration, value._replace(depth=max(value.depth, depth)), full_accuracy)

    def answering(self, source: int, k: int) -> int:
        """Return the iteration whose request for F answers iteration k: an earlier one may have had the same state."""
        return max((i for i in self.asked if source <= i <= k), default=-1)

    def discard(self, before: int) -> None:
        """Forget what was asked for in iterations before this one."""
        self.asked = [i for i in self.asked if i >= before]

    def take(self) -> list[Request]:
        """Return the requests made since the last call."""
        ready, self.ready = self.ready, []
        return ready

    def _ask(self, k: int, value: Value, full_accuracy: bool) -> None:
        self.asked.append(k)
        self.ready.append(self._request(Kind.FINE, k, value, full_accuracy))

    def _request(self, kind: Kind, k: int, value: Value, full_accuracy: bool) -> Request:
        start, stop = self.rules.boundaries[self.index], self.rules.boundaries[self.index + 1]
        full_accuracy = full_accuracy or self.full_accuracy
        return Request(self.sample, self.index, k, kind, value, start, stop, full_accuracy, self.outer, self.scope)
