"""Coarse jumps that make the fine solver's own steps, and the spacing of slice boundaries."""

import gc
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from parareal_diffusers import Extrapolated, Grid, boundaries, sample
from parareal_diffusers.testing import GaussianMixture, relative_errors, scheduler_loop

import parareal

SCHEDULERS = {
    "leading": lambda: DDIMScheduler(clip_sample=False),
    "trailing": lambda: DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
    "scaled linear": lambda: DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler": lambda: EulerDiscreteScheduler(),
}


def polynomial_network(scheduler, steps, order):
    """Return a network whose velocity is a polynomial of degree `order` - 1 in the node, whatever the state."""
    slope = torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    prepared = type(scheduler).from_config(scheduler.config)
    prepared.set_timesteps(steps)
    times = prepared.timesteps.double()

    def velocity(t):
        node = (times[None] - t.double()[:, None]).abs().argmin(dim=1).reshape(-1, 1, 1, 1)
        return 0.3 + slope + node * slope / steps * (order - 1)

    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return lambda x, t, **_: velocity(t).to(x)
    if isinstance(scheduler, EulerDiscreteScheduler):
        return lambda x, t, **_: velocity(t).to(x)  # its velocity is the noise

    def noise(x, t, **_):
        alpha_cumprod = scheduler.alphas_cumprod.double()[t.long()].reshape(-1, 1, 1, 1)
        alpha, sigma = alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5
        return (alpha * velocity(t) + sigma * x.double()).to(x)  # noise from x and v, since alpha^2 + sigma^2 = 1

    return noise


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_a_velocity_that_is_extrapolated_exactly_needs_one_iteration(name, order):
    scheduler, x = SCHEDULERS[name](), torch.randn(2, 1, 3, 3, dtype=torch.float64)
    model = polynomial_network(scheduler, 40, order)
    results, iterates = [], []
    for slices in (1, 5):
        solution = sample(
            model, x, scheduler, num_inference_steps=40, slices=slices, coarse=Extrapolated(order=order),
            criterion=parareal.Iterations(min(slices, 2)), callback=lambda r: iterates.append(r.final_state),
        )  # fmt: skip
        results.append(solution.final_state)
    assert relative_errors(results[1], results[0]).max() < 1e-5
    if order == 1:  # the coarse prediction is the solution
        assert relative_errors(iterates[-3], results[0]).max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(list(SCHEDULERS)),
    steps=st.integers(6, 40),
    slices=st.integers(2, 6),
    order=st.sampled_from([1, 2]),
    of=st.sampled_from(["velocity", "clean"]),
    seed=st.integers(0, 99),
)
def test_the_result_is_the_loops(name, steps, slices, order, of, seed):
    scheduler = SCHEDULERS[name]()
    kind = "flow_prediction" if name == "flow" else "epsilon"
    model = GaussianMixture.random(components=3, shape=(1, 3, 3)).model(scheduler, kind)
    scheduler.set_timesteps(steps)
    scale = getattr(scheduler, "init_noise_sigma", 1.0)
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale
    coarse = Extrapolated(order=order, of=of)
    solution = sample(model, x, scheduler, num_inference_steps=steps, slices=slices, coarse=coarse, tolerance=0)
    assert relative_errors(solution.final_state, scheduler_loop(model, x, scheduler, steps)).max() < 2e-5


def test_it_beats_jumps_that_approximate_the_ode():
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing")
    model = GaussianMixture.random(components=6, shape=(1, 4, 4)).model(scheduler, "epsilon")
    x = torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = scheduler_loop(model, x, scheduler, 25)
    errors = {}
    for coarse in (Extrapolated(of="clean"), "dpmpp_2m", "ddim"):
        solution = sample(
            model, x, scheduler, num_inference_steps=25, slices=10, coarse=coarse, criterion=parareal.Iterations(0)
        )
        errors[str(coarse)] = relative_errors(solution.final_state, expected).mean()
    clean, ode, first = errors.values()
    assert 1.3 * clean < ode < first


def test_an_order_above_two_is_refused():
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        Extrapolated(order=3)


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(list(SCHEDULERS)), steps=st.integers(1, 60), data=st.data(), mix=st.floats(0, 1))
def test_boundaries_rise_from_end_to_end(name, steps, data, mix):
    slices = data.draw(st.integers(1, steps))
    nodes = boundaries(SCHEDULERS[name](), slices, num_inference_steps=steps, log_snr=mix)
    assert len(nodes) == slices + 1
    assert (nodes[0], nodes[-1]) == (0, steps)
    assert all(a < b for a, b in pairwise(nodes))


def test_boundaries_are_closer_where_the_noise_ends():
    even, mixed = (boundaries(DDIMScheduler(), 10, num_inference_steps=100, log_snr=w) for w in (0, 0.5))
    assert even == list(range(0, 101, 10))
    assert mixed[-1] - mixed[-2] < 10 < mixed[1] - mixed[0]


def test_wrong_arguments_of_boundaries_are_refused():
    with pytest.raises(ValueError, match="at most the 10 steps"):
        boundaries(DDIMScheduler(), 11, num_inference_steps=10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        boundaries(DDIMScheduler(), 5, num_inference_steps=10, log_snr=2)


def test_grids_are_freed_after_a_solve():
    def count_grids():
        gc.collect()
        return sum(isinstance(x, Grid) for x in gc.get_objects())

    scheduler, x = SCHEDULERS["flow"](), torch.zeros(1, 1, 3, 3)
    before = count_grids()
    sample(polynomial_network(scheduler, 6, 1), x, scheduler, num_inference_steps=6, slices=3, coarse="extrapolated")
    assert count_grids() == before
