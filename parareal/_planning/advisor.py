"""Advisors: measurements of one kind of problem, and the plans that follow. They decide `slices="auto"`."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import ismethod
from threading import Lock
from typing import Any, final
from weakref import WeakKeyDictionary

from parareal._planning.batch_time import BatchTime
from parareal._planning.candidates import Candidate, Plan
from parareal._planning.plan import plan
from parareal._planning.span_law import FACTORS_TO_ESTIMATE, TickTime, estimate, slices_around_least_span

SEQUENTIAL_NOTE = "Solved sequentially: parallel-in-time was not predicted to be faster."
"""last sentence of `Solution.message` if an advisor chose the sequential solve"""

FAILED_NOTE = (
    "Solved sequentially: parallel-in-time failed before on an interval of this length or less, or was slower."
)
"""last sentence of `Solution.message` if the sequential solve was chosen because parallel solves did not succeed"""

PATIENCE = 2
"""number of parallel solves in a row that must be slower than the sequential one before an advisor stops trying"""

ITERATIONS_WITHOUT_TOLERANCE = 3
"""expected iterations if there is no tolerance; typical of torchdiffeq's default tolerances (docs/how-to/odes.md)"""


def expected_iterations(tolerance: float | None) -> int:
    """Return the number of iterations to expect of a problem that has not been solved yet.

    Args:
        tolerance: relative tolerance of the final state; None if there is none.
    """
    if tolerance is None:
        return ITERATIONS_WITHOUT_TOLERANCE
    return next((n for bound, n in ((3e-2, 1), (3e-3, 2), (3e-4, 3)) if tolerance >= bound), 4)


@final
class Advisor:
    """The measurements of one kind of problem, and the plans that follow from them.

    An adapter gets an advisor from `advisor_for`, reports measurements (`batch_time`, `learn_iterations`, `learn_time`,
    `learn_failure`), and follows its advice (`advise`, `declines`). An advisor may be shared by threads.

    Args:
        iterations: observed numbers of iterations, one per sample, by the number of slices.
    """

    def __init__(self, iterations: Mapping[int, Iterable[int]] | None = None):
        # Never held while a function of the caller runs, which may take long.
        self._lock = Lock()
        # Never changed in place, only replaced: `advise` compares the object to find out whether it is still current.
        self._iterations = {slices: sorted(numbers) for slices, numbers in (iterations or {}).items()}
        self._batch_times: dict[int | None, BatchTime] = {}  # by the largest number of rows that could be called
        self._plans: dict[Hashable, Plan] = {}
        self._latest: Plan | None = None  # the plan that the last call of `advise` returned
        self._slower = 0  # parallel solves in a row that were slower than predicted for the sequential one
        self._failed = float("inf")  # the shortest interval on which parallel solves did not succeed

    @property
    def iterations(self) -> dict[int, list[int]]:
        """The observed numbers of iterations, one per sample, by the number of slices."""
        return dict(self._iterations)

    def batch_time(
        self, call: Callable[[int], None], *, seconds: float = 1.0, max_rows: int | None = None
    ) -> BatchTime:
        """Return the batch-time curve, which is measured at the first call only.

        Args:
            call: makes one call with a number of rows (`BatchTime.measure`).
            seconds: time to spend on measuring, approximately.
            max_rows: the largest number of rows that may be called, or None. A curve that was measured with a larger
                one is returned as well.

        Raises:
            Exception: the exception of `call`, unchanged.
        """
        curve = self._curve(max_rows)
        if curve is not None:
            return curve
        curve = BatchTime.measure(call, seconds=seconds, max_rows=max_rows)
        with self._lock:
            # if two threads measured at the same time, the first curve is kept
            return self._batch_times.setdefault(max_rows, curve)

    def has_batch_time(self, max_rows: int | None = None) -> bool:
        """Return whether calls of up to `max_rows` rows (None: any number) have been timed."""
        return self._curve(max_rows) is not None

    def _curve(self, max_rows: int | None) -> BatchTime | None:
        """Return a curve measured with at least `max_rows` rows allowed, or None."""
        with self._lock:
            curves = [(bound or float("inf"), curve) for bound, curve in self._batch_times.items()]
        return next((curve for bound, curve in curves if bound >= (max_rows or float("inf"))), None)

    def learn_iterations(self, slices: int, iterations: Iterable[int]) -> None:
        """Record the numbers of iterations of a solve at the last boundary, one per sample; they replace older ones.

        Plans that did not know them are discarded.
        """
        numbers = sorted(iterations)
        with self._lock:
            self._iterations = {**self._iterations, slices: numbers}
            self._plans.clear()

    def learn_time(self, length: float, seconds: float) -> None:
        """Record the time of a parallel solve that followed the latest plan.

        After `PATIENCE` solves in a row that took longer than the plan's sequential time, intervals of this length or
        more are declined.

        Args:
            length: length of the interval that was solved.
            seconds: wall time of the solve.
        """
        with self._lock:
            if self._latest is None:
                return
            self._slower = self._slower + 1 if seconds > self._latest.predicted_sequential_time else 0
            if self._slower >= PATIENCE:
                self._failed = min(self._failed, length)

    def learn_failure(self, length: float) -> None:
        """Record that a parallel solve failed or cannot be faster: decline intervals of this length or more."""
        with self._lock:
            self._failed = min(self._failed, length)  # length 0: nothing is to be gained on any interval

    def declines(self, length: float) -> bool:
        """Return whether the sequential solve is the answer without any measurement.

        It is if the latest plan is sequential, or parallel solves over this length or less did not succeed.

        Args:
            length: length of the interval to solve.
        """
        return length >= self._failed or (self._latest is not None and not self._latest.worthwhile)

    def note(self, length: float) -> str:
        """Return the sentence for `Solution.message` on why an interval of this length was solved sequentially."""
        # a failure of length 0 is how an adapter reports that nothing can be gained, which is no failed solve
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
        """Return the plan for a problem; plans are cached until new iterations are learned.

        With `batch_time`, settings are simulated by `parareal.plan`, with exact counts, which takes some tenths of a
        second. With `tick_time`, their costs are estimated by the span law, which takes no longer than measuring the
        times.

        Args:
            steps: fine steps N.
            batch_time: seconds of a call by its rows.
            tick_time: function of the rows of a tick and the number of slices that returns seconds, or measures them.
            sequential_time: function that returns the seconds of the sequential solve, if that is another program than
                the engine with one slice.
            tolerance: relative tolerance of the final state; gives the expected iterations if none were observed.
            slices: numbers of slices to try; by default some around the least span.
            samples: samples of the solve; this and the next three are used by simulations only.
            schedule: schedule of the solve.
            window: window of the solve, or None.
            max_batch: largest number of rows of a call, or None.
            kind: distinguishes problems whose `tick_time` or `sequential_time` differ, which cannot be compared.

        Raises:
            ValueError, TypeError: as `parareal.plan`.
            Exception: an exception of `tick_time` or `sequential_time`, unchanged.
        """
        choices = None if slices is None else tuple(slices)
        key = (steps, batch_time, tolerance, choices, samples, schedule, window, max_batch, kind)
        with self._lock:
            iterations, cached = self._iterations, self._plans.get(key)
            self._latest = cached or self._latest
        if cached is not None:
            return cached
        # outside the lock, because planning takes long and calls the caller's functions
        expected = _make_expectation(iterations, tolerance)
        if tick_time is not None:
            result = _estimate_plan(steps, max(expected(round(steps**0.5))), choices, tick_time, sequential_time)
        else:
            setting = {"slices": choices, "schedules": [schedule], "windows": [window], "max_batches": [max_batch]}
            result = plan(steps, iterations=expected, batch_time=batch_time, samples=samples, **setting)
            if sequential_time is not None:
                result = Plan.of(result.candidates, replace(result.sequential, wall_time=sequential_time()))
        with self._lock:
            if self._iterations is iterations:  # else another thread has learned iterations that this plan ignores
                self._plans[key] = result
            self._latest, self._slower = result, 0  # solves that were slower belong to the plan before
        return result


