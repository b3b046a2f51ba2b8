"""`check_solver` passes correct solvers and names the mistake of others."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from parareal_diffusers import DDIM, DDPM, DPMSolver, Euler, Heun, Sigmas, Solver, StepInterval
from parareal_diffusers.testing import check_solver, scheduler_loop

SCHEDULER = DDIMScheduler(clip_sample=False)
NOISY = DDPMScheduler(clip_sample=False)


def reference_loop(scheduler):
    return lambda model, x, steps, generator: scheduler_loop(model, x, scheduler, steps, generator)


def failures(report):
    return {f.name: f.message for f in report.findings if not f.passed}


@dataclass(frozen=True)
class AnotherDDIM(Solver):
    """A second implementation of DDIM."""

    def step(self, x, memory, interval: StepInterval):
        clean, noise, _ = yield from interval.predict(x)
        return interval.t.alpha * clean + interval.t.sigma * noise, memory


def test_a_correct_solver_passes():
    report = check_solver(AnotherDDIM(SCHEDULER), reference=reference_loop(SCHEDULER))
    assert report.ok, str(report)
    assert str(report).count("ok") == 6


@dataclass(frozen=True)
class WrongFactor(Solver):
    """The clean sample is multiplied by 1.001."""

    def step(self, x, memory, interval: StepInterval):
        clean, noise, _ = yield from interval.predict(x)
        return 1.001 * interval.t.alpha * clean + interval.t.sigma * noise, memory


@dataclass(frozen=True)
class MixesRows(Solver):
    """Rows influence each other."""

    def step(self, x, memory, interval: StepInterval):
        clean, noise, _ = yield from interval.predict(x)
        return interval.t.alpha * clean + interval.t.sigma * (noise + 0.01 * (x - x.mean(dim=0))), memory


@dataclass(frozen=True)
class StopsShort(Solver):
    """A jump goes to the next node only."""

    def step(self, x, memory, interval: StepInterval):
        clean, noise, _ = yield from interval.predict(x)
        sigma = interval.rows(interval.grid.stop.sigma[interval.start])
        return (1 - sigma**2) ** 0.5 * clean + sigma * noise, memory


@dataclass(frozen=True)
class DrawsItself(Solver):
    """Noise comes from torch's global generator."""

    def step(self, x, memory, interval: StepInterval):
        clean, noise, _ = yield from interval.predict(x)
        return interval.t.alpha * clean + interval.t.sigma * noise + 0.1 * interval.t.sigma * torch.randn_like(
            x
        ), memory


@dataclass(frozen=True)
class DrawsTooOften(Solver):
    """DDPM, but `draws` has the default, which includes the last step."""

    stochastic = True

    def step(self, x, memory, interval: StepInterval):
        return (yield from DDPM().step(x, memory, interval))


@dataclass(frozen=True)
class WrongCorrection(Solver):
    """A linear multistep method whose history is multiplied by 3 at every corrected boundary."""

    def begin(self, x):
        return torch.zeros_like(x), torch.full((len(x),), -1)

    def step(self, x, memory, interval: StepInterval):
        previous, node = memory
        clean, noise, _ = yield from interval.predict(x)
        extrapolated = torch.where(interval.rows(node >= 0), 1.5 * noise - 0.5 * previous, noise)
        clean = (x - interval.s.sigma * extrapolated) / interval.s.alpha
        return interval.t.alpha * clean + interval.t.sigma * extrapolated, (noise, interval.start)

    def correct(self, memory, change, shift):
        return memory[0] * 3, memory[1]


@dataclass(frozen=True)
class ReturnsInsteadOfYields(Solver):
    """`step` is no generator."""

    def step(self, x, memory, interval: StepInterval):
        return x, memory


