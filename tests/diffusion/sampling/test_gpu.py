"""Sampling on an accelerator: states stay there, and generators of both devices give the sequential loop's noise."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from parareal_diffusers import sample
from parareal_diffusers.bench import METHODS
from parareal_diffusers.bench.cases.problems import PROBLEMS
from parareal_diffusers.bench.cases.record import Stop, Target
from parareal_diffusers.testing import relative_error, scheduler_loop
from problems import smooth_network

pytestmark = pytest.mark.gpu
SCHEDULERS = [
    DDIMScheduler(clip_sample=False),
    DDPMScheduler(clip_sample=False),
    DPMSolverMultistepScheduler(solver_order=3),
    DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    DPMSolverSinglestepScheduler(lower_order_final=True),
]


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].settings(25) is not None])
def test_methods_of_the_bench_need_the_same_evaluations_on_both_devices(name, monkeypatch):
    # TF32 rounds far more coarsely than the CPU's float32, so that a stop could come an iteration later.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    method, results = METHODS[name], []
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        problem = PROBLEMS["fashion-mnist-1"](1).to(device)
        scheduler = problem.scheduler_for(25)
        target = Target(scheduler_loop(problem.build_network(25), problem.latents, scheduler, 25))
        results.append(method.run(problem, 25, target, Stop(method.rule, 1e-2))[-1])
    cpu, cuda = results
    assert (cpu.span, cpu.work, cpu.peak) == (cuda.span, cuda.work, cuda.peak)
    assert cpu.error == pytest.approx(cuda.error, abs=1e-5)


@pytest.mark.parametrize("generator_device", ["cpu", "cuda", None])
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
def test_result_equals_the_loop_on_the_device(scheduler, generator_device):
    def make_generator():
        torch.manual_seed(1)
        return None if generator_device is None else torch.Generator(generator_device).manual_seed(1)

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cuda()
    expected = scheduler_loop(smooth_network, x, scheduler, 50, make_generator())
    solution = sample(smooth_network, x, scheduler, num_inference_steps=50, tolerance=0, generator=make_generator())
    assert solution.final_state.device == x.device
    assert relative_error(solution.final_state, expected) < 1e-5
