"""Lifetime of a handle: state of the pipeline during and between calls, after them, and plans."""

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


def sample_images(pipe, call=TWO, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**call, **{"generator": tiny.new_generator(), "output_type": "np", **more}).images


@pytest.fixture
def pipe():
    return tiny.sd()


def contents(pipe):
    """Return the attributes of a pipeline, its scheduler and its denoiser, to be compared later."""
    result = {"pipe": (type(pipe), dict(vars(pipe))), "config": dict(pipe.config)}
    scheduler = pipe.scheduler
    result["scheduler"] = (id(scheduler), type(scheduler), {k: repr(v) for k, v in vars(scheduler).items()})
    result["unet"] = (type(pipe.unet), {k: id(v) for k, v in vars(pipe.unet).items()}, list(pipe.unet._forward_hooks))
    return result


def test_disable_restores_the_pipeline(pipe):
    sample_images(pipe)
    before, expected = contents(pipe), sample_images(pipe)
    before = contents(pipe)
    handle = parallelize(pipe)
    sample_images(pipe)
    handle.disable()
    handle.disable()
    assert contents(pipe) == before
    assert np.array_equal(sample_images(pipe), expected)


def test_between_calls_only_the_class_differs(pipe):
    sample_images(pipe)
    before = contents(pipe)
    with parallelize(pipe) as handle:
        sample_images(pipe)
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
def test_the_pipeline_is_restored_after_an_exception(pipe, at):
    expected, calls = sample_images(pipe), []
    before = contents(pipe)

    def fail(*_):
        calls.append(0)
        if len(calls) > at:
            raise MemoryError("too much")

    hook = pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError), parallelize(pipe):
        sample_images(pipe)
    hook.remove()
    assert torch.is_grad_enabled()
    assert contents(pipe)["scheduler"] == before["scheduler"]
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert np.array_equal(sample_images(pipe), expected)


def test_parallelizing_twice_is_an_error(pipe):
    with parallelize(pipe), pytest.raises(ValueError, match=r"already.*disable\(\)"):
        parallelize(pipe)
    parallelize(pipe).disable()


def test_a_copy_must_be_parallelized_itself(pipe):
    with parallelize(pipe):
        other = copy.copy(pipe)
        with pytest.raises(RuntimeError, match="copy"):
            sample_images(other)


def test_saving_a_parallelized_pipeline(pipe, tmp_path):
    expected = sample_images(pipe)
    with parallelize(pipe):
        pipe.save_pretrained(tmp_path)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is diffusers.DDIMScheduler
    with parallelize(loaded, tolerance=0.0):
        assert abs(sample_images(loaded) - expected).max() <= EXACT
    assert diffusers.DiffusionPipeline.from_pretrained(tmp_path).__class__ is diffusers.StableDiffusionPipeline


def test_the_solution_is_that_of_sample():
    """`sample` solves with the same network, noise and scheduler, without a pipeline."""
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    noise = torch.randn(2, 3, 8, 8, generator=tiny.new_generator())
    expected = sample(pipe.unet, noise, pipe.scheduler, num_inference_steps=12, slices=6)
    with parallelize(pipe, slices=6) as handle:
        assert handle.solution is None
        sample_images(pipe, cases.PIXELS)
    actual = handle.solution
    assert torch.equal(actual.final_state, expected.final_state)
    assert (actual.iterations, actual.stats.work, actual.stats.calls) == (
        expected.iterations,
        expected.stats.work,
        expected.stats.calls,
    )


@pytest.mark.parametrize("scheduler", ["DDIM", "Euler ancestral", "DDPM"])
@pytest.mark.parametrize("several", [False, True])
def test_generators_are_left_in_the_state_of_the_unmodified_loop(scheduler, several):
    pipe = tiny.sd(scheduler=cases.LATENT_SOLVERS[scheduler]())

    def call_twice():
        generator = [tiny.new_generator(0), tiny.new_generator(1)] if several else tiny.new_generator()
        return [sample_images(pipe, generator=generator) for _ in range(2)]

    expected = call_twice()
    with parallelize(pipe, tolerance=0.0):
        actual = call_twice()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(actual, expected, strict=True))
    assert abs(expected[0] - expected[1]).max() > 1e-2


