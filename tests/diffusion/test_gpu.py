"""On an accelerator: states stay there, noise is the sequential loop's from generators of either kind."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from parareal_diffusers import sample
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
