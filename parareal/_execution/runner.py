"""Who runs what: a place for every propagator of every level, and results carried back to where they belong."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, final

from parareal._execution.evaluations import Asking, answered
from parareal._execution.functions import Boxes
from parareal._execution.levels import Nest, Send, hand_out
from parareal._execution.steppers import Ticks
from parareal._execution.tally import Tally
from parareal._iteration.messages import Delivery, Kind, Request
from parareal._iteration.slice import Rules
from parareal._problem.levels import Parareal
from parareal._problem.propagators import Propagator, Steps
from parareal._state import Layout


class Part(Protocol):
    """What a runner is made of: a queue for propagations of one form."""

    def cancel(self, owner: int | Request) -> None:
        """Drop what is part of a sample's solve, or of an outer propagation, that is done."""
        ...

    def tick(self) -> list[Delivery]:
        """Work once; return results with the time at which each began."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        ...


class BoxPart(Part, Protocol):
    """A part that runs black boxes."""

    def add(self, requests: list[Request]) -> None:
        """Put requests in the queue."""
        ...

    def close(self) -> None:
        """Take back what was handed to others and has not begun."""
        ...


class StepPart(Part, Protocol):
    """A part that runs steppers."""

    def ticking(self) -> Asking[list[Delivery]]:
        """Ask for calls, as `tick` makes them."""
        ...

    def add(self, steps: Steps, requests: list[Request]) -> None:
        """Put requests in the queue."""
        ...


MakeBoxes = Callable[[Kind, Callable[..., Any], Layout, Tally], BoxPart]
MakeTicks = Callable[[Layout, Tally], StepPart]


@final
class Runner:
    """Runs requests. Black-box coarse propagations go first, for everything waits for them.

    `rules` are those of the outermost level, which inner levels follow; without them a nested solve is one call, as
    any black box. `make_boxes` says where black boxes run, `make_ticks` where steppers do.
    """

    def __init__(
        self,
        propagators: dict[Kind, Propagator],
        layout: Layout,
        rules: Rules | None,
        most: int | None,
        make_boxes: MakeBoxes | None = None,
        make_ticks: MakeTicks | None = None,
    ):
        self.tally = Tally()
        self._layout = layout
        self._make_boxes = partial(_own_boxes, most) if make_boxes is None else make_boxes
        self._ticks = Ticks(layout, most, self.tally) if make_ticks is None else make_ticks(layout, self.tally)
        self._boxes: dict[tuple[Kind, int], BoxPart] = {}
        self._nests: list[Nest] = []
        self._send = self._places(propagators, rules)
        coarse, fine = (
            [part for (k, _), part in self._boxes.items() if k is kind] for kind in (Kind.COARSE, Kind.FINE)
        )
        self._parts: list[Part] = [*coarse, self._ticks, *fine]
        for nest in self._nests:
            nest.cancel_inner = self.cancel

    def _places(self, propagators: dict[Kind, Propagator], rules: Rules | None) -> dict[Kind, Send]:
        """Return where the propagations of one level go."""
        return {kind: self._place(kind, propagator, propagators, rules) for kind, propagator in propagators.items()}

    def _place(self, kind: Kind, own: Propagator, level: dict[Kind, Propagator], rules: Rules | None) -> Send:
        if isinstance(own, Steps):
            return partial(self._ticks.add, own)
        if isinstance(own, Parareal) and rules is not None:
            coarse = level[Kind.COARSE]
            follows = (
                isinstance(coarse, Steps) and isinstance(own.coarse, Steps) and coarse.stepper is own.coarse.stepper
            )
            nest = Nest(own, rules, self._layout, kind, follows)
            nest.send = self._places({Kind.COARSE: own.coarse, Kind.FINE: own.fine}, nest.rules)
            self._nests.append(nest)
            return nest.add
        key = (kind, id(own))
        if key not in self._boxes:
            self._boxes[key] = self._make_boxes(kind, own, self._layout, self.tally)
        return self._boxes[key].add

    def add(self, requests: list[Request]) -> None:
        """Put requests of the outermost level in the queue."""
        hand_out(requests, self._send)

    def cancel(self, owner: int | Request) -> None:
        """Drop what is part of a sample's solve, or of an outer propagation, that is done."""
        for part in [*self._nests, *self._parts]:
            part.cancel(owner)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return all(part.idle for part in self._parts)

    def forget(self, paths: list[tuple[int, int]]) -> None:
        """Let go of what was kept for slices, named by sample and number, that are complete."""
        for nest in self._nests:
            nest.forget(paths)

    def close(self) -> None:
        """Take back what was handed to others."""
        for part in self._boxes.values():
            part.close()

    def tick(self) -> list[Delivery]:
        """Work until at least one call was made or nothing waits; return what is complete, on all levels."""
        return answered(self.ticking())

    def ticking(self) -> Asking[list[Delivery]]:
        """Ask for the calls of steppers, as `tick` makes them; black boxes run here."""
        for part in self._parts:
            results = (yield from self._ticks.ticking()) if part is self._ticks else part.tick()
            if results:
                return self._delivered(results)
        return []

    def _delivered(self, results: list[Delivery]) -> list[Delivery]:
        """Take inner results to their solves, which may complete outer propagations."""
        if not self._nests:
            return results
        pending, delivered = list(results), []
        while pending:
            request, result, began = pending.pop(0)
            delivered.append((request, result, began))
            for nest in self._nests:
                if nest.expects(request):
                    pending += nest.receive(request, result)
                    break
        return delivered


def _own_boxes(most: int | None, kind: Kind, box: Callable[..., Any], layout: Layout, tally: Tally) -> Boxes:
    return Boxes(kind, box, layout, most, tally)
