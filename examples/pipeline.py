"""One line on a diffusers pipeline: guided pictures of chosen classes by the shipped network, in parallel in time.

    python examples/pipeline.py                    # a coat, a sneaker and an ankle boot; writes runs/pipeline.png
    python examples/pipeline.py --classes 9 9 --steps 100

The pipeline below is written as diffusers' own are, and knows nothing of parareal. As nobody else knows it, it is
verified: `verify=True` compares it with itself, step by step, over a few steps before it is used.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from matplotlib.figure import Figure
from parareal_diffusers import models, parallelize
from parareal_diffusers.testing import relative_error


class ClassConditionalPipeline(DiffusionPipeline):
    """Classifier-free guidance by class, on a `UNet2DModel` whose last class stands for "any"."""

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int],
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> ImagePipelineOutput:
        """Return pictures of shape (samples, channels, height, width), between -1 and 1."""
        unet: Any = self.unet
        scheduler: Any = self.scheduler
        size, count = unet.config.sample_size, len(class_labels)
        shape = (count, unet.config.in_channels, size, size)
        images = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=unet.dtype)
        labels = torch.tensor(class_labels, device=images.device)
        labels = torch.cat([torch.full_like(labels, unet.config.num_class_embeds - 1), labels])
        scheduler.set_timesteps(num_inference_steps)
        images = images * scheduler.init_noise_sigma
        bar: Any = self.progress_bar
        for t in bar(scheduler.timesteps):
            rows = scheduler.scale_model_input(torch.cat([images, images]), t)
            output = unet(rows, t, class_labels=labels).sample
            free, conditional = output.chunk(2)
            output = free + guidance_scale * (conditional - free)
            images = scheduler.step(output, t, images, generator=generator).prev_sample
        return ImagePipelineOutput(images=images)  # pyright: ignore[reportArgumentType]


def build() -> ClassConditionalPipeline:
    """Return the pipeline with the shipped network."""
    return ClassConditionalPipeline(*models.load("fashion-mnist"))


def main() -> None:
    """Draw the pictures step by step and in parallel in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[4, 7, 9], help="0 to 9")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline.png"))
    given = parser.parse_args()
    pipe = build()
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        generators = [torch.Generator().manual_seed(given.seed + i) for i in range(len(given.classes))]
        return pipe(given.classes, num_inference_steps=given.steps, generator=generators).images

    began = time.perf_counter()
    expected = draw()
    sequential = time.perf_counter() - began
    iterates: list[torch.Tensor] = []
    with parallelize(pipe, tolerance=given.tolerance, verify=True, callback=lambda r: iterates.append(r.final_state)):
        draw()  # the first call is verified
        iterates.clear()
        began = time.perf_counter()
        found = draw()
        parallel = time.perf_counter() - began
    assert torch.equal(draw(), expected), "the pipeline is not what it was"

    print(f"{given.steps} steps, {len(given.classes)} pictures, tolerance {given.tolerance:g}: ", end="")
    print(f"{len(iterates) - 1} iterations, worst relative error {relative_error(found, expected):.1e}")
    print(f"step by step {sequential:.1f} s, in parallel in time {parallel:.1f} s, {torch.get_num_threads()} threads")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    names = [models.FASHION_MNIST_CLASSES[c] for c in given.classes]
    figure(names, iterates, expected).savefig(given.out, dpi=110)
    print(given.out)


def figure(names: list[str], iterates: list[torch.Tensor], expected: torch.Tensor) -> Figure:
    """Draw a row for each picture: the sketch, the iterates, what the unmodified pipeline gives, and the difference."""
    drawn = Figure(figsize=(1.3 * (len(iterates) + 2) + 0.9, 1.5 * len(names)), layout="constrained")
    axes = drawn.subplots(len(names), len(iterates) + 2, squeeze=False)
    for i, (name, row) in enumerate(zip(names, axes, strict=True)):
        cells = [("sketch" if k == 0 else f"iteration {k}", x[i]) for k, x in enumerate(iterates)]
        cells = [(f"{title}\n{relative_error(x[None], expected[i : i + 1]):.0e}", x) for title, x in cells]
        cells += [("step by step\n", expected[i]), ("difference\nx 20", 20 * (iterates[-1][i] - expected[i]))]
        for axis, (title, x) in zip(row, cells, strict=True):
            axis.imshow(x[0], cmap="gray", vmin=-1, vmax=1)
            axis.set_title(title, fontsize=8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    return drawn


if __name__ == "__main__":
    main()
