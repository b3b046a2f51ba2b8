"""The advice for a sampling problem: times of its network and iterations of its samples, handed to advisors."""

from collections.abc import Hashable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

import parareal
from parareal.driver import Advisor, Options, advisor_for, check_initial
from parareal_diffusers._sampling.prepared import Ready


@final
class SampleAdvice:
    """The advice for one sampling problem; made once per call, because some models cannot be looked up again.

    Args:
        ready: the problem.
        latents: of the shape (samples, *sample), dtype and device that the network will be given.
    """

    def __init__(self, ready: Ready, latents: Tensor):
        self.ready, self.latents = ready, latents
        self._calls, self._iterations = _calls_advisor(ready, latents), _iterations_advisor(ready)

    def for_call(
        self, *, schedule: str, window: int | None, max_iterations: int | None, speculate_until: int | None
    ) -> parareal.Plan | None:
        """Return the plan for a call of `sample` with these options, or None where nothing is measured for it.

        Nothing is measured without a tolerance, and with batches of fixed sizes unless `plan` has timed them. A network
        that fails for another reason than a lack of memory is left to the solve, which says where it failed.

        Raises:
            TypeError, ValueError: for wrong options, before the network is called.
            Exception: the network's own, if it runs out of memory while it is timed.
        """
        criterion = self.ready.criterion
        if not isinstance(criterion, parareal.Tolerance):
            return None
        if self.ready.denoiser.sizes and not self._calls.measured(self.ready.max_batch):
            return None
        Options(
            criterion=criterion,
            schedule=schedule,
            window=window,
            max_iterations=max_iterations,
            speculate_until=speculate_until,
        )
        criterion.resolved(check_initial(self.latents[:1], 1)[1])
        try:
            self.batch_time()
        except Exception as error:
            if out_of_memory(error):
                raise
            return None
        return self.plan(len(self.latents), schedule=schedule, window=window)

    def plan(self, samples: int, *, schedule: str = "pipelined", window: int | None = None) -> parareal.Plan:
        """Return the plan for a number of samples, by a tolerance, from what is known."""
        assert isinstance(self.ready.criterion, parareal.Tolerance)
        return self._iterations.advise(
            self.ready.grid.steps,
            batch_time=self.batch_time(),
            slices=sorted(self._iterations.iterations) or None,  # those that were run
            tolerance=self.ready.criterion.rtol,
            samples=samples,
            schedule=schedule,
            window=window,
            max_batch=self.ready.max_batch,
        )

    def learn(self, solution: parareal.Solution) -> None:
        """Record the iterations that samples made: one more where the estimate was near the tolerance.

        Similar samples are likely to need the extra iteration.
        """
        assert isinstance(self.ready.criterion, parareal.Tolerance)
        near = solution.error_estimate > 0.85 * self.ready.criterion.rtol
        made = (int(n) for n in solution.slice_iterations[-1] + near)
        self._iterations.learn_iterations(len(solution.boundaries) - 1, made)

    def batch_time(self, seconds: float = 1.0) -> parareal.BatchTime:
        """Return the times of the network's calls on this device, measured once, of at most `max_batch` rows.

        Args:
            seconds: to measure for, at most, unless single calls take longer.

        Raises:
            Exception: what the network raises.
        """
        latents, most = self.latents, self.ready.max_batch

        def call(rows: int) -> None:
            index = torch.arange(rows, device=latents.device)
            try:
                with torch.no_grad():
                    self.ready.denoiser(latents[index % len(latents)], 0 * index, index % len(latents))
                if latents.device.type == "cuda":
                    torch.cuda.synchronize(latents.device)
            except Exception as error:
                if out_of_memory(error):
                    note = f"in a call of {rows} rows, timed for slices='auto': max_batch bounds the rows of calls"
                    error.add_note(note)
                raise

        return self._calls.batch_time(call, seconds=seconds, most=most)


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def _calls_advisor(ready: Ready, latents: Tensor) -> Advisor:
    """Return the advisor that knows the times of calls: they depend on nothing but the network and its input."""
    denoiser = ready.denoiser
    form = tuple(latents.shape[1:]), latents.dtype, latents.device, denoiser.dtype
    key = (*form, torch.get_num_threads(), denoiser.guidance is not None, tuple(denoiser.sizes))
    return advisor_for(denoiser.model, ("times", *key))


def _iterations_advisor(ready: Ready) -> Advisor:
    """Return the advisor that knows the iterations of such problems, whatever the shape of their latents."""
    guidance, rtol = ready.denoiser.guidance, getattr(ready.criterion, "rtol", None)
    solvers = [(type(x).__name__, str(replace(x, scheduler=None))) for x in (ready.fine, ready.coarse)]
    scheduler = type(ready.fine.scheduler).__name__
    key: tuple[Hashable, ...] = (*solvers, scheduler, ready.grid.steps, rtol, guidance and guidance.scale)
    return advisor_for(ready.denoiser.model, ("iterations", *key))
