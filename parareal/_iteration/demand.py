"""The requests of one slice: made at once, or after an iteration has been rejected."""

from typing import final

from parareal._iteration.messages import Kind, Request, Scope, Value
from parareal._iteration.rules import Rules


@final
class Demand:
    """The requests of one slice. From iteration `speculate_until` on, requests for F are held back."""

    def __init__(self, rules: Rules, sample: int, index: int, outer: Request | None, scope: Scope):
        self.rules, self.sample, self.index, self.outer, self.scope = rules, sample, index, outer, scope
        self.full_accuracy = rules.full_accuracy  # approximate results of F are not accepted any more
        self.ready_requests: list[Request] = []
        self.fine_iterations: list[int] = []  # iterations in which F was requested
        self.held_back_requests: list[tuple[int, Value, bool]] = []  # arguments of requests for F that are held back

    @property
    def newest_fine_iteration(self) -> int:
        """The newest iteration in which F was requested or is held back; -1 for none."""
        return max([*self.fine_iterations, *(iteration for iteration, _, _ in self.held_back_requests)], default=-1)

    def request_coarse(self, k: int, value: Value) -> None:
        """Request G(k, n)."""
        self.ready_requests.append(self._build_request(Kind.COARSE, k, value, False))

    def request_fine(self, k: int, value: Value, full_accuracy: bool = False) -> None:
        """Request F(k, n), at once or when the final state of iteration k has been rejected."""
        if k < self.rules.speculate_until:
            self._request_now(k, value, full_accuracy)
        else:
            # F(k, n) serves iteration k+1 only. If the criterion accepts iteration k, it is never needed.
            self.held_back_requests.append((k, value, full_accuracy))

    def require_fine(self, source: int, k: int, value: Value, depth: float) -> None:
        """Request F of the input of iteration k now, unless it is under way: the output of iteration k waits for it.

        `source` is the first iteration with the same state as k; at `depth` the output was found not to be finite.
        """
        if self.find_fine_iteration(source, k) >= 0:
            return
        held_back = self.held_back_requests
        own = [full_accuracy for i, _, full_accuracy in held_back if source <= i <= k]
        self.held_back_requests = [u for u in held_back if not source <= u[0] <= k]
        value = value._replace(depth=max(value.depth, depth))  # the wait is a dependency, and counts in the span
        self._request_now(k, value, own[-1] if own else value.final)

    def release(self, k: int, depth: float, done: bool) -> None:
        """Make the held-back requests for F of all iterations up to k.

        The final state of iteration k was rejected at `depth`; nothing is requested if the slice is `done`.
        """
        held_back = self.held_back_requests
        free, self.held_back_requests = [u for u in held_back if u[0] <= k], [u for u in held_back if u[0] > k]
        for iteration, value, full_accuracy in [] if done else free:
            # The wait is a dependency of this propagation, so it counts in the span of everything that follows.
            self._request_now(iteration, value._replace(depth=max(value.depth, depth)), full_accuracy)

    def find_fine_iteration(self, source: int, k: int) -> int:
        """Return the iteration whose request for F serves iteration k; -1 for none.

        `source` is the first iteration with the same state as k. The newest request from there on counts.
        """
        return max((i for i in self.fine_iterations if source <= i <= k), default=-1)

    def discard(self, before: int) -> None:
        """Discard the record of requests for F in iterations before this one."""
        self.fine_iterations = [i for i in self.fine_iterations if i >= before]

    def take(self) -> list[Request]:
        """Return the requests made since the last call."""
        ready, self.ready_requests = self.ready_requests, []
        return ready

    def _request_now(self, k: int, value: Value, full_accuracy: bool) -> None:
        self.fine_iterations.append(k)
        self.ready_requests.append(self._build_request(Kind.FINE, k, value, full_accuracy))

    def _build_request(self, kind: Kind, k: int, value: Value, full_accuracy: bool) -> Request:
        start, stop = self.rules.boundaries[self.index], self.rules.boundaries[self.index + 1]
        full_accuracy = full_accuracy or self.full_accuracy
        return Request(self.sample, self.index, k, kind, value, start, stop, full_accuracy, self.outer, self.scope)
