"""On and off again: what a parallelized pipeline keeps, and what it gives back."""

import copy
import gc
import inspect
import threading
import time
import warnings

import cases
import diffusers
import numpy as np
import pytest
import tiny
import torch
from cases import TWO
from parareal_diffusers import parallelize, sample
from parareal_diffusers._pipelines.loop import LoopBridge
from parareal_diffusers._pipelines.stand_ins.network import wrap_networks

import parareal

EXACT = 1e-5


def pictures(pipe, call=TWO, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**call, **{"generator": tiny.seeded(), "output_type": "np", **more}).images


@pytest.fixture
def pipe():
    return tiny.sd()


def contents(pipe):
    """Everything that an object and its networks hold."""
    held = {"pipe": (type(pipe), dict(vars(pipe))), "config": dict(pipe.config)}
    scheduler = pipe.scheduler
    held["scheduler"] = (id(scheduler), type(scheduler), {k: repr(v) for k, v in vars(scheduler).items()})
    held["unet"] = (type(pipe.unet), {k: id(v) for k, v in vars(pipe.unet).items()}, list(pipe.unet._forward_hooks))
    return held


def test_the_pipeline_is_given_back_as_it_was(pipe):
    pictures(pipe)
    before, expected = contents(pipe), pictures(pipe)
    before = contents(pipe)
    handle = parallelize(pipe)
    pictures(pipe)
    handle.disable()
    handle.disable()
    assert contents(pipe) == before
    assert np.array_equal(pictures(pipe), expected)


def test_between_calls_only_the_class_differs(pipe):
    pictures(pipe)
    before = contents(pipe)
    with parallelize(pipe) as handle:
        pictures(pipe)
        now = contents(pipe)
        assert handle.enabled
        assert isinstance(pipe, diffusers.StableDiffusionPipeline)
        assert type(pipe).__name__ == "StableDiffusionPipeline"
        assert inspect.signature(pipe.__call__) == inspect.signature(
            diffusers.StableDiffusionPipeline.__call__
        ).replace(
            parameters=list(inspect.signature(diffusers.StableDiffusionPipeline.__call__).parameters.values())[1:]
        )
    assert not handle.enabled
    assert now["pipe"][1] == before["pipe"][1]
    assert {k: now[k] for k in ("config", "scheduler", "unet")} == {
        k: before[k] for k in ("config", "scheduler", "unet")
    }


@pytest.mark.parametrize("at", [0, 3])
def test_the_pipeline_is_given_back_after_an_exception(pipe, at):
    expected, calls = pictures(pipe), []
    before = contents(pipe)

    def fail(*_):
        calls.append(0)
        if len(calls) > at:
            raise MemoryError("too much")

    hook = pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError), parallelize(pipe):
        pictures(pipe)
    hook.remove()
    assert torch.is_grad_enabled()
    assert contents(pipe)["scheduler"] == before["scheduler"]
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert np.array_equal(pictures(pipe), expected)


def test_twice_is_an_error(pipe):
    with parallelize(pipe), pytest.raises(ValueError, match=r"already.*disable\(\)"):
        parallelize(pipe)
    parallelize(pipe).disable()


def test_a_copy_must_be_parallelized_itself(pipe):
    with parallelize(pipe):
        other = copy.copy(pipe)
        with pytest.raises(RuntimeError, match="copy"):
            pictures(other)


def test_saving_while_parallel(pipe, tmp_path):
    expected = pictures(pipe)
    with parallelize(pipe):
        pipe.save_pretrained(tmp_path)
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is diffusers.DDIMScheduler
    with parallelize(again, tolerance=0.0):
        assert abs(pictures(again) - expected).max() <= EXACT
    assert diffusers.DiffusionPipeline.from_pretrained(tmp_path).__class__ is diffusers.StableDiffusionPipeline


def test_the_solution_is_that_of_sample():
    # the same network, noise and scheduler, without a pipeline
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    noise = torch.randn(2, 3, 8, 8, generator=tiny.seeded())
    expected = sample(pipe.unet, noise, pipe.scheduler, num_inference_steps=12, slices=6)
    with parallelize(pipe, slices=6) as handle:
        assert handle.solution is None
        pictures(pipe, cases.PIXELS)
    found = handle.solution
    assert torch.equal(found.final_state, expected.final_state)
    assert (found.iterations, found.stats.work, found.stats.calls) == (
        expected.iterations,
        expected.stats.work,
        expected.stats.calls,
    )


