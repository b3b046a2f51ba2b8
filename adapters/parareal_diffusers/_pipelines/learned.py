"""Times and iterations of a pipeline's calls, and the plans that an advisor makes of them."""

import statistics
from typing import final

import parareal
from parareal.driver import Advisor
from parareal_diffusers._pipelines.loop import Drive
from parareal_diffusers._pipelines.settings import Settings


@final
class Learned:
    """The passes of all calls so far, iterations by number of steps, and the plans that were made of them."""

    def __init__(self) -> None:
        self.took: dict[int, list[float]] = {}
        """seconds of passes, by rows"""
        self.made: dict[int, dict[int, list[int]]] = {}
        """by steps: iterations at the last boundary, by the slices of the newest call"""
        self.plans: dict[int, parareal.Plan] = {}
        """by steps; later calls follow them"""
        self.steps = 0
        """of the last call that came to its end"""

    def add(self, drive: Drive) -> None:
        """Record times and iterations; the iterations of a call in one slice count only if no others are known."""
        for rows, seconds in drive.took.items():
            self.took.setdefault(rows, []).extend(seconds)
        solution = drive.solution
        if solution is None or solution.slice_iterations[-1].min() < 0:  # its last boundary was never reached
            return
        self.steps, slices = drive.steps, len(solution.slice_iterations)
        if slices > 1 or drive.steps not in self.made:
            self.made[drive.steps] = {slices: [int(n) for n in solution.slice_iterations[-1]]}

    def plan(self, given: Settings) -> parareal.Plan:
        """Return what pays for calls like the last one, simulated, and keep it.

        Raises:
            ValueError: before a call has come to its end.
        """
        made = self.made.get(self.steps)
        if made is None or not self.took:
            raise ValueError("plan learns from a call what passes take: call the pipeline once before")
        (numbers,) = made.values()
        medians = {rows: statistics.median_low(times) for rows, times in self.took.items()}
        # the first pass of all, of the fewest rows, warms up: it is not taken to be slower than those of more rows
        curve = {rows: min(medians[more] for more in medians if more >= rows) for rows in medians}
        plan = self.plans[self.steps] = Advisor(made).advise(
            self.steps,
            batch_time=parareal.BatchTime.of(curve),
            samples=len(numbers),
            schedule=given.schedule,
            window=given.window,  # larger batches are made in parts, in the pass whose time is known
        )
        return plan