def _make_expectation(iterations: Mapping[int, list[int]], tolerance: float | None) -> Callable[[int], list[int]]:
    """Return a function of the number of slices that returns the expected numbers of iterations.

    They are those observed with the nearest number of slices, or `expected_iterations` if none were observed.
    """
    if iterations:
        return lambda slices: iterations[min(iterations, key=lambda count: abs(count - slices))]
    guess = expected_iterations(tolerance)
    return lambda slices: [guess]


def _estimate_plan(
    steps: int,
    iterations: int,
    slices: Sequence[int] | None,
    tick_time: TickTime,
    sequential_time: Callable[[], float] | None,
) -> Plan:
    """Return the plan that follows from the span law; no time is measured if there are no numbers of slices to try."""
    if slices is None:  # two steps per slice at least: with one, G would be as expensive as F
        slices = slices_around_least_span(steps, iterations, FACTORS_TO_ESTIMATE, steps // 2)
    seconds = float("nan")
    if slices:
        seconds = steps * tick_time(1, 1) if sequential_time is None else sequential_time()
    sequential = Candidate(slices=1, iterations=0, span=steps, work=steps, calls=steps, wall_time=seconds)
    return Plan.of([estimate(steps, count, iterations, tick_time) for count in slices], sequential)


# By owner, so that measurements of a model are discarded with the model.
_advisors: "WeakKeyDictionary[Any, dict[Hashable, Advisor]]" = WeakKeyDictionary()
_advisors_lock = Lock()


def advisor_for(owner: Any, key: Hashable) -> Advisor:
    """Return the advisor of one kind of problem. It lives as long as its owner.

    Args:
        owner: the model or function that problems of this kind call. Of a bound method, the object it is bound to is
            the owner. Owners that compare equal share their advisors. An owner that has no hash or does not support
            weak references gets a new advisor in every call.
        key: distinguishes the kinds of problems of one owner.
    """
    # Python creates a bound method at each access, so a weak reference to it would be dead at once.
    if ismethod(owner):
        owner, key = owner.__self__, (owner.__func__, key)
    with _advisors_lock:
        try:
            advisors = _advisors.setdefault(owner, {})
        except TypeError:
            return Advisor()
        return advisors.setdefault(key, Advisor())