@pytest.mark.parametrize("scheduler", ["DDIM", "Euler ancestral", "DDPM"])
@pytest.mark.parametrize("several", [False, True])
def test_a_second_call_with_the_same_generators(scheduler, several):
    pipe = tiny.sd(scheduler=cases.LATENT_SOLVERS[scheduler]())

    def both():
        generator = [tiny.seeded(0), tiny.seeded(1)] if several else tiny.seeded()
        return [pictures(pipe, generator=generator) for _ in range(2)]

    expected = both()
    with parallelize(pipe, tolerance=0.0):
        found = both()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(found, expected, strict=True))
    assert abs(expected[0] - expected[1]).max() > 1e-2


def test_the_global_generator():
    pipe = tiny.sd(scheduler=cases.LATENT_SOLVERS["Euler ancestral"]())

    def both():
        torch.manual_seed(3)
        return [pictures(pipe, generator=None) for _ in range(2)]

    expected = both()
    with parallelize(pipe, tolerance=0.0):
        found = both()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
@pytest.mark.parametrize("return_dict", [True, False])
def test_output_types(pipe, kind, return_dict):
    def output():
        pipe.set_progress_bar_config(disable=True)
        found = pipe(**TWO, generator=tiny.seeded(), output_type=kind, return_dict=return_dict)
        images = found.images if return_dict else found[0]
        return type(found), type(images), np.asarray(images[0], dtype=float)

    expected = output()
    with parallelize(pipe, tolerance=0.0):
        found = output()
    assert found[:2] == expected[:2]
    assert abs(found[2] - expected[2]).max() <= (1 if kind == "pil" else 2e-5)


HALVES = [(torch.float16, name) for name in ("DDIM", "Euler", "DPM-Solver++(2M)", "DDPM", "Euler ancestral")]


@pytest.mark.parametrize(("dtype", "scheduler"), [*HALVES, (torch.bfloat16, "DDIM"), (torch.bfloat16, "DDPM")])
def test_networks_in_half_precision(dtype, scheduler):
    # States stay float32, so it is not bit by bit the pipeline's answer, which rounds its latents at every step.
    pipe = copy.deepcopy(tiny.sd(scheduler=cases.LATENT_SOLVERS[scheduler]())).to(dtype)
    expected = pictures(pipe)
    with parallelize(pipe, tolerance=0.0) as handle:
        found = pictures(pipe)
    assert handle.solution.final_state.dtype is torch.float32
    assert abs(found - expected).max() <= (0.08 if dtype is torch.bfloat16 else 0.01)


def test_max_batch_bounds_every_call_of_every_network():
    build = cases.controlled(diffusers.StableDiffusionControlNetPipeline)
    pipe, rows = build(), []
    nets = [pipe.unet, pipe.controlnet]
    hooks = [
        net.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
        for net in nets
    ]
    with parallelize(pipe, max_batch=3):
        pictures(pipe, {**TWO, **cases.CONTROL})
    for hook in hooks:
        hook.remove()
    assert max(rows) == 6  # guidance doubles


def test_calls_are_filled_up_to_the_next_size_in_whatever_order_sizes_are_given():
    pipe, rows = tiny.pixels(diffusers.DDIMPipeline), []
    pipe.unet = copy.deepcopy(pipe.unet)
    pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    with parallelize(pipe, pad_batch=(32, 8, 2)):
        pictures(pipe, cases.PIXELS)
    assert set(rows) == {2, 8, 32}


def test_an_error_at_one_gate_takes_the_others_away():
    net, broken = torch.nn.Linear(2, 2), type("Broken", (torch.nn.Module,), {"forward": 3})()
    with pytest.raises(TypeError), wrap_networks([net, broken]):
        pass
    assert "_compiled_call_impl" not in vars(net)


@pytest.mark.slow
def test_a_compiled_network_sees_two_sizes():
    sizes = []

    def backend(module, inputs):
        sizes.append(1)
        return module.forward

    torch._dynamo.reset()
    pipe, call = tiny.pixels(diffusers.DDIMPipeline), cases.PIXELS
    expected = pictures(pipe, call)
    pipe.unet = torch.compile(pipe.unet, backend=backend, dynamic=False)
    with parallelize(pipe, tolerance=0.0, pad_batch=(2, 16)):
        found = pictures(pipe, call)
    compiled = len(sizes)
    assert abs(found - expected).max() <= EXACT
    assert compiled == 2
    with parallelize(pipe, tolerance=0.0, pad_batch=(2, 16)):
        pictures(pipe, call)
    assert len(sizes) == compiled


