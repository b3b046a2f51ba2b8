"""Advisors: what is known of one kind of problem, and the plans that follow. They decide every `slices="auto"`."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import ismethod
from threading import Lock
from typing import Any, final
from weakref import WeakKeyDictionary

from parareal._planning.batch_time import BatchTime
from parareal._planning.candidates import Candidate, Plan
from parareal._planning.plan import plan
from parareal._planning.span_law import ABOVE, TickTime, estimate, slices_around_least_span

SEQUENTIAL_NOTE = "Solved sequentially: parallel-in-time was not predicted to be faster."
"""the sentence that `Solution.message` ends with where an advisor chose the sequential solve"""

FAILED_NOTE = "Solved sequentially: parallel-in-time failed before on an interval of this length, or was slower."
"""the same where a parallel solve was tried"""

PATIENCE = 2
"""parallel solves in a row that must have been slower than the sequential one before no more are tried"""

NO_TOLERANCE = 3
"""iterations to expect where there is no tolerance: often made at torchdiffeq's default tolerances (docs/how-to/odes.md)"""


def expected_iterations(tolerance: float | None) -> int:
    """Return the iterations to expect of a problem of which none were seen, from the tolerance of its final state."""
    if tolerance is None:
        return NO_TOLERANCE
    return next((n for bound, n in ((3e-2, 1), (3e-3, 2), (3e-4, 3)) if tolerance >= bound), 4)


@final
class Advisor:
    """What is known of one kind of problem, and the plans made of it.

    An adapter takes one from `advisor_for`, tells it what it finds out (`batch_time`, `learn_iterations`,
    `learn_time`, `learn_failure`), and follows what it says (`advise`, `declines`). Threads may share it.

    Args:
        iterations: those seen so far, per sample, by the number of slices.
    """

    def __init__(self, iterations: Mapping[int, Iterable[int]] | None = None):
        self._lock = Lock()  # never held while a caller's function runs
        self._iterations = {slices: sorted(made) for slices, made in (iterations or {}).items()}
        self._batch_times: dict[int | None, BatchTime] = {}
        self._plans: dict[Hashable, Plan] = {}
        self._latest: Plan | None = None
        self._slower = 0
        self._failed = float("inf")

    @property
    def iterations(self) -> dict[int, list[int]]:
        """The iterations seen, per sample, by the number of slices."""
        return dict(self._iterations)

    def batch_time(self, call: Callable[[int], None], *, seconds: float = 1.0, most: int | None = None) -> BatchTime:
        """Return the times of calls, measured once.

        Args:
            call: makes a call of a number of rows.
            seconds: to measure for, at most.
            most: the largest number of rows that may be called; a curve measured with a larger one serves, too.

        Raises:
            Exception: what `call` raises.
        """
        known = self._curve(most)
        if known is not None:
            return known
        found = BatchTime.measured(call, seconds=seconds, most=most)
        with self._lock:
            return self._batch_times.setdefault(most, found)

    def measured(self, most: int | None = None) -> bool:
        """Return True if calls of up to `most` rows have been timed."""
        return self._curve(most) is not None

    def _curve(self, most: int | None) -> BatchTime | None:
        with self._lock:
            curves = [(bound or float("inf"), curve) for bound, curve in self._batch_times.items()]
        return next((curve for bound, curve in curves if bound >= (most or float("inf"))), None)

    def learn_iterations(self, slices: int, iterations: Iterable[int]) -> None:
        """Record the iterations that the samples of a solve made at the last boundary, one number per sample."""
        numbers = sorted(iterations)
        with self._lock:
            self._iterations = {**self._iterations, slices: numbers}
            self._plans.clear()

    def learn_time(self, length: float, seconds: float) -> None:
        """Record the time of a parallel solve that followed the latest plan.

        Where `PATIENCE` of them in a row were slower than the sequential time of that plan, intervals of this length
        or more are declined from then on.

        Args:
            length: of the interval solved.
            seconds: of the solve.
        """
        with self._lock:
            if self._latest is None:
                return
            self._slower = self._slower + 1 if seconds > self._latest.predicted_sequential_time else 0
            if self._slower >= PATIENCE:
                self._failed = min(self._failed, length)

    def learn_failure(self, length: float) -> None:
        """Record that a parallel solve failed, or cannot gain: this length and longer ones are declined from now on."""
        with self._lock:
            self._failed = min(self._failed, length)

    def declines(self, length: float) -> bool:
        """Return True if nothing needs to be measured: the latest plan is sequential, or such a length has failed.

        Args:
            length: of the interval to solve.
        """
        return length >= self._failed or (self._latest is not None and not self._latest.worthwhile)

    def note(self, length: float) -> str:
        """Return the sentence for `Solution.message` that says why such a length was solved sequentially."""
        return FAILED_NOTE if 0 < self._failed <= length else SEQUENTIAL_NOTE

    def advise(
        self,
        steps: int,
        *,
        batch_time: BatchTime | None = None,
        tick_time: TickTime | None = None,
        sequential_time: Callable[[], float] | None = None,
        tolerance: float | None = None,
        slices: Sequence[int] | None = None,
        samples: int = 1,
        schedule: str = "pipelined",
        window: int | None = None,
        max_batch: int | None = None,
        kind: Hashable = None,
    ) -> Plan:
        """Return the plan for a problem, made once for equal arguments and equal knowledge.

        With `batch_time`, settings are simulated (`parareal.plan`): exact counts, some tenths of a second. With
        `tick_time`, they are estimated by the span law: rougher, no longer than the times take to measure.

        Args:
            steps: fine steps N.
            batch_time: the times of calls by their rows.
            tick_time: returns the seconds of a tick by its rows and the number of slices; it may measure them.
            sequential_time: returns the seconds of the sequential solve, where it is another program than the
                engine's own steps.
            tolerance: of the final state; tells the iterations to expect where none were seen.
            slices: numbers to try; by default some around the least span.
            samples, schedule, window, max_batch: those of the solve; only simulated.
            kind: tells apart problems whose `tick_time` or `sequential_time` differ.

        Raises:
            ValueError, TypeError: as `parareal.plan`.
            Exception: what functions of time raise.
        """
        tried = None if slices is None else tuple(slices)
        key = (steps, batch_time, tolerance, tried, samples, schedule, window, max_batch, kind)
        with self._lock:
            iterations, known = self._iterations, self._plans.get(key)
            self._latest = known or self._latest
        if known is not None:
            return known
        expected = _nearest(iterations, tolerance)
        if tick_time is not None:
            made = _estimated(steps, max(expected(round(steps**0.5))), tried, tick_time, sequential_time)
        else:
            setting = {"slices": tried, "schedules": [schedule], "windows": [window], "max_batches": [max_batch]}
            made = plan(steps, iterations=expected, batch_time=batch_time, samples=samples, **setting)
            if sequential_time is not None:
                made = Plan.of(made.candidates, replace(made.sequential, wall_time=sequential_time()))
        with self._lock:
            if self._iterations is iterations:  # else it is outdated by what another thread has learned
                self._plans[key] = made
            self._latest, self._slower = made, 0
        return made


