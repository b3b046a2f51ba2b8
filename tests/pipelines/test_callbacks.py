"""Callbacks, interrupts and progress bars of a running pipeline."""

import copy

import cases
import diffusers
import numpy as np
import pytest
import tiny
import torch
from cases import TWO
from parareal_diffusers import parallelize
from parareal_diffusers.testing import relative_error

import parareal


def run(pipe, **more):
    pipe.set_progress_bar_config(disable=True)
    return pipe(**TWO, **{"generator": tiny.new_generator(), "output_type": "np", **more}).images


@pytest.fixture
def pipe():
    return tiny.sd()


def test_the_callback_receives_every_iteration_with_whole_latents(pipe):
    records = []

    def observe(pipe, i, t, tensors):
        records.append((i, int(t), tensors["latents"].clone()))
        return tensors

    final = run(pipe, output_type="latent")
    with parallelize(pipe, tolerance=0.0, slices=4) as handle:
        run(pipe, callback_on_step_end=observe)
    iterations, times, latents = zip(*records, strict=True)
    assert list(iterations) == list(range(handle.solution.iterations + 1))
    assert set(times) == {int(pipe.scheduler.timesteps[-1])}
    assert {x.shape for x in latents} == {final.shape}
    errors = [relative_error(x, final) for x in latents]
    assert errors[-1] <= 1e-5
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_the_callback_of_parallelize_receives_every_iterate(pipe):
    records = []
    with parallelize(pipe, tolerance=0.0, slices=4, callback=records.append) as handle:
        actual = run(pipe, output_type="latent")
    assert [r.iteration for r in records] == list(range(handle.solution.iterations + 1))
    assert torch.equal(records[-1].final_state, actual)


def test_the_callback_of_parallelize_may_stop_the_call(pipe):
    with parallelize(pipe, tolerance=0.0, slices=4, callback=lambda r: r.iteration < 1) as handle:
        actual = run(pipe, output_type="latent")
        assert torch.equal(actual, handle.solution.final_state)
        assert run(pipe).shape == (2, 16, 16, 3)
    assert handle.solution.outcome is parareal.Outcome.CANCELLED
    assert handle.solution.iterations == 1


@pytest.mark.parametrize("result", [0, np.False_, torch.tensor(False), []])
def test_the_callback_of_parallelize_may_stop_the_call_by_any_false_value(pipe, result):
    with parallelize(pipe, tolerance=0.0, slices=4, callback=lambda r: result) as handle:
        run(pipe)
    assert handle.solution.outcome is parareal.Outcome.CANCELLED
    assert handle.solution.iterations == 0


def test_a_callback_of_parallelize_must_return_a_truth_value(pipe):
    expected = run(pipe)
    match = r"callback returned Tensor of shape \(2, .*return None or True to go on"
    with pytest.raises(TypeError, match=match), parallelize(pipe, slices=4, callback=lambda r: r.final_state):
        run(pipe)
    assert np.array_equal(run(pipe), expected)


def test_interrupting_from_the_callback(pipe):
    records = []

    def stop(pipe, i, t, tensors):
        records.append(tensors["latents"])
        pipe._interrupt = i == 1
        return {}

    with parallelize(pipe, tolerance=0.0, slices=4) as handle:
        actual = run(pipe, callback_on_step_end=stop, output_type="latent")
        assert torch.equal(actual, records[-1])
        assert len(records) == 2
        assert abs(run(pipe, output_type="latent") - actual).max() > 0  # the next call is not interrupted
    assert handle.solution.outcome is parareal.Outcome.EXACT


@pytest.mark.parametrize("at", [1, 5])
def test_interrupting_from_elsewhere(pipe, at):
    calls = []

    def interrupt(*_):
        calls.append(0)
        pipe._interrupt = len(calls) >= at

    hook = pipe.unet.register_forward_pre_hook(interrupt)
    with parallelize(pipe, tolerance=0.0, slices=3):
        actual = run(pipe)
    hook.remove()
    assert actual.shape == (2, 16, 16, 3)
    assert len(calls) == at