@pytest.mark.slow
def test_a_network_compiled_in_place(pipe):
    expected = pictures(pipe)
    torch._dynamo.reset()
    graphs = []

    def backend(module, inputs):
        graphs.append(1)
        return module.forward

    pipe.unet.compile(backend=backend)
    inner = pipe.unet._compiled_call_impl
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe) - expected).max() <= EXACT
    assert pipe.unet._compiled_call_impl is inner
    assert len(graphs) <= 3  # for all sizes there are


def test_offloaded_networks():
    pytest.importorskip("accelerate")
    pipe = copy.deepcopy(tiny.sd())
    expected = pictures(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.unet, "_hf_hook")
    assert abs(pictures(pipe) - expected).max() == 0
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe) - expected).max() <= EXACT
    assert hasattr(pipe.unet, "_hf_hook")
    assert abs(pictures(pipe) - expected).max() == 0


def test_tiles_and_slices(pipe):
    pipe = copy.deepcopy(pipe)
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4
    pipe.vae.enable_slicing()
    pipe.enable_attention_slicing(1)
    expected = pictures(pipe)
    with parallelize(pipe, tolerance=0.0):
        assert abs(pictures(pipe) - expected).max() <= EXACT
    assert pipe.vae.use_tiling


def test_two_pipelines_that_share_their_networks_in_two_threads():
    one = tiny.sd()
    two = diffusers.StableDiffusionPipeline(**{**one.components, "scheduler": cases.LATENT_SOLVERS["Euler"]()})
    expected = [pictures(one), pictures(two)]
    found = [None, None]
    with parallelize(one, tolerance=0.0, slices=4), parallelize(two, tolerance=0.0, slices=3, max_batch=4):

        def draw(i, pipe):
            found[i] = [pictures(pipe) for _ in range(3)]

        threads = [threading.Thread(target=draw, args=item) for item in enumerate([one, two])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "_compiled_call_impl" not in vars(one.unet)
    for pair, wanted in zip(found, expected, strict=True):
        assert all(abs(x - wanted).max() <= EXACT for x in pair)


def test_one_pipeline_in_two_threads_takes_turns(pipe):
    expected, found = [pictures(pipe, generator=tiny.seeded(i)) for i in range(2)], [None, None]
    with parallelize(pipe, tolerance=0.0):

        def draw(i):
            found[i] = pictures(pipe, generator=tiny.seeded(i))

        threads = [threading.Thread(target=draw, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(found, expected, strict=True))


def test_a_call_within_a_call_is_refused(pipe):
    def call(pipe, i, t, given):
        pictures(pipe)
        return given

    with parallelize(pipe), pytest.raises(RuntimeError, match="within its own call"):
        pictures(pipe, callback_on_step_end=call)


def test_too_few_iterations_warn_and_return(pipe):
    with (
        parallelize(pipe, tolerance=1e-6, max_iterations=1, slices=4) as handle,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        pictures(pipe)
    assert any("parareal" in str(x.message) for x in w)
    assert handle.solution.outcome is parareal.Outcome.ITERATION_LIMIT


def test_a_state_that_is_not_finite_raises(pipe):
    with torch.no_grad():
        pipe.unet = copy.deepcopy(pipe.unet)
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with parallelize(pipe), pytest.raises(parareal.PararealError) as error:
        pictures(pipe)
    assert error.value.solution.outcome is parareal.Outcome.NON_FINITE


def test_another_scheduler_in_between(pipe):
    with parallelize(pipe, tolerance=0.0):
        pictures(pipe)
        pipe.scheduler = cases.LATENT_SOLVERS["Euler"]()
        found = pictures(pipe)
    assert type(pipe.scheduler) is diffusers.EulerDiscreteScheduler
    assert abs(found - pictures(pipe)).max() <= EXACT


def test_the_scheduler_own_timesteps_and_sigmas():
    pipe = tiny.sd(scheduler=diffusers.EulerDiscreteScheduler(**tiny.LATENT))
    for more in ({"sigmas": [14.0, 9.0, 5.0, 2.0, 1.0, 0.5]}, {"timesteps": [900, 700, 500, 300, 100, 20]}):
        call = {"prompt": "a cat", **more}
        expected = pictures(pipe, call)
        with parallelize(pipe, tolerance=0.0) as handle:
            assert abs(pictures(pipe, call) - expected).max() <= EXACT
        assert handle.solution.boundaries[-1] == len(pipe.scheduler.timesteps)


def test_a_plan_from_what_calls_have_shown():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4) as handle:
        with pytest.raises(ValueError, match="call the pipeline once before"):
            handle.plan()
        pictures(pipe, cases.PIXELS)
        plan = handle.plan()
    assert plan.predicted_sequential_time > 0
    assert plan.predicted_speedup == pytest.approx(
        plan.predicted_sequential_time / min(c.wall_time for c in plan.candidates)
    )
    assert "Solve" in plan.explain()


def slowed(pipe, seconds):
    """Make each call of the network take so many seconds more, by its rows."""
    pipe.unet.register_forward_pre_hook(lambda _, given: time.sleep(seconds(len(given[0]))))
    return pipe


def test_a_plan_is_followed_where_slices_are_left_open():
    expected = pictures(tiny.pixels(diffusers.DDIMPipeline), cases.PIXELS)
    pipe = slowed(tiny.pixels(diffusers.DDIMPipeline), lambda _: 0.03)  # what a row costs is nothing
    with parallelize(pipe, criterion=parareal.Iterations(1)) as handle:
        first = pictures(pipe, cases.PIXELS)
        assert len(handle.solution.boundaries) - 1 == 6  # the rounded root of three times the steps
        assert np.array_equal(pictures(pipe, cases.PIXELS), first)
        plan = handle.plan()
        assert plan.worthwhile
        found = pictures(pipe, cases.PIXELS)
        assert len(handle.solution.boundaries) - 1 == plan.slices
        assert handle.solution.stats.span == plan.predicted_span
        assert "Solved sequentially" not in handle.solution.message
        assert abs(found - expected).max() < 0.1
        pictures(pipe, {**cases.PIXELS, "num_inference_steps": 8})  # of which there is no plan
        assert len(handle.solution.boundaries) - 1 == 5


@pytest.mark.parametrize("options", [{}, {"schedule": "synchronous", "max_iterations": 1}])
def test_a_plan_against_slices_is_followed(options):
    expected = pictures(tiny.pixels(diffusers.DDIMPipeline), cases.PIXELS)
    pipe = slowed(tiny.pixels(diffusers.DDIMPipeline), lambda rows: 1e-3 * min(rows, 4) ** 3)
    seen = []
    with warnings.catch_warnings(), parallelize(pipe, callback=seen.append, **options) as handle:
        warnings.simplefilter("ignore")  # of iterations that were too few
        for _ in range(2):  # the first one warms up
            pictures(pipe, cases.PIXELS)
        assert not handle.plan().worthwhile
        seen.clear()
        for _ in range(2):
            warnings.simplefilter("error")
            assert abs(pictures(pipe, cases.PIXELS) - expected).max() <= EXACT
            solution = handle.solution
            assert "Solved sequentially" in solution.message
            assert solution.boundaries == [0, 12]
            assert (solution.stats.calls, solution.stats.work) == (12, 12 * len(expected))
            assert not handle.plan().worthwhile  # a call without slices says nothing of iterations
        assert torch.equal(seen[-1].final_state, solution.final_state)


def test_a_plan_changes_nothing_that_was_said():
    pipe = slowed(tiny.pixels(diffusers.DDIMPipeline), lambda _: 0.0)
    for options, slices in (({"slices": 4}, 4), ({"boundaries": [0, 5, 12]}, 2), ({"levels": (3, 2)}, 3)):
        with parallelize(pipe, **options) as handle:
            first = pictures(pipe, cases.PIXELS)
            handle.plan()
            assert np.array_equal(pictures(pipe, cases.PIXELS), first)
            assert len(handle.solution.boundaries) - 1 == slices


def test_a_call_that_failed_leaves_the_plan_of_those_before():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4) as handle:
        pictures(pipe, cases.PIXELS)
        slices = {c.slices for c in handle.plan().candidates}

        def fails(*_):
            raise RuntimeError("out of order")

        hook = pipe.unet.register_forward_pre_hook(fails)
        with pytest.raises(Exception, match="out of order"):
            pictures(pipe, {**cases.PIXELS, "num_inference_steps": 9})
        hook.remove()
        assert {c.slices for c in handle.plan().candidates} == slices


def test_a_call_leaves_nothing_to_the_collector():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4):
        pictures(pipe, cases.PIXELS)
        gc.collect()
        gc.disable()
        try:
            pictures(pipe, cases.PIXELS)
            assert not [x for x in gc.get_objects() if type(x) is LoopBridge]
        finally:
            gc.enable()
