"""Planning for a network: what is timed, learned and kept, and what sample makes of it."""

from dataclasses import dataclass

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import plan, sample
from parareal_diffusers._sampling.advice import SampleAdvice
from parareal_diffusers._sampling.problem import prepare
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal

SCHEDULER = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
LATENTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(torch.nn.Module):
    """A smooth network whose calls take as long as `seconds` says of their rows."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.calls = seconds, []

    def forward(self, x, t):
        import time

        self.calls.append(len(x))
        time.sleep(self.seconds(len(x)))
        return torch.tanh(x) * 0.9 + 0.05 * torch.sin(t.reshape(-1, 1, 1, 1) / 150)


def flat(rows):
    return 0.002


def linear(rows):
    return 0.001 * rows


def test_calls_are_timed_once():
    net = Net(flat)
    ready = prepare(net, LATENTS, SCHEDULER, num_inference_steps=20)
    first = SampleAdvice(ready, LATENTS).batch_time(seconds=0.2)
    made = len(net.calls)
    assert SampleAdvice(ready, LATENTS).batch_time(seconds=0.2) is first
    assert len(net.calls) == made
    SampleAdvice(ready, LATENTS[:, :, :4]).batch_time(seconds=0.1)  # another shape
    assert len(net.calls) > made


def test_a_batch_that_costs_what_its_rows_cost_is_sampled_step_by_step():
    net = Net(linear)
    solution = sample(net, LATENTS, SCHEDULER, num_inference_steps=20)
    assert "Solved sequentially" in solution.message
    assert len(solution.boundaries) == 2
    assert solution.stats.work == 40
    expected = scheduler_loop(net, LATENTS, SCHEDULER, 20)
    assert relative_error(solution.final_state, expected) < 1e-5


def test_a_batch_that_costs_what_a_row_costs_is_sampled_in_parallel():
    net = Net(flat)
    solution = sample(net, LATENTS[:1], SCHEDULER, num_inference_steps=60)
    assert len(solution.boundaries) > 3
    assert "Solved sequentially" not in solution.message
    assert relative_error(solution.final_state, scheduler_loop(net, LATENTS[:1], SCHEDULER, 60)) < 1e-2


def test_what_was_learned_is_followed():
    net = Net(flat)
    advice = plan(net, LATENTS, SCHEDULER, num_inference_steps=48, tolerance=1e-2, slices=[4, 8])
    assert isinstance(advice, parareal.Plan)
    assert {c.slices for c in advice.candidates} == {4, 8}
    solution = sample(net, LATENTS[:1], SCHEDULER, num_inference_steps=48)
    assert len(solution.boundaries) - 1 == advice.slices


def test_a_plan_leaves_the_generator_alone():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    plan(Net(flat), LATENTS, SCHEDULER, num_inference_steps=10, slices=[3], generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.0}, ValueError, "positive tolerance"),
        ({"levels": (2, 2)}, TypeError, "levels"),
        ({"eager": 2}, TypeError, "plan has no option 'eager'"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps"),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        plan(Net(flat), LATENTS, SCHEDULER, **{"num_inference_steps": 10, **options})


def test_no_plan_is_made_of_wrong_options():
    net = Net(flat)
    with pytest.raises(ValueError, match="schedule must be one of"):
        sample(net, LATENTS, SCHEDULER, num_inference_steps=10, schedule="pipelines")
    with pytest.raises(ValueError, match="below"):
        sample(net, LATENTS, SCHEDULER, num_inference_steps=10, tolerance=1e-9)
    assert not net.calls


@pytest.mark.parametrize("most", [1, 4])
def test_no_more_rows_are_timed_than_max_batch(most):
    net = Net(flat)
    sample(net, LATENTS, SCHEDULER, num_inference_steps=20, max_batch=most)
    assert max(net.calls) == most
    net = Net(flat)
    plan(net, LATENTS, SCHEDULER, num_inference_steps=20, slices=[4], max_batch=most)
    assert max(net.calls) == most


class Full(Net):
    """A network that runs out of memory on more rows than a solve with 8 slices of two samples needs."""

    def forward(self, x, t):
        if len(x) > 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x, t)


def test_a_lack_of_memory_while_calls_are_timed_reaches_the_caller():
    with pytest.raises(RuntimeError, match="CUDA out of memory") as error:
        sample(Full(flat), LATENTS, SCHEDULER, num_inference_steps=20)
    assert "max_batch" in error.value.__notes__[0]
    solution = sample(Full(flat), LATENTS, SCHEDULER, num_inference_steps=20, max_batch=16)
    assert solution.stats.peak_batch <= 16


def test_a_plan_for_batches_of_fixed_sizes_is_followed():
    net = Net(flat)
    given = {"num_inference_steps": 30, "pad_batch": (1, 8)}
    assert len(sample(net, LATENTS[:1], SCHEDULER, **given).boundaries) - 1 == 9  # nothing is timed: sqrt(3 * 30)
    advice = plan(net, LATENTS, SCHEDULER, slices=[3, 6], **given)
    assert set(net.calls) == {1, 8}
    assert {c.max_batch for c in advice.candidates} == {8}
    assert len(sample(net, LATENTS[:1], SCHEDULER, **given).boundaries) - 1 == advice.slices


def test_options_are_checked_before_calls_are_timed():
    for options in ({"max_batch": 0}, {"window": 0}, {"max_iterations": -1}, {"speculate_until": 0.5}):
        net = Net(flat)
        with pytest.raises(ValueError, match=next(iter(options))):
            sample(net, LATENTS, SCHEDULER, num_inference_steps=10, **options)
        assert not net.calls


def test_sqrt_is_the_same_number_of_slices_in_every_run():
    found = [sample(Net(flat), LATENTS, SCHEDULER, num_inference_steps=25, slices="sqrt") for _ in range(2)]
    assert [len(solution.boundaries) for solution in found] == [6, 6]
    assert torch.equal(found[0].final_state, found[1].final_state)


def test_a_network_that_fails_is_left_to_the_solve():
    """Whatever chooses the slices, its error has one type, and `throw=False` holds."""

    def fails(x, t):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for slices in ("auto", "sqrt"):
        with pytest.raises(parareal.PararealError, match="mat1 and mat2") as error:
            sample(fails, LATENTS, SCHEDULER, num_inference_steps=10, slices=slices)
        assert isinstance(error.value.__cause__, RuntimeError)
        solution = sample(fails, LATENTS, SCHEDULER, num_inference_steps=10, slices=slices, throw=False)
        assert solution.outcome is parareal.Outcome.WORKER_LOST


@dataclass
class Unhashable:
    """A model that cannot be looked up again."""

    calls: int = 0

    def __call__(self, x, t):
        self.calls += 1
        return torch.tanh(x) * 0.9


def test_a_model_that_cannot_be_looked_up_is_timed_once_per_call():
    known, unknown = Net(lambda rows: 0.0), Unhashable()
    for net in (known, unknown):
        sample(net, LATENTS, SCHEDULER, num_inference_steps=10)
    assert unknown.calls < 1.5 * len(known.calls)
    advice = plan(unknown, LATENTS, SCHEDULER, num_inference_steps=30, slices=[5, 7])
    assert {c.slices for c in advice.candidates} == {5, 7}  # those that were run, with the iterations that they made
