"""Planning for a network: the times and iterations that are measured and kept, and their use by `sample`."""

import time
from dataclasses import dataclass

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from parareal_diffusers import plan, sample
from parareal_diffusers._sampling.advice import SamplingAdvisor
from parareal_diffusers._sampling.problem import prepare_problem
from parareal_diffusers.testing import relative_error, scheduler_loop

import parareal

SCHEDULER = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
LATENTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class TimedNetwork(torch.nn.Module):
    """A smooth network whose calls take `seconds(rows)`, and which counts the rows of each call."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.calls = seconds, []

    def forward(self, x, t):
        self.calls.append(len(x))
        time.sleep(self.seconds(len(x)))
        return torch.tanh(x) * 0.9 + 0.05 * torch.sin(t.reshape(-1, 1, 1, 1) / 150)


def flat(rows):
    """Return the seconds of a call on a device that is not saturated: independent of the rows."""
    return 0.002


def linear(rows):
    """Return the seconds of a call on a saturated device: proportional to the rows."""
    return 0.001 * rows


def test_calls_are_timed_once():
    network = TimedNetwork(flat)
    problem = prepare_problem(network, LATENTS, SCHEDULER, num_inference_steps=20)
    first = SamplingAdvisor(problem, LATENTS).measure_batch_time(seconds=0.2)
    count = len(network.calls)
    assert SamplingAdvisor(problem, LATENTS).measure_batch_time(seconds=0.2) is first
    assert len(network.calls) == count
    SamplingAdvisor(problem, LATENTS[:, :, :4]).measure_batch_time(seconds=0.1)  # another shape is timed separately
    assert len(network.calls) > count


def test_sampling_is_sequential_if_a_call_takes_time_proportional_to_its_rows():
    network = TimedNetwork(linear)
    solution = sample(network, LATENTS, SCHEDULER, num_inference_steps=20)
    assert "Solved sequentially" in solution.message
    assert len(solution.boundaries) == 2
    assert solution.stats.work == 40
    expected = scheduler_loop(network, LATENTS, SCHEDULER, 20)
    assert relative_error(solution.final_state, expected) < 1e-5


def test_sampling_is_parallel_if_a_call_takes_the_same_time_for_any_rows():
    network = TimedNetwork(flat)
    solution = sample(network, LATENTS[:1], SCHEDULER, num_inference_steps=60)
    assert len(solution.boundaries) > 3
    assert "Solved sequentially" not in solution.message
    assert relative_error(solution.final_state, scheduler_loop(network, LATENTS[:1], SCHEDULER, 60)) < 1e-2


def test_sample_follows_the_plan():
    network = TimedNetwork(flat)
    advice = plan(network, LATENTS, SCHEDULER, num_inference_steps=48, tolerance=1e-2, slices=[4, 8])
    assert isinstance(advice, parareal.Plan)
    assert {c.slices for c in advice.candidates} == {4, 8}
    solution = sample(network, LATENTS[:1], SCHEDULER, num_inference_steps=48)
    assert len(solution.boundaries) - 1 == advice.slices


def test_a_plan_leaves_the_generator_alone():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    plan(TimedNetwork(flat), LATENTS, SCHEDULER, num_inference_steps=10, slices=[3], generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.0}, ValueError, "tolerance must be .* above 0 .* but was 0.0: .* never faster on one device"),
        ({"tolerance": 5}, ValueError, "below 1, but was 5"),
        ({"tolerance": float("nan")}, ValueError, "but was nan"),
        ({"tolerance": True}, TypeError, "but was True"),
        ({"levels": (2, 2)}, TypeError, "levels"),
        ({"eager": 2}, TypeError, "plan has no option 'eager'"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps"),
    ],
)
def test_wrong_options_of_plan_are_refused(options, error, message):
    network = TimedNetwork(flat)
    with pytest.raises(error, match=message):
        plan(network, LATENTS, SCHEDULER, **{"num_inference_steps": 10, **options})
    assert not network.calls


def test_wrong_options_of_sample_are_refused_before_calls_are_timed():
    network = TimedNetwork(flat)
    with pytest.raises(ValueError, match="schedule must be one of"):
        sample(network, LATENTS, SCHEDULER, num_inference_steps=10, schedule="pipelines")
    with pytest.raises(ValueError, match="below"):
        sample(network, LATENTS, SCHEDULER, num_inference_steps=10, tolerance=1e-9)
    assert not network.calls


@pytest.mark.parametrize("most", [1, 4])
def test_no_more_rows_are_timed_than_max_batch(most):
    network = TimedNetwork(flat)
    sample(network, LATENTS, SCHEDULER, num_inference_steps=20, max_batch=most)
    assert max(network.calls) == most
    network = TimedNetwork(flat)
    plan(network, LATENTS, SCHEDULER, num_inference_steps=20, slices=[4], max_batch=most)
    assert max(network.calls) == most


class SmallMemoryNetwork(TimedNetwork):
    """A network that runs out of memory with more than 16 rows: 8 slices of two samples."""

    def forward(self, x, t):
        if len(x) > 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(x, t)


def test_a_lack_of_memory_while_calls_are_timed_reaches_the_caller():
    with pytest.raises(RuntimeError, match="CUDA out of memory") as error:
        sample(SmallMemoryNetwork(flat), LATENTS, SCHEDULER, num_inference_steps=20)
    assert "max_batch" in error.value.__notes__[0]
    solution = sample(SmallMemoryNetwork(flat), LATENTS, SCHEDULER, num_inference_steps=20, max_batch=16)
    assert solution.stats.peak_batch <= 16


def test_a_plan_for_batches_of_fixed_sizes_is_followed():
    network = TimedNetwork(flat)
    options = {"num_inference_steps": 30, "pad_batch": (1, 8)}
    # Nothing is timed, so the number of slices is the default, round(sqrt(3 * 30)).
    assert len(sample(network, LATENTS[:1], SCHEDULER, **options).boundaries) - 1 == 9
    advice = plan(network, LATENTS, SCHEDULER, slices=[3, 6], **options)
    assert set(network.calls) == {1, 8}
    assert {c.max_batch for c in advice.candidates} == {8}
    assert len(sample(network, LATENTS[:1], SCHEDULER, **options).boundaries) - 1 == advice.slices


def test_numbers_are_checked_before_calls_are_timed():
    for options in ({"max_batch": 0}, {"window": 0}, {"max_iterations": -1}, {"speculate_until": 0.5}):
        network = TimedNetwork(flat)
        with pytest.raises(ValueError, match=next(iter(options))):
            sample(network, LATENTS, SCHEDULER, num_inference_steps=10, **options)
        assert not network.calls


def test_sqrt_gives_the_same_slices_and_bits_in_every_run():
    solutions = [
        sample(TimedNetwork(flat), LATENTS, SCHEDULER, num_inference_steps=25, slices="sqrt") for _ in range(2)
    ]
    assert [len(solution.boundaries) for solution in solutions] == [6, 6]
    assert torch.equal(solutions[0].final_state, solutions[1].final_state)


def test_the_error_of_a_network_comes_from_the_solve():
    """With automatic slices, too, its type is `PararealError`, and `throw=False` returns a solution."""

    def fails(x, t):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for slices in ("auto", "sqrt"):
        with pytest.raises(parareal.PararealError, match="mat1 and mat2") as error:
            sample(fails, LATENTS, SCHEDULER, num_inference_steps=10, slices=slices)
        assert isinstance(error.value.__cause__, RuntimeError)
        solution = sample(fails, LATENTS, SCHEDULER, num_inference_steps=10, slices=slices, throw=False)
        assert solution.outcome is parareal.Outcome.WORKER_LOST


@dataclass
class UnhashableModel:
    """A model without a hash, to which no advisor can be attached."""

    calls: int = 0

    def __call__(self, x, t):
        self.calls += 1
        return torch.tanh(x) * 0.9


def test_an_unhashable_model_is_timed_once_per_call():
    hashable, unhashable = TimedNetwork(lambda rows: 0.0), UnhashableModel()
    for network in (hashable, unhashable):
        sample(network, LATENTS, SCHEDULER, num_inference_steps=10)
    assert unhashable.calls < 1.5 * len(hashable.calls)
    advice = plan(unhashable, LATENTS, SCHEDULER, num_inference_steps=30, slices=[5, 7])
    # Only numbers of slices that were run, with their own iterations, are candidates.
    assert {c.slices for c in advice.candidates} == {5, 7}
