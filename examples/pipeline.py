"""A diffusers pipeline in parallel in time: guided images of chosen classes by the shipped network.

    python examples/pipeline.py                    # a coat, a sneaker and an ankle boot; half a minute
    python examples/pipeline.py --classes 9 9 --steps 100

Prints iterations, error and wall times, and writes the iterates to `--out`. The pipeline below is written like those of
diffusers and does not use parareal. Since `parallelize` does not know its class, `verify=True` compares a few steps of
the parallel solve with the sequential pipeline before the first use.
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
    """Class-conditional sampling with guidance; the last class of the `UNet2DModel` is the unconditional one."""

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
        """Return images of shape (samples, channels, height, width), between -1 and 1."""
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
            # Unconditional and conditional rows in one call.
            rows = scheduler.scale_model_input(torch.cat([images, images]), t)
            output = unet(rows, t, class_labels=labels).sample
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance_scale * (conditional - unconditional)
            images = scheduler.step(output, t, images, generator=generator).prev_sample
        return ImagePipelineOutput(images=images)  # pyright: ignore[reportArgumentType]


def build() -> ClassConditionalPipeline:
    """Return the pipeline with the shipped network."""
    return ClassConditionalPipeline(*models.load("fashion-mnist"))


def main() -> None:
    """Draw the images sequentially and in parallel in time, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[4, 7, 9], help="classes, 0 to 9")
    parser.add_argument("--steps", type=int, default=50, help="steps of the scheduler")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error, by estimate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image")
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline.png"), help="file of the figure")
    options = parser.parse_args()
    pipe = build()
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        generators = [torch.Generator().manual_seed(options.seed + i) for i in range(len(options.classes))]
        return pipe(options.classes, num_inference_steps=options.steps, generator=generators).images

    start_time = time.perf_counter()
    expected = draw()
    sequential = time.perf_counter() - start_time
    iterates: list[torch.Tensor] = []
    # Within the block the call of the pipeline stays the same; afterwards the pipeline is unmodified again.
    with parallelize(pipe, tolerance=options.tolerance, verify=True, callback=lambda r: iterates.append(r.final_state)):
        draw()  # the first call is verified, which takes time of its own
        iterates.clear()
        start_time = time.perf_counter()
        images = draw()
        parallel = time.perf_counter() - start_time
    assert torch.equal(draw(), expected), "the pipeline has changed"

    print(f"{options.steps} steps, {len(options.classes)} images, tolerance {options.tolerance:g}: ", end="")
    print(f"{len(iterates) - 1} iterations, worst relative error {relative_error(images, expected):.1e}")
    print(f"sequential {sequential:.1f} s, in parallel in time {parallel:.1f} s, {torch.get_num_threads()} threads")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    names = [models.FASHION_MNIST_CLASSES[c] for c in options.classes]
    draw_figure(names, iterates, expected).savefig(options.out, dpi=110)
    print(options.out)


def draw_figure(names: list[str], iterates: list[torch.Tensor], expected: torch.Tensor) -> Figure:
    """Draw one row per image: coarse prediction, iterates, the unmodified pipeline's image, and the difference."""
    figure = Figure(figsize=(1.3 * (len(iterates) + 2) + 0.9, 1.5 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(iterates) + 2, squeeze=False)
    for i, (name, row) in enumerate(zip(names, axes, strict=True)):
        cells = [("coarse prediction" if k == 0 else f"iteration {k}", x[i]) for k, x in enumerate(iterates)]
        cells = [(f"{title}\n{relative_error(x[None], expected[i : i + 1]):.0e}", x) for title, x in cells]
        cells += [("sequential\n", expected[i]), ("difference\nx 20", 20 * (iterates[-1][i] - expected[i]))]
        for axis, (title, x) in zip(row, cells, strict=True):
            axis.imshow(x[0], cmap="gray", vmin=-1, vmax=1)
            axis.set_title(title, fontsize=8)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
