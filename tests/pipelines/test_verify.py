"""Verification (`verify=True`): a pipeline is compared with the unmodified one before it is used."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers.utils.torch_utils import randn_tensor
from parareal_diffusers import parallelize


class PlainPipeline(diffusers.DiffusionPipeline):
    """A supported pipeline that is in no table: its network is conditioned on a class label."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.after(self.scheduler.step(out, t, x, generator=generator).prev_sample, i)
        return x

    def after(self, x, i):
        return x


class BlendingPipeline(PlainPipeline):
    """A pipeline that changes its latents after a step."""

    def after(self, x, i):
        return torch.where(torch.arange(8) < 4, x, 0.1 * i)


class ComparingPipeline(PlainPipeline):
    """A pipeline that compares its timestep with a number."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out if t > 500 else 0.9 * out, t, x, generator=generator).prev_sample
        return x


class CountingPipeline(PlainPipeline):
    """A pipeline that scales the output by the number of the pass."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out * (1 + 0.01 * i), t, x, generator=generator).prev_sample
        return x


class IndexingPipeline(CountingPipeline):
    """A pipeline that looks a weight up by the number of the pass."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        weights = torch.linspace(0.5, 1, num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out * weights[i], t, x, generator=generator).prev_sample
        return x


class FillingPipeline(PlainPipeline):
    """A pipeline that fills a vector with its timestep."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            times = torch.full((len(x),), t)
            out = self.unet(x, times, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out, t, x, generator=generator).prev_sample
        return x


class BreakingPipeline(PlainPipeline):
    """A pipeline that leaves its loop early."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            if i == 3:
                break
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out, t, x, generator=generator).prev_sample
        return x


class ConvertingPipeline(PlainPipeline):
    """A pipeline that iterates its timesteps as numbers."""

    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps.tolist():
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out, t, x, generator=generator).prev_sample
        return x


def build(kind):
    base = tiny.pixels(num_class_embeds=4, scheduler=diffusers.DDIMScheduler(**tiny.PIXEL))
    pipe = kind(base.unet, base.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_supported_pipeline_is_verified_once_per_kind_of_call():
    pipe = build(PlainPipeline)
    expected = pipe([0, 3], generator=tiny.new_generator())
    generator = tiny.new_generator()
    with parallelize(pipe, verify=True, tolerance=0.0) as handle:
        actual = pipe([0, 3], generator=generator)
        verified = len(handle._verifier.verified)
        pipe([1, 2], generator=generator)
        assert len(handle._verifier.verified) == verified == 1
    assert abs(actual - expected).max() <= 1e-5
    reference = tiny.new_generator()
    pipe([0, 3], generator=reference)
    pipe([1, 2], generator=reference)
    assert torch.equal(generator.get_state(), reference.get_state())


@pytest.mark.parametrize(
    "kind",
    [
        BlendingPipeline,
        ComparingPipeline,
        CountingPipeline,
        IndexingPipeline,
        FillingPipeline,
        BreakingPipeline,
        ConvertingPipeline,
    ],
)
def test_a_pipeline_that_would_give_wrong_results_is_refused(kind):
    pipe = build(kind)
    torch.manual_seed(0)
    expected = pipe([0, 3])
    torch.manual_seed(0)
    with parallelize(pipe, verify=True), pytest.raises((ValueError, RuntimeError), match="parallel in time"):
        pipe([0, 3])
    assert torch.equal(pipe([0, 3]), expected)


def test_pipelines_in_the_table_can_be_verified_too():
    pipe = tiny.sd()
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat", "num_inference_steps": 12, "output_type": "np"}
    expected = pipe(**call, generator=tiny.new_generator()).images
    before = dict(vars(pipe))
    with parallelize(pipe, verify=True, tolerance=0.0):
        actual = pipe(**call, generator=tiny.new_generator()).images
    assert np.abs(actual - expected).max() <= 1e-5
    assert dict(vars(pipe)) == before