@pytest.mark.parametrize(
    ("solver", "reference", "name", "message"),
    [
        (WrongFactor(SCHEDULER), reference_loop(SCHEDULER), "sequential", "is off by"),
        (MixesRows(SCHEDULER), reference_loop(SCHEDULER), "rows", "rows must not influence each other"),
        (StopsShort(SCHEDULER), reference_loop(SCHEDULER), "jumps", "from level interval.s to level interval.t"),
        (DrawsItself(SCHEDULER), reference_loop(SCHEDULER), "noise", "interval.noise"),
        (DrawsItself(SCHEDULER), reference_loop(SCHEDULER), "finish", "bit by bit"),
        (DrawsTooOften(NOISY), reference_loop(NOISY), "noise", "draws"),
        (WrongCorrection(SCHEDULER), reference_loop(SCHEDULER), "memory", "correct"),
        (ReturnsInsteadOfYields(SCHEDULER), reference_loop(SCHEDULER), "sequential", "must be a generator"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Solver) else None,
)
def test_mistakes_are_named(solver, reference, name, message):
    assert message in failures(check_solver(solver, reference=reference))[name]


@pytest.mark.parametrize(
    ("message", "solver"),
    [
        ("has no reference for AnotherDDIM", AnotherDDIM(SCHEDULER)),
        ("its steps are not those of a DDIMScheduler", DPMSolver(SCHEDULER)),
        ("its steps are not those of a DPMSolverMultistepScheduler", DPMSolver(DPMSolverMultistepScheduler(), order=3)),
        ("its steps are not those of a DDPMScheduler", DDPM(DDPMScheduler(variance_type="fixed_large"))),
        ("its steps are not those of a DPMSolverMultistepScheduler", DDIM(DPMSolverMultistepScheduler())),
        ("needs the nodes to step over", DDIM()),
        ("no model that predicts variances", DDPMScheduler(variance_type="learned_range")),
    ],
)
def test_solvers_without_a_known_reference_are_refused(message, solver):
    with pytest.raises(ValueError, match=message):
        check_solver(solver)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        DDPMScheduler(),
        DPMSolverMultistepScheduler(),
        DPMSolverSinglestepScheduler(),
        EulerDiscreteScheduler(),
        EulerAncestralDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(),
        DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_schedulers_with_default_options_pass(scheduler):
    report = check_solver(scheduler)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    "solver",
    [
        DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1),
        DDIM(SCHEDULER, eta=0.3),
        NOISY,
        DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    ],
    ids=["stable diffusion", "eta", "ddpm", "3m"],
)
def test_solvers_pass_in_double_precision(solver):
    report = check_solver(solver, dtype=torch.float64)
    assert report.ok, str(report)


def test_any_solver_steps_over_any_schedulers_nodes():
    """DPM-Solver++ of order 1 on DDIM's nodes is DDIM."""
    report = check_solver(DPMSolver(SCHEDULER, order=1), reference=reference_loop(SCHEDULER))
    assert report.ok, str(report)


def euler_loop(model, x, sigmas, generator):
    """Sample as k-diffusion's `sample_euler` does."""
    for s, t in pairwise(sigmas):
        x = x + (x - model(x, s.expand(len(x)))) / s * (t - s)
    return x


def ancestral_loop(model, x, sigmas, generator):
    """Sample as k-diffusion's `sample_euler_ancestral` does."""
    for s, t in pairwise(sigmas):
        up = (t**2 * (s**2 - t**2) / s**2) ** 0.5
        x = x + (x - model(x, s.expand(len(x)))) / s * ((t**2 - up**2) ** 0.5 - s)
        if t > 0:
            x = x + up * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def test_solvers_on_a_bare_denoiser_pass():
    sigmas = Sigmas.karras(20, 0.02, 10.0)
    assert check_solver(Euler(sigmas), reference=euler_loop, dtype=torch.float64).ok
    assert check_solver(Euler(sigmas, ancestral=True), reference=ancestral_loop).ok
    assert check_solver(Euler(Sigmas([10.0, 1.0, 0.1])), reference=euler_loop, steps=(1, 5)).ok  # ends above zero
    wrong = check_solver(Heun(sigmas), reference=euler_loop, steps=(3, 25))
    assert set(failures(wrong)) == {"sequential"}
    assert "with 3 steps the result is off by" in failures(wrong)["sequential"]
    with pytest.raises(ValueError, match="give a sequential loop as reference="):
        check_solver(Euler(sigmas))


@dataclass(frozen=True)
class ForgetsItsState(Solver):
    """The state enters through the prediction only, and noise comes from torch's global generator."""

    stochastic = True

    def step(self, x, memory, interval: StepInterval):
        clean, _, _ = yield from interval.predict(x)
        return clean + interval.t.sigma * torch.randn_like(x), memory


def test_a_wrong_solver_on_a_bare_denoiser_is_found():
    report = check_solver(ForgetsItsState(Sigmas.karras(20, 0.02, 10.0)), reference=ancestral_loop)
    assert {"sequential", "noise"} <= set(failures(report))