def test_the_global_generator_is_left_in_the_state_of_the_unmodified_loop():
    pipe = tiny.sd(scheduler=cases.LATENT_SOLVERS["Euler ancestral"]())

    def call_twice():
        torch.manual_seed(3)
        return [sample_images(pipe, generator=None) for _ in range(2)]

    expected = call_twice()
    with parallelize(pipe, tolerance=0.0):
        actual = call_twice()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", ["pil", "np", "pt", "latent"])
@pytest.mark.parametrize("return_dict", [True, False])
def test_all_output_types_are_those_of_the_pipeline(pipe, kind, return_dict):
    def output():
        pipe.set_progress_bar_config(disable=True)
        actual = pipe(**TWO, generator=tiny.new_generator(), output_type=kind, return_dict=return_dict)
        images = actual.images if return_dict else actual[0]
        return type(actual), type(images), np.asarray(images[0], dtype=float)

    expected = output()
    with parallelize(pipe, tolerance=0.0):
        actual = output()
    assert actual[:2] == expected[:2]
    assert abs(actual[2] - expected[2]).max() <= (1 if kind == "pil" else 2e-5)


HALVES = [(torch.float16, name) for name in ("DDIM", "Euler", "DPM-Solver++(2M)", "DDPM", "Euler ancestral")]


@pytest.mark.parametrize(("dtype", "scheduler"), [*HALVES, (torch.bfloat16, "DDIM"), (torch.bfloat16, "DDPM")])
def test_networks_in_half_precision_are_close(dtype, scheduler):
    # States stay float32. The unmodified pipeline rounds its latents at every step, so that the results differ.
    pipe = copy.deepcopy(tiny.sd(scheduler=cases.LATENT_SOLVERS[scheduler]())).to(dtype)
    expected = sample_images(pipe)
    with parallelize(pipe, tolerance=0.0) as handle:
        actual = sample_images(pipe)
    assert handle.solution.final_state.dtype is torch.float32
    assert abs(actual - expected).max() <= (0.08 if dtype is torch.bfloat16 else 0.01)


def test_max_batch_bounds_every_call_of_every_network():
    build = cases.with_controlnet(diffusers.StableDiffusionControlNetPipeline)
    pipe, rows = build(), []
    nets = [pipe.unet, pipe.controlnet]
    hooks = [
        net.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
        for net in nets
    ]
    with parallelize(pipe, max_batch=3):
        sample_images(pipe, {**TWO, **cases.CONTROL})
    for hook in hooks:
        hook.remove()
    assert max(rows) == 6  # guidance doubles the rows


def test_calls_are_padded_to_the_next_size_whatever_the_order_of_sizes():
    pipe, rows = tiny.pixels(diffusers.DDIMPipeline), []
    pipe.unet = copy.deepcopy(pipe.unet)
    pipe.unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    with parallelize(pipe, pad_batch=(32, 8, 2)):
        sample_images(pipe, cases.PIXELS)
    assert set(rows) == {2, 8, 32}


def test_an_error_at_one_network_removes_the_wrappers_of_the_others():
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
    expected = sample_images(pipe, call)
    pipe.unet = torch.compile(pipe.unet, backend=backend, dynamic=False)
    with parallelize(pipe, tolerance=0.0, pad_batch=(2, 16)):
        actual = sample_images(pipe, call)
    compiled = len(sizes)
    assert abs(actual - expected).max() <= EXACT
    assert compiled == 2
    with parallelize(pipe, tolerance=0.0, pad_batch=(2, 16)):
        sample_images(pipe, call)
    assert len(sizes) == compiled


@pytest.mark.slow
def test_a_network_compiled_in_place_is_restored(pipe):
    expected = sample_images(pipe)
    torch._dynamo.reset()
    graphs = []

    def backend(module, inputs):
        graphs.append(1)
        return module.forward

    pipe.unet.compile(backend=backend)
    inner = pipe.unet._compiled_call_impl
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe) - expected).max() <= EXACT
    assert pipe.unet._compiled_call_impl is inner
    assert len(graphs) <= 3  # for all sizes of batches


def test_offloaded_networks_stay_offloaded():
    pytest.importorskip("accelerate")
    pipe = copy.deepcopy(tiny.sd())
    expected = sample_images(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert hasattr(pipe.unet, "_hf_hook")
    assert abs(sample_images(pipe) - expected).max() == 0
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe) - expected).max() <= EXACT
    assert hasattr(pipe.unet, "_hf_hook")
    assert abs(sample_images(pipe) - expected).max() == 0