def _nearest(iterations: Mapping[int, list[int]], tolerance: float | None) -> Callable[[int], list[int]]:
    """Return the iterations to expect, by the number of slices: those seen at the nearest number, or a guess."""
    if iterations:
        return lambda slices: iterations[min(iterations, key=lambda count: abs(count - slices))]
    guess = expected_iterations(tolerance)
    return lambda slices: [guess]


def _estimated(
    steps: int,
    iterations: int,
    slices: Sequence[int] | None,
    tick_time: TickTime,
    sequential_time: Callable[[], float] | None,
) -> Plan:
    """Return the plan by the span law; nothing is timed where there are no numbers of slices to try."""
    if slices is None:  # a slice of one step would be F and G in one
        slices = slices_around_least_span(steps, iterations, ABOVE, steps // 2)
    seconds = float("nan")
    if slices:
        seconds = steps * tick_time(1, 1) if sequential_time is None else sequential_time()
    alone = Candidate(slices=1, iterations=0, span=steps, work=steps, calls=steps, wall_time=seconds)
    return Plan.of([estimate(steps, count, iterations, tick_time) for count in slices], alone)


_advisors: "WeakKeyDictionary[Any, dict[Hashable, Advisor]]" = WeakKeyDictionary()
_advisors_lock = Lock()


def advisor_for(owner: Any, key: Hashable) -> Advisor:
    """Return the advisor of one kind of problem, kept for the process as long as its owner lives.

    Args:
        owner: the model or function that problems of this kind call. Of a bound method it is the object that it is
            bound to, because Python makes a new method at each access. For an object to which there are no weak
            references, or that has no hash, the advisor is a fresh one; owners that are equal share theirs.
        key: tells apart the kinds of problems of one owner.
    """
    if ismethod(owner):
        owner, key = owner.__self__, (owner.__func__, key)
    with _advisors_lock:
        try:
            advisors = _advisors.setdefault(owner, {})
        except TypeError:
            return Advisor()
        return advisors.setdefault(key, Advisor())
