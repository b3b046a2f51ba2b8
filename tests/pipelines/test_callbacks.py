"""What people see while a pipeline runs."""

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
    return pipe(**TWO, **{"generator": tiny.seeded(), "output_type": "np", **more}).images


@pytest.fixture
def pipe():
    return tiny.sd()


def test_the_callback_sees_every_iteration_with_whole_latents(pipe):
    seen = []

    def look(pipe, i, t, given):
        seen.append((i, int(t), given["latents"].clone()))
        return given

    final = run(pipe, output_type="latent")
    with parallelize(pipe, tolerance=0.0, slices=4) as handle:
        run(pipe, callback_on_step_end=look)
    iterations, times, latents = zip(*seen, strict=True)
    assert list(iterations) == list(range(handle.solution.iterations + 1))
    assert set(times) == {int(pipe.scheduler.timesteps[-1])}
    assert {x.shape for x in latents} == {final.shape}
    errors = [relative_error(x, final) for x in latents]
    assert errors[-1] <= 1e-5
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_the_handle_callback(pipe):
    seen = []
    with parallelize(pipe, tolerance=0.0, slices=4, callback=seen.append) as handle:
        found = run(pipe, output_type="latent")
    assert [r.iteration for r in seen] == list(range(handle.solution.iterations + 1))
    assert torch.equal(seen[-1].final_state, found)


def test_the_handle_callback_may_stop(pipe):
    with parallelize(pipe, tolerance=0.0, slices=4, callback=lambda r: r.iteration < 1) as handle:
        found = run(pipe, output_type="latent")
        assert torch.equal(found, handle.solution.final_state)
        assert run(pipe).shape == (2, 16, 16, 3)
    assert handle.solution.outcome is parareal.Outcome.CANCELLED
    assert handle.solution.iterations == 1


def test_interrupting_from_the_callback(pipe):
    seen = []

    def stop(pipe, i, t, given):
        seen.append(given["latents"])
        pipe._interrupt = i == 1
        return {}

    with parallelize(pipe, tolerance=0.0, slices=4) as handle:
        found = run(pipe, callback_on_step_end=stop, output_type="latent")
        assert torch.equal(found, seen[-1])
        assert len(seen) == 2
        assert abs(run(pipe, output_type="latent") - found).max() > 0  # the next call is not interrupted
    assert handle.solution.outcome is parareal.Outcome.EXACT


@pytest.mark.parametrize("at", [1, 5])
def test_interrupting_from_elsewhere(pipe, at):
    calls = []

    def interrupt(*_):
        calls.append(0)
        pipe._interrupt = len(calls) >= at

    hook = pipe.unet.register_forward_pre_hook(interrupt)
    with parallelize(pipe, tolerance=0.0, slices=3):
        found = run(pipe)
    hook.remove()
    assert found.shape == (2, 16, 16, 3)
    assert len(calls) == at


def test_the_progress_bar_counts_final_steps(pipe, capsys):
    pipe.set_progress_bar_config(mininterval=0, ncols=120)
    with parallelize(pipe, tolerance=0.0, slices=4):
        pipe(**TWO, generator=tiny.seeded())
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "3/12" in shown
    assert "iteration=" in shown
    assert "passes=12" in shown


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


def changes_latents(pipe, i, t, given):
    return {"latents": given["latents"] * 1.01}


def changes_latents_in_place(pipe, i, t, given):
    given["latents"] *= 1.01
    return given


def changes_guidance(pipe, i, t, given):
    pipe._guidance_scale = 1.0
    return given


def changes_an_adapter(pipe, i, t, given):
    pipe.set_ip_adapter_scale(0.0)
    return given


CHANGES = [changes_latents, changes_latents_in_place, changes_guidance, changes_an_adapter]


@pytest.mark.parametrize("change", CHANGES)
def test_callbacks_that_change_something_are_refused(pipe, change):
    expected, calls = run(pipe), []

    def counted(*given):
        calls.append(given[1])
        return change(*given)

    with pytest.raises(ValueError, match=r"Parallel in time.*without parallelize"), parallelize(pipe, slices=4):
        run(pipe, callback_on_step_end=counted)
    assert calls == [0]  # with the first sketch, before any iteration
    assert np.array_equal(run(pipe), expected)


def test_a_callback_may_set_what_is_set(pipe):
    def harmless(pipe, i, t, given):
        pipe._guidance_scale = float(str(pipe._guidance_scale))
        return {**given}

    with parallelize(pipe):
        run(pipe, callback_on_step_end=harmless)


def test_callback_objects_of_diffusers_are_refused_before_any_work(pipe):
    from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.4)
    pipe.text_encoder = torch.nn.Module()  # would fail
    for callback in (cutoff, MultiPipelineCallbacks([cutoff])):
        with parallelize(pipe), pytest.raises(ValueError, match="changes the pipeline at a step"):
            run(pipe, callback_on_step_end=callback)


def test_a_callback_may_call_another_pipeline_with_the_same_network(pipe):
    other = diffusers.StableDiffusionPipeline(**{**pipe.components, "scheduler": cases.LATENT_SOLVERS["Euler"]()})
    expected, found = run(other), []
    with parallelize(pipe, tolerance=0.0, slices=3, callback=lambda r: found.append(run(other))):
        run(pipe, callback_on_step_end=lambda *_: found.append(run(other)))
    assert len(found) >= 4
    assert all(np.array_equal(x, expected) for x in found)


def test_pipelines_with_control_call_back_too():
    pipe, seen = cases.controlled(diffusers.StableDiffusionControlNetPipeline)(), []

    def look(pipe, i, t, given):
        seen.append(given["latents"].shape)
        return given

    with parallelize(pipe):
        run(pipe, **cases.CONTROL, callback_on_step_end=look)
    assert set(seen) == {(2, 4, 8, 8)}
