"""Runs of the methods on a subject, one sample at a time; each run is made once and shared by all tables."""

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
from parareal_diffusers._schedulers.native import build_grid, copy_with_timesteps
from parareal_diffusers.testing import relative_error, scheduler_loop
from srds.subject import Subject
from torch import Tensor

SRDS: dict[str, dict[str, Any]] = {
    "SRDS, vanilla": {**srds(), "schedule": "synchronous"},
    "SRDS, pipelined": srds(),
}
WINDOW = 100
"""the largest number of steps in the window of ParaDiGMS and ParaTAA"""


@final
@dataclass(frozen=True)
class SampleRun:
    """One sample by one method: its final state, wall time, cost and error."""

    state: Tensor
    """shape (1, *sample)"""
    seconds: float
    iterations: float
    span: float
    """evaluations on the critical path; the paper's effective serial evaluations"""
    work: float
    """all evaluations"""
    error: float
    """relative error against the sequential solution"""


def scheduler_of(solver: str, ddim: Any) -> Any:
    """Return the scheduler of a solver, on the training schedule of a DDIM scheduler."""
    if solver == "DDIM":
        return ddim
    if solver == "DDPM":
        return DDPMScheduler.from_config(ddim.config)
    return DPMSolverMultistepScheduler.from_config(ddim.config)


@final
@dataclass
class RunCache:
    """The runs on one subject, each made when it is first requested, and stored."""

    subject: Subject
    progress: Callable[[str], Any]
    """called before each run, with its description"""
    cache: dict[Any, list[SampleRun]] = field(default_factory=dict)

    def runs(self, method: str, steps: int, solver: str = "DDIM", threshold: float | None = None) -> list[SampleRun]:
        """Return the runs of a method on all samples, from the cache if they have been made.

        Args:
            method: `"sequential"`, a key of `SRDS`, `"ParaDiGMS"` or `"ParaTAA"`.
            steps: number of steps.
            solver: `"DDIM"`, `"DDPM"` or `"DPM-Solver"`.
            threshold: of ParaDiGMS and ParaTAA.
        """
        key = (method, steps, solver, threshold)
        if key not in self.cache:
            references = None if method == "sequential" else self.runs("sequential", steps, solver)
            runs = []
            for i in range(len(self.subject.latents)):
                self.progress(f"{solver} {steps}, {method}" + (f" {threshold:g}" if threshold else ""))
                reference = None if references is None else references[i].state
                runs.append(self._run(self.subject.select_sample(i), i, method, steps, solver, threshold, reference))
            self.cache[key] = runs
        return self.cache[key]

    def _run(
        self,
        subject: Subject,
        i: int,
        method: str,
        steps: int,
        solver: str,
        threshold: float | None,
        reference: Tensor | None,
    ) -> SampleRun:
        scheduler, generator = scheduler_of(solver, subject.scheduler), torch.Generator().manual_seed(i)
        start_time = time.perf_counter()
        if method == "sequential":
            state = scheduler_loop(
                build_network(subject, scheduler, steps), subject.latents, scheduler, steps, generator
            )
            return SampleRun(state, time.perf_counter() - start_time, 0, steps, steps, 0.0)
        assert reference is not None
        if method in SRDS:
            solution = sample(
                subject.model,
                subject.latents,
                scheduler,
                num_inference_steps=steps,
                model_kwargs=subject.model_kwargs,
                guidance=subject.guidance,
                generator=generator,
                **SRDS[method],
            )
            seconds, stats, state = time.perf_counter() - start_time, solution.stats, solution.final_state
            return SampleRun(
                state, seconds, solution.iterations, stats.span, stats.work, relative_error(state, reference)
            )
        return run_peer(method, subject, steps, threshold or 1e-3, reference)


def build_network(subject: Subject, scheduler: Any, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the network with guidance and conditioning, with the signature that `scheduler_loop` expects."""
    ready = copy_with_timesteps(scheduler, steps)
    denoiser = Denoiser(subject.model, build_grid(ready), len(subject.latents), subject.model_kwargs, subject.guidance)
    # The denoiser takes nodes. Where timesteps repeat, the first node stands for all.
    nodes = {float(t): i for i, t in reversed(list(enumerate(ready.timesteps)))}
    index = torch.arange(len(subject.latents))
    return lambda x, t: denoiser(x, torch.full((len(x),), nodes[float(t[0])]), index)


def run_peer(method: str, subject: Subject, steps: int, threshold: float, reference: Tensor) -> SampleRun:
    """Run ParaDiGMS or ParaTAA with the stop rule of its paper.

    The state of the result is the reference, because the baselines do not return theirs.

    Raises:
        ImportError: if `parareal_diffusers.bench` is not installed.
    """
    from parareal_diffusers.bench import BenchProblem, paradigms, parataa  # pyright: ignore[reportMissingImports]
    from parareal_diffusers.bench.cases.record import Stop, Target  # pyright: ignore[reportMissingImports]

    window = min(WINDOW, steps)
    problem = BenchProblem(
        subject.name,
        subject.name,
        subject.model,
        subject.scheduler,
        subject.latents,
        subject.model_kwargs,
        subject.guidance,
    )
    target, stop = Target(reference), Stop("own", threshold)
    start_time = time.perf_counter()
    if method == "ParaDiGMS":
        iterates = paradigms(problem.build_parts(steps), target, stop, window=window)
    else:
        iterates = parataa(problem.build_parts(steps), target, stop, window=window, order=20, memory=2)
    last = iterates[-1]
    return SampleRun(reference, time.perf_counter() - start_time, last.iteration, last.span, last.work, last.error)


def mean(runs: Sequence[SampleRun], name: str) -> float:
    """Return the mean of a field over runs."""
    return statistics.fmean(getattr(run, name) for run in runs)


def median(runs: Sequence[SampleRun], name: str) -> float:
    """Return the median of a field over runs."""
    return statistics.median(getattr(run, name) for run in runs)