def test_tiling_and_slicing_are_kept(pipe):
    pipe = copy.deepcopy(pipe)
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4
    pipe.vae.enable_slicing()
    pipe.enable_attention_slicing(1)
    expected = sample_images(pipe)
    with parallelize(pipe, tolerance=0.0):
        assert abs(sample_images(pipe) - expected).max() <= EXACT
    assert pipe.vae.use_tiling


def test_two_pipelines_may_share_their_networks_in_two_threads():
    one = tiny.sd()
    two = diffusers.StableDiffusionPipeline(**{**one.components, "scheduler": cases.LATENT_SOLVERS["Euler"]()})
    expected = [sample_images(one), sample_images(two)]
    actual = [None, None]
    with parallelize(one, tolerance=0.0, slices=4), parallelize(two, tolerance=0.0, slices=3, max_batch=4):

        def run(i, pipe):
            actual[i] = [sample_images(pipe) for _ in range(3)]

        threads = [threading.Thread(target=run, args=item) for item in enumerate([one, two])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "_compiled_call_impl" not in vars(one.unet)
    for images, reference in zip(actual, expected, strict=True):
        assert all(abs(x - reference).max() <= EXACT for x in images)


def test_one_pipeline_in_two_threads_takes_turns(pipe):
    expected, actual = [sample_images(pipe, generator=tiny.new_generator(i)) for i in range(2)], [None, None]
    with parallelize(pipe, tolerance=0.0):

        def run(i):
            actual[i] = sample_images(pipe, generator=tiny.new_generator(i))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(abs(a - b).max() <= EXACT for a, b in zip(actual, expected, strict=True))


def test_a_call_within_a_call_is_refused(pipe):
    def call(pipe, i, t, tensors):
        sample_images(pipe)
        return tensors

    with parallelize(pipe), pytest.raises(RuntimeError, match="within its own call"):
        sample_images(pipe, callback_on_step_end=call)


def test_reaching_max_iterations_warns_and_returns(pipe):
    with (
        parallelize(pipe, tolerance=1e-6, max_iterations=1, slices=4) as handle,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        sample_images(pipe)
    assert any("parareal" in str(x.message) for x in w)
    assert handle.solution.outcome is parareal.Outcome.ITERATION_LIMIT


def test_a_state_that_is_not_finite_raises(pipe):
    with torch.no_grad():
        pipe.unet = copy.deepcopy(pipe.unet)
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with parallelize(pipe), pytest.raises(parareal.PararealError) as error:
        sample_images(pipe)
    assert error.value.solution.outcome is parareal.Outcome.NON_FINITE


def test_the_scheduler_may_be_replaced_between_calls(pipe):
    with parallelize(pipe, tolerance=0.0):
        sample_images(pipe)
        pipe.scheduler = cases.LATENT_SOLVERS["Euler"]()
        actual = sample_images(pipe)
    assert type(pipe.scheduler) is diffusers.EulerDiscreteScheduler
    assert abs(actual - sample_images(pipe)).max() <= EXACT


def test_a_call_may_set_timesteps_or_sigmas():
    pipe = tiny.sd(scheduler=diffusers.EulerDiscreteScheduler(**tiny.LATENT))
    for more in ({"sigmas": [14.0, 9.0, 5.0, 2.0, 1.0, 0.5]}, {"timesteps": [900, 700, 500, 300, 100, 20]}):
        call = {"prompt": "a cat", **more}
        expected = sample_images(pipe, call)
        with parallelize(pipe, tolerance=0.0) as handle:
            assert abs(sample_images(pipe, call) - expected).max() <= EXACT
        assert handle.solution.boundaries[-1] == len(pipe.scheduler.timesteps)


def test_a_plan_needs_a_call():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4) as handle:
        with pytest.raises(ValueError, match="call the pipeline once before"):
            handle.plan()
        sample_images(pipe, cases.PIXELS)
        plan = handle.plan()
    assert plan.predicted_sequential_time > 0
    assert plan.predicted_speedup == pytest.approx(
        plan.predicted_sequential_time / min(c.wall_time for c in plan.candidates)
    )
    assert "Solve" in plan.explain()


def slow_down(pipe, seconds):
    """Delay each call of the network by a number of seconds, a function of its rows."""
    pipe.unet.register_forward_pre_hook(lambda _, arguments: time.sleep(seconds(len(arguments[0]))))
    return pipe


def test_a_plan_is_followed_if_the_slices_are_auto():
    expected = sample_images(tiny.pixels(diffusers.DDIMPipeline), cases.PIXELS)
    pipe = slow_down(tiny.pixels(diffusers.DDIMPipeline), lambda _: 0.03)  # the time does not depend on the rows
    with parallelize(pipe, criterion=parareal.Iterations(1)) as handle:
        first = sample_images(pipe, cases.PIXELS)
        assert len(handle.solution.boundaries) - 1 == 6  # the rounded root of three times the steps
        assert np.array_equal(sample_images(pipe, cases.PIXELS), first)
        plan = handle.plan()
        assert plan.worthwhile
        actual = sample_images(pipe, cases.PIXELS)
        assert len(handle.solution.boundaries) - 1 == plan.slices
        assert handle.solution.stats.span == plan.predicted_span
        assert "Solved sequentially" not in handle.solution.message
        assert abs(actual - expected).max() < 0.1
        sample_images(pipe, {**cases.PIXELS, "num_inference_steps": 8})  # there is no plan for this number of steps
        assert len(handle.solution.boundaries) - 1 == 5


@pytest.mark.parametrize("options", [{}, {"schedule": "synchronous", "max_iterations": 1}])
def test_a_plan_against_slices_is_followed(options):
    expected = sample_images(tiny.pixels(diffusers.DDIMPipeline), cases.PIXELS)
    pipe = slow_down(tiny.pixels(diffusers.DDIMPipeline), lambda rows: 1e-3 * min(rows, 4) ** 3)
    refinements = []
    with warnings.catch_warnings(), parallelize(pipe, callback=refinements.append, **options) as handle:
        warnings.simplefilter("ignore")  # that max_iterations was reached
        for _ in range(2):  # the first one warms up
            sample_images(pipe, cases.PIXELS)
        assert not handle.plan().worthwhile
        refinements.clear()
        for _ in range(2):
            warnings.simplefilter("error")
            assert abs(sample_images(pipe, cases.PIXELS) - expected).max() <= EXACT
            solution = handle.solution
            assert "Solved sequentially" in solution.message
            assert solution.boundaries == [0, 12]
            assert (solution.stats.calls, solution.stats.work) == (12, 12 * len(expected))
            assert not handle.plan().worthwhile  # a call in one slice is not counted
        assert torch.equal(refinements[-1].final_state, solution.final_state)


def test_a_plan_changes_no_setting_of_the_user():
    pipe = slow_down(tiny.pixels(diffusers.DDIMPipeline), lambda _: 0.0)
    for options, slices in (({"slices": 4}, 4), ({"boundaries": [0, 5, 12]}, 2), ({"levels": (3, 2)}, 3)):
        with parallelize(pipe, **options) as handle:
            first = sample_images(pipe, cases.PIXELS)
            handle.plan()
            assert np.array_equal(sample_images(pipe, cases.PIXELS), first)
            assert len(handle.solution.boundaries) - 1 == slices


def test_a_failed_call_does_not_change_the_plan():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4) as handle:
        sample_images(pipe, cases.PIXELS)
        slices = {c.slices for c in handle.plan().candidates}

        def fail(*_):
            raise RuntimeError("out of order")

        hook = pipe.unet.register_forward_pre_hook(fail)
        with pytest.raises(Exception, match="out of order"):
            sample_images(pipe, {**cases.PIXELS, "num_inference_steps": 9})
        hook.remove()
        assert {c.slices for c in handle.plan().candidates} == slices


def test_a_call_leaves_no_reference_cycle():
    pipe = tiny.pixels(diffusers.DDIMPipeline)
    with parallelize(pipe, slices=4):
        sample_images(pipe, cases.PIXELS)
        gc.collect()
        gc.disable()
        try:
            sample_images(pipe, cases.PIXELS)
            assert not [x for x in gc.get_objects() if type(x) is LoopBridge]
        finally:
            gc.enable()
