"""Advice for a sampling problem: it times the network, records iterations, and passes both to the engine's advisors."""

from collections.abc import Hashable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

import parareal
from parareal.driver import Advisor, Options, advisor_for, check_initial
from parareal_diffusers._sampling.problem import SamplingProblem


@final
class SamplingAdvisor:
    """The advice for one sampling problem, which plans calls of `sample` and learns from their solutions.

    Two advisors hold what is known. They are attached to the model, so the next call for it finds them again.

    Args:
        problem: the sampling problem.
        latents: shape (samples, *sample); their dtype and device are those of the network's calls.
    """

    def __init__(self, problem: SamplingProblem, latents: Tensor):
        self.problem, self.latents = problem, latents
        # Looked up once, here. For a model that no advisor can be attached to, every call of `advisor_for` returns a
        # new advisor, which lacks the times measured before.
        self._call_advisor = _find_call_advisor(problem, latents)
        self._iteration_advisor = _find_iteration_advisor(problem)

    def plan_call(
        self, *, schedule: str, window: int | None, max_iterations: int | None, speculate_until: int | None
    ) -> parareal.Plan | None:
        """Return the plan for a call of `sample` with these options, or None if the network must not be timed.

        The network is not timed without a tolerance. With batches of fixed sizes only `plan` times it. If the network
        fails for another reason than a lack of memory, there is no plan either: the solve will fail in the same way and
        report where.

        Raises:
            TypeError, ValueError: for wrong options, before the network is called.
            Exception: the network's own, if it runs out of memory while it is timed.
        """
        criterion = self.problem.criterion
        if not isinstance(criterion, parareal.Tolerance):
            return None
        # Fixed sizes are for compiled networks, whose first call of each size compiles. Only `plan`, which the user
        # calls in order to measure, takes that time.
        if self.problem.denoiser.batch_sizes and not self._call_advisor.has_batch_time(self.problem.max_batch):
            return None
        # The options and the criterion are checked here, before the seconds that the measurement takes. The objects
        # themselves are not used: `parareal.solve` makes its own.
        Options(
            criterion=criterion,
            schedule=schedule,
            window=window,
            max_iterations=max_iterations,
            speculate_until=speculate_until,
        )
        criterion.resolve(check_initial(self.latents[:1], 1)[1])
        try:
            self.measure_batch_time()
        except Exception as error:
            # More rows were tried than a solve might need, so the user must learn about `max_batch` from this error.
            if is_out_of_memory(error):
                raise
            return None
        return self.plan(len(self.latents), schedule=schedule, window=window)

    def plan(self, samples: int, *, schedule: str = "pipelined", window: int | None = None) -> parareal.Plan:
        """Return the plan for a number of samples, from the times and iterations recorded so far.

        The problem's criterion must be a `Tolerance`. The network is timed if it has not been.
        """
        assert isinstance(self.problem.criterion, parareal.Tolerance)
        return self._iteration_advisor.advise(
            self.problem.grid.steps,
            batch_time=self.measure_batch_time(),
            # Numbers of slices that were run are the only candidates: their iterations are known, not extrapolated.
            slices=sorted(self._iteration_advisor.iterations) or None,
            tolerance=self.problem.criterion.rtol,
            samples=samples,
            schedule=schedule,
            window=window,
            max_batch=self.problem.max_batch,
        )

    def learn(self, solution: parareal.Solution) -> None:
        """Record the iterations of each sample, plus one where the estimated error was near the tolerance.

        Similar samples are likely to need the extra iteration.
        """
        assert isinstance(self.problem.criterion, parareal.Tolerance)
        near = solution.error_estimate > 0.85 * self.problem.criterion.rtol
        iterations = (int(n) for n in solution.slice_iterations[-1] + near)
        self._iteration_advisor.learn_iterations(len(solution.boundaries) - 1, iterations)

    def measure_batch_time(self, seconds: float = 1.0) -> parareal.BatchTime:
        """Return the time of the network's calls on this device by their rows, at most `max_batch`; measured once.

        Args:
            seconds: limit of the measurement, exceeded only if single calls take longer.

        Raises:
            Exception: the network's own.
        """
        latents, most = self.latents, self.problem.max_batch

        def call(rows: int) -> None:
            index = torch.arange(rows, device=latents.device)
            try:
                # The few latents are repeated to any number of rows; all rows are at node 0.
                with torch.no_grad():
                    self.problem.denoiser(latents[index % len(latents)], 0 * index, index % len(latents))
                # Kernels run asynchronously: without it the time would be that of launching them.
                if latents.device.type == "cuda":
                    torch.cuda.synchronize(latents.device)
            except Exception as error:
                if is_out_of_memory(error):
                    error.add_note(
                        f"in a call of {rows} rows, timed for slices='auto': set max_batch to bound the rows of calls"
                    )
                raise

        return self._call_advisor.batch_time(call, seconds=seconds, max_rows=most)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error reports that the memory of a device is exhausted."""
    # Some backends raise a plain RuntimeError, which only its text tells apart.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def _find_call_advisor(problem: SamplingProblem, latents: Tensor) -> Advisor:
    """Return the advisor that keeps the times of calls.

    They depend on the network, its input and the number of threads only, so problems with other solvers, steps or
    tolerances share them.
    """
    denoiser = problem.denoiser
    form = tuple(latents.shape[1:]), latents.dtype, latents.device, denoiser.input_dtype
    key = (*form, torch.get_num_threads(), denoiser.guidance is not None, tuple(denoiser.batch_sizes))
    return advisor_for(denoiser.model, ("times", *key))


def _find_iteration_advisor(problem: SamplingProblem) -> Advisor:
    """Return the advisor that keeps the iterations of problems like this one.

    They depend on solvers, steps, tolerance and guidance; problems that differ in the shape of their latents share
    them.
    """
    guidance, rtol = problem.denoiser.guidance, getattr(problem.criterion, "rtol", None)
    # All options of the solvers count. Of the scheduler only its class and the number of steps do.
    solvers = [(type(x).__name__, str(replace(x, scheduler=None))) for x in (problem.fine, problem.coarse)]
    scheduler = type(problem.fine.scheduler).__name__
    key: tuple[Hashable, ...] = (*solvers, scheduler, problem.grid.steps, rtol, guidance and guidance.scale)
    return advisor_for(problem.denoiser.model, ("iterations", *key))
