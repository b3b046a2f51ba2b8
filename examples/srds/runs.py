"""Runs of a method on a subject, one sample at a time, made once."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from parareal_diffusers import sample, srds
from parareal_diffusers._sampling.denoiser import Denoiser
from parareal_diffusers._schedulers.native import copy_with_timesteps, grid_of
from parareal_diffusers.testing import relative_error, scheduler_loop
from srds.subject import Subject
from torch import Tensor

SRDS: dict[str, dict[str, Any]] = {
    "SRDS, vanilla": {**srds(), "schedule": "synchronous"},
    "SRDS, pipelined": srds(),
}
WINDOW = 100
"""steps that ParaDiGMS and ParaTAA have under way, at most"""


@final
@dataclass(frozen=True)
class Run:
    """One sample by one method: evaluations as the engine counts them, seconds on this machine."""

    state: Tensor
    seconds: float
    iterations: float
    span: float
    work: float
    error: float


def scheduler_of(solver: str, ddim: Any) -> Any:
    """Return the scheduler of a solver, on the training schedule of a DDIM scheduler."""
    if solver == "DDIM":
        return ddim
    if solver == "DDPM":
        return DDPMScheduler.from_config(ddim.config)
    return DPMSolverMultistepScheduler.from_config(ddim.config)


@final
@dataclass
class Lab:
    """Makes runs, and remembers them."""

    subject: Subject
    progress: Callable[[str], Any]
    """told before each run what it is"""
    made: dict[Any, list[Run]] = field(default_factory=dict)

    def runs(self, method: str, steps: int, solver: str = "DDIM", threshold: float | None = None) -> list[Run]:
        """Return the runs of all samples."""
        key = (method, steps, solver, threshold)
        if key not in self.made:
            references = None if method == "sequential" else self.runs("sequential", steps, solver)
            found = []
            for i in range(len(self.subject.latents)):
                self.progress(f"{solver} {steps}, {method}" + (f" {threshold:g}" if threshold else ""))
                reference = None if references is None else references[i].state
                found.append(self._run(self.subject.sample(i), i, method, steps, solver, threshold, reference))
            self.made[key] = found
        return self.made[key]

    def _run(
        self, one: Subject, i: int, method: str, steps: int, solver: str, threshold: float | None, answer: Tensor | None
    ) -> Run:
        scheduler, generator = scheduler_of(solver, one.scheduler), torch.Generator().manual_seed(i)
        began = time.perf_counter()
        if method == "sequential":
            state = scheduler_loop(network(one, scheduler, steps), one.latents, scheduler, steps, generator)
            return Run(state, time.perf_counter() - began, 0, steps, steps, 0.0)
        assert answer is not None
        if method in SRDS:
            found = sample(
                one.model,
                one.latents,
                scheduler,
                num_inference_steps=steps,
                model_kwargs=one.model_kwargs,
                guidance=one.guidance,
                generator=generator,
                **SRDS[method],
            )
            took, stats, state = time.perf_counter() - began, found.stats, found.final_state
            return Run(state, took, found.iterations, stats.span, stats.work, relative_error(state, answer))
        return peer(method, one, steps, threshold or 1e-3, answer)


def network(one: Subject, scheduler: Any, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the network with guidance and conditions, as the loop over the scheduler calls it."""
    ready = copy_with_timesteps(scheduler, steps)
    denoiser = Denoiser(one.model, grid_of(ready), len(one.latents), one.model_kwargs, one.guidance)
    nodes = {float(t): i for i, t in reversed(list(enumerate(ready.timesteps)))}
    index = torch.arange(len(one.latents))
    return lambda x, t: denoiser(x, torch.full((len(x),), nodes[float(t[0])]), index)


def peer(method: str, one: Subject, steps: int, threshold: float, answer: Tensor) -> Run:
    """Run ParaDiGMS or ParaTAA, with the rule of its paper, a threshold, and a window over as many steps as pay.

    Raises:
        ImportError: where the module that has them is not there.
    """
    from parareal_diffusers.bench import Problem, paradigms, parataa  # pyright: ignore[reportMissingImports]
    from parareal_diffusers.bench.cases.record import Stop, Target  # pyright: ignore[reportMissingImports]

    window = min(WINDOW, steps)
    problem = Problem(one.name, one.name, one.model, one.scheduler, one.latents, one.model_kwargs, one.guidance)
    target, stop = Target(answer), Stop("own", threshold)
    began = time.perf_counter()
    if method == "ParaDiGMS":
        iterates = paradigms(problem.parts(steps), target, stop, window=window)
    else:
        iterates = parataa(problem.parts(steps), target, stop, window=window, order=20, memory=2)
    last = iterates[-1]
    return Run(answer, time.perf_counter() - began, last.iteration, last.span, last.work, last.error)


def mean(runs: Sequence[Run], name: str) -> float:
    """Return the mean of a number over runs."""
    return statistics.fmean(getattr(run, name) for run in runs)


def median(runs: Sequence[Run], name: str) -> float:
    """Return the median of a number over runs."""
    return statistics.median(getattr(run, name) for run in runs)