def test_the_progress_bar_counts_final_steps(pipe, capsys):
    pipe.set_progress_bar_config(mininterval=0, ncols=120)
    with parallelize(pipe, tolerance=0.0, slices=4):
        pipe(**TWO, generator=tiny.new_generator())
    output = capsys.readouterr().err
    assert "12/12" in output
    assert "3/12" in output
    assert "iteration=" in output
    assert "passes=12" in output


@pytest.mark.parametrize("build", ["sd", "pixels"])
def test_progress_may_be_turned_off_and_on(build, capsys):
    pipe = getattr(tiny, build)()
    call = TWO if build == "sd" else cases.PIXELS
    before = copy.copy(vars(pipe).get("_progress_bar_config"))
    with parallelize(pipe, progress=False):
        pipe(**call)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=True)
    with parallelize(pipe, progress=True):
        pipe(**call)
    assert "12/12" in capsys.readouterr().err
    assert before is None
    assert pipe._progress_bar_config == {"disable": True}


def change_latents(pipe, i, t, tensors):
    return {"latents": tensors["latents"] * 1.01}


def change_latents_in_place(pipe, i, t, tensors):
    tensors["latents"] *= 1.01
    return tensors


def change_guidance(pipe, i, t, tensors):
    pipe._guidance_scale = 1.0
    return tensors


def change_adapter(pipe, i, t, tensors):
    pipe.set_ip_adapter_scale(0.0)
    return tensors


CHANGES = [change_latents, change_latents_in_place, change_guidance, change_adapter]


@pytest.mark.parametrize("change", CHANGES)
def test_callbacks_that_change_something_are_refused(pipe, change):
    expected, calls = run(pipe), []

    def record(pipe, iteration, t, tensors):
        calls.append(iteration)
        return change(pipe, iteration, t, tensors)

    with pytest.raises(ValueError, match=r"Parallel in time.*without parallelize"), parallelize(pipe, slices=4):
        run(pipe, callback_on_step_end=record)
    assert calls == [0]  # the coarse prediction, before any iteration
    assert np.array_equal(run(pipe), expected)


def test_a_callback_may_set_an_attribute_to_an_equal_value(pipe):
    def harmless(pipe, i, t, tensors):
        pipe._guidance_scale = float(str(pipe._guidance_scale))
        return {**tensors}

    with parallelize(pipe):
        run(pipe, callback_on_step_end=harmless)


def test_callback_objects_of_diffusers_are_refused_before_any_work(pipe):
    from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.4)
    pipe.text_encoder = torch.nn.Module()  # fails if it is called
    for callback in (cutoff, MultiPipelineCallbacks([cutoff])):
        with parallelize(pipe), pytest.raises(ValueError, match="changes the pipeline at a step"):
            run(pipe, callback_on_step_end=callback)


def test_a_callback_may_call_another_pipeline_with_the_same_network(pipe):
    other = diffusers.StableDiffusionPipeline(**{**pipe.components, "scheduler": cases.LATENT_SOLVERS["Euler"]()})
    expected, actual = run(other), []
    with parallelize(pipe, tolerance=0.0, slices=3, callback=lambda r: actual.append(run(other))):
        run(pipe, callback_on_step_end=lambda *_: actual.append(run(other)))
    assert len(actual) >= 4
    assert all(np.array_equal(x, expected) for x in actual)


def test_pipelines_with_controlnets_call_back_too():
    pipe, records = cases.with_controlnet(diffusers.StableDiffusionControlNetPipeline)(), []

    def observe(pipe, i, t, tensors):
        records.append(tensors["latents"].shape)
        return tensors

    with parallelize(pipe):
        run(pipe, **cases.CONTROL, callback_on_step_end=observe)
    assert set(records) == {(2, 4, 8, 8)}
