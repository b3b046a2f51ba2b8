"""Times and iterations recorded from a pipeline's calls, and the plans made from them."""

import statistics
from typing import final

import parareal
from parareal.driver import Advisor
from parareal_diffusers._pipelines.loop import LoopBridge
from parareal_diffusers._pipelines.settings import Settings


@final
class CallRecords:
    """The passes of all calls so far, the iterations by number of steps, and the plans made from both."""

    def __init__(self) -> None:
        self.pass_times: dict[int, list[float]] = {}
        """durations of passes in seconds, by number of rows"""
        self.iterations: dict[int, dict[int, list[int]]] = {}
        """by number of steps, for the newest call: iterations at the last boundary per sample, by number of slices"""
        self.plans: dict[int, parareal.Plan] = {}
        """by number of steps; later calls follow them"""
        self.num_steps = 0
        """the number of steps of the last call that ended regularly"""

    def add(self, bridge: LoopBridge) -> None:
        """Record the times and iterations of a call.

        A call in one slice needs no iterations, so its count is recorded only if there is no other.
        """
        for rows, seconds in bridge.pass_times.items():
            self.pass_times.setdefault(rows, []).extend(seconds)
        solution = bridge.solution
        if solution is None or solution.slice_iterations[-1].min() < 0:  # the last boundary was never reached
            return
        self.num_steps, slices = bridge.num_steps, len(solution.slice_iterations)
        if slices > 1 or bridge.num_steps not in self.iterations:
            self.iterations[bridge.num_steps] = {slices: [int(n) for n in solution.slice_iterations[-1]]}

    def plan(self, settings: Settings) -> parareal.Plan:
        """Return the simulated plan for calls like the last one, and keep it for later calls.

        Raises:
            ValueError: before a call has ended regularly.
        """
        iterations = self.iterations.get(self.num_steps)
        if iterations is None or not self.pass_times:
            raise ValueError("plan needs the times and iterations of a call: call the pipeline once before")
        (numbers,) = iterations.values()
        medians = {rows: statistics.median_low(times) for rows, times in self.pass_times.items()}
        # The first pass includes warm-up and has the fewest rows. Fewer rows never take longer, so each time is lowered
        # to the smallest median of passes with that number of rows or more.
        curve = {rows: min(medians[more] for more in medians if more >= rows) for rows in medians}
        plan = self.plans[self.num_steps] = Advisor(iterations).advise(
            self.num_steps,
            batch_time=parareal.BatchTime.of(curve),
            samples=len(numbers),
            schedule=settings.schedule,
            # No max_batch: a pass that is made in several calls has been timed as a whole.
            window=settings.window,
        )
        return plan
