"""On an accelerator: states stay there, noise is the sequential loop's from generators of either kind."""

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
def test_methods_of_the_bench_take_the_same_on_the_device(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    method, found = METHODS[name], []
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        problem = PROBLEMS["fashion-mnist-1"](1).to(device)
        scheduler = problem.scheduler_for(25)
        target = Target(scheduler_loop(problem.build_network(25), problem.latents, scheduler, 25))
        found.append(method.run(problem, 25, target, Stop(method.rule, 1e-2))[-1])
    assert (found[0].span, found[0].work, found[0].peak) == (found[1].span, found[1].work, found[1].peak)
    assert found[0].error == pytest.approx(found[1].error, abs=1e-5)


@pytest.mark.parametrize("where", ["cpu", "cuda", None])
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda s: type(s).__name__)
def test_equal_to_the_loop_on_the_device(scheduler, where):
    def generator():
        torch.manual_seed(1)
        return None if where is None else torch.Generator(where).manual_seed(1)

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cuda()
    expected = scheduler_loop(smooth_network, x, scheduler, 50, generator())
    solution = sample(smooth_network, x, scheduler, num_inference_steps=50, tolerance=0, generator=generator())
    assert solution.final_state.device == x.device
    assert relative_error(solution.final_state, expected) < 1e-5
