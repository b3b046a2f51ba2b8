"""verify=True: a pipeline is compared with itself as it was before it is used."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers.utils.torch_utils import randn_tensor
from parareal_diffusers import parallelize


class Plain(diffusers.DiffusionPipeline):
    """A pipeline that nobody knows: it tells its network a class."""

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


class Blends(Plain):
    def after(self, x, i):
        return torch.where(torch.arange(8) < 4, x, 0.1 * i)


class Looks(Plain):
    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out if t > 500 else 0.9 * out, t, x, generator=generator).prev_sample
        return x


class Counts(Plain):
    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out * (1 + 0.01 * i), t, x, generator=generator).prev_sample
        return x


class Indexes(Counts):
    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        weights = torch.linspace(0.5, 1, num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out * weights[i], t, x, generator=generator).prev_sample
        return x


class Tells(Plain):
    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            times = torch.full((len(x),), t)
            out = self.unet(x, times, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out, t, x, generator=generator).prev_sample
        return x


class Breaks(Plain):
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


class Numbers(Plain):
    @torch.no_grad()
    def __call__(self, labels, num_inference_steps=20, generator=None):
        x = randn_tensor((len(labels), 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps.tolist():
            out = self.unet(x, t, class_labels=torch.tensor(labels)).sample
            x = self.scheduler.step(out, t, x, generator=generator).prev_sample
        return x


def build(kind):
    made = tiny.pixels(num_class_embeds=4, scheduler=diffusers.DDIMScheduler(**tiny.PIXEL))
    pipe = kind(made.unet, made.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_pipeline_that_is_right_is_taken():
    pipe = build(Plain)
    expected = pipe([0, 3], generator=tiny.seeded())
    generator = tiny.seeded()
    with parallelize(pipe, verify=True, tolerance=0.0) as handle:
        found = pipe([0, 3], generator=generator)
        seen = len(handle._verifier.verified)
        pipe([1, 2], generator=generator)
        assert len(handle._verifier.verified) == seen == 1
    assert abs(found - expected).max() <= 1e-5
    again = tiny.seeded()
    pipe([0, 3], generator=again)
    pipe([1, 2], generator=again)
    assert torch.equal(generator.get_state(), again.get_state())


@pytest.mark.parametrize("kind", [Blends, Looks, Counts, Indexes, Tells, Breaks, Numbers])
def test_a_pipeline_that_would_be_wrong_is_refused(kind):
    pipe = build(kind)
    torch.manual_seed(0)
    expected = pipe([0, 3])
    torch.manual_seed(0)
    with parallelize(pipe, verify=True), pytest.raises((ValueError, RuntimeError), match="parallel in time"):
        pipe([0, 3])
    assert torch.equal(pipe([0, 3]), expected)


def test_known_pipelines_can_be_verified_too():
    pipe = tiny.sd()
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat", "num_inference_steps": 12, "output_type": "np"}
    expected = pipe(**call, generator=tiny.seeded()).images
    before = dict(vars(pipe))
    with parallelize(pipe, verify=True, tolerance=0.0):
        found = pipe(**call, generator=tiny.seeded()).images
    assert np.abs(found - expected).max() <= 1e-5
    assert dict(vars(pipe)) == before
