"""Quality of samples: Frechet distances to real images, sequentially and in parallel in time.

    python benchmarks/diffusion/quality.py                 # 2000 samples per row: three and a half hours of one core
    python benchmarks/diffusion/quality.py --minutes 5     # draws for five minutes, then prints how much is missing
    python benchmarks/diffusion/quality.py --minutes 0 --partial   # the table of the samples drawn so far
    python benchmarks/diffusion/quality.py --write         # also writes the table into docs/results/benchmarks.md

Each of DDIM, DPM-Solver++(2M) and DDPM draws the same samples twice with the shipped network, of all ten classes, from
the same noise: by the loop over the unmodified scheduler, and in parallel in time with a tolerance of 1e-2. The
distance (Heusel et al. 2017, arXiv 1706.08500, eq. 6) is computed by torchmetrics, in the 128 features before the last
layer of examples/fashion_mnist/classifier.py. It is a distance to the 10 000 test images of Fashion-MNIST, which
neither network has seen. Its resampling error is the standard deviation over bootstrap resamples of the samples; the
error of the difference of two distances comes from paired resamples. Samples are cached in `--cache`, one file per
chunk, so an interrupted run continues.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from parareal_diffusers import models, sample
from parareal_diffusers._commands.report import markdown
from parareal_diffusers.bench.harness.command import resolve_device
from parareal_diffusers.testing import relative_errors, scheduler_loop
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm.auto import tqdm

from benchmarks.tools.pages import DOCS, put

sys.path.insert(0, str(DOCS.parent / "examples" / "fashion_mnist"))
import classifier as judge
import data

CHUNK = 50  # samples drawn together
SOLVERS = ("DDIM", "DPM-Solver++(2M)", "DDPM")
MODES = ("sequential", "parallel")
SLICES = 17  # the choice of "auto" for 100 steps without timings; fixed, because it must not depend on the machine


@dataclass(frozen=True)
class Chunk:
    """The samples of one file: of one solver, drawn sequentially or in parallel in time."""

    solver: str
    mode: str
    number: int

    def file(self, cache: Path) -> Path:
        """Return the path of its samples."""
        name = "".join(c for c in self.solver.lower() if c.isalnum())
        return cache / f"{name}-{self.mode}-{self.number:03}.pt"


def scheduler_of(solver: str, own: Any) -> Any:
    """Return the scheduler of a solver, on the training schedule of the network's own scheduler."""
    if solver == "DDIM":
        return own
    if solver == "DDPM":
        return DDPMScheduler.from_config(own.config)
    config = {name: own.config[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    return DPMSolverMultistepScheduler(**config)


def draw(chunk: Chunk, net: Any, own: Any, steps: int, tolerance: float, size: int) -> dict[str, Any]:
    """Draw a chunk of samples.

    Chunks of the same number start from the same noise and use equal generators in both modes.

    Returns:
        The samples, on the CPU, with total work, span, and in parallel the iterations per sample.
    """
    latents = torch.randn(size, 1, 28, 28, generator=torch.Generator().manual_seed(chunk.number))
    latents, labels = latents.to(net.device), (torch.arange(size) % 10).to(net.device)
    scheduler, generator = scheduler_of(chunk.solver, own), torch.Generator().manual_seed(10_000 + chunk.number)
    if chunk.mode == "sequential":

        def network(x: Tensor, t: Tensor) -> Tensor:
            return net(x, t, class_labels=labels).sample

        samples = scheduler_loop(network, latents, scheduler, steps, generator)
        return {"samples": samples.cpu(), "work": float(steps * size), "span": float(steps)}
    solution = sample(
        net,
        latents,
        scheduler,
        num_inference_steps=steps,
        model_kwargs={"class_labels": labels},
        slices=min(SLICES, steps),
        tolerance=tolerance,
        speculate_until=1,
        max_batch=64,
        generator=generator,
    )
    counts = torch.as_tensor(solution.slice_iterations[-1])
    stats = {"work": solution.stats.work, "span": solution.stats.span, "iterations": counts}
    return {"samples": solution.final_state.cpu(), **stats}


def draw_missing(
    requested: list[Chunk], cache: Path, size: int, steps: int, tolerance: float, minutes: float, device: torch.device
) -> int:
    """Draw missing chunks for a number of minutes at most, and return the number of chunks that are still missing."""
    net, own = models.load("fashion-mnist")
    net.to(device, memory_format=torch.channels_last)  # a tenth faster
    missing = [chunk for chunk in requested if not chunk.file(cache).exists()]
    end = time.monotonic() + 60 * minutes
    with tqdm(missing, unit="chunk") as bar:
        for done, chunk in enumerate(bar):
            if time.monotonic() > end:
                return len(missing) - done
            bar.set_description(f"{chunk.solver}, {chunk.mode}")
            # An interrupted write leaves a file of another name, which is ignored.
            partial = chunk.file(cache).with_suffix(".partial")
            torch.save(draw(chunk, net, own, steps, tolerance, size), partial)
            partial.rename(chunk.file(cache))
    return 0


class FeaturePassThrough(nn.Module):
    """A feature extractor that returns its input: the metric gets features instead of images."""

    num_features = 128

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, shape (rows, 128)."""
        return features


@torch.no_grad()
def compute_features(net: nn.Sequential, images: Tensor) -> Tensor:
    """Return the classifier's 128 features before its last layer, shape (n, 128), of images (n, 1, 28, 28)."""
    body = net[:-2].eval()  # without dropout and the last layer
    return torch.cat([body(part) for part in images.clamp(-1, 1).split(500)])


class Distance:
    """The Frechet distance to real images, in features."""

    def __init__(self, real: Tensor):
        # Real features are added once and survive `reset`, which discards only those of the samples.
        self.metric = FrechetInceptionDistance(feature=FeaturePassThrough(), reset_real_features=False)
        self.metric.update(real, real=True)

    def __call__(self, samples: Tensor) -> float:
        """Return the distance of samples, by their features (n, 128)."""
        self.metric.reset()
        self.metric.update(samples, real=False)
        return float(self.metric.compute())


def load_classifier(cache: Path, folder: Path, epochs: int) -> tuple[nn.Sequential, float]:
    """Return the classifier and its accuracy on the test images; it is trained only if the cache has none."""
    file = cache / f"classifier-{epochs}.pt"
    if not file.exists():
        net, accuracy = judge.train(folder, epochs, 0)
        torch.save({"net": net.state_dict(), "accuracy": accuracy}, file)
    saved, net = torch.load(file), judge.build_classifier()
    net.load_state_dict(saved["net"])
    return net, saved["accuracy"]


def resample(distance: Distance, pair: list[Tensor], count: int) -> list[Tensor]:
    """Return the distances of bootstrap resamples, one tensor of shape (count,) per mode.

    Both modes are resampled with the same indices, so that the difference of their distances has a small error.
    """
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(pair[0]), (len(pair[0]),), generator=generator) for _ in range(count)]
    return [torch.tensor([distance(x[index]) for index in rows]) for x in pair]


def format_rows(
    solver: str, chunks: dict[str, list[dict[str, Any]]], net: Any, distance: Distance, resamples: int
) -> Iterator[dict[str, str]]:
    """Yield the two rows of one solver."""
    images = {mode: torch.cat([c["samples"] for c in chunks[mode]]) for mode in MODES}
    pair = [compute_features(net, images[mode]) for mode in MODES]
    spread = resample(distance, pair, resamples)
    plain = [distance(x) for x in pair]
    errors = relative_errors(images["parallel"], images["sequential"])
    difference = spread[1] - spread[0]
    for i, mode in enumerate(MODES):
        mode_chunks, count = chunks[mode], len(images[mode])
        parallel = mode == "parallel"
        iterations = torch.cat([c["iterations"] for c in mode_chunks]).float() if parallel else None
        yield {
            "solver": solver,
            "mode": mode,
            "samples": str(count),
            "Frechet distance": f"{plain[i]:.3f} ± {spread[i].std():.3f}",
            "parallel minus sequential": f"{plain[1] - plain[0]:+.4f} ± {difference.std():.4f}" if parallel else "",
            "iterations": f"{iterations.mean():.2f}" if iterations is not None else "-",
            "span": f"{sum(c['span'] for c in mode_chunks) / len(mode_chunks):.0f}",
            "work / sample": f"{sum(c['work'] for c in mode_chunks) / count:.0f}",
            "mean error": f"{errors.mean():.1e}" if parallel else "0",
            "worst error": f"{errors.max():.1e}" if parallel else "0",
        }


def format_table(
    cache: Path, solvers: list[str], chunks: int, folder: Path, epochs: int, resamples: int
) -> tuple[str, str]:
    """Return the table of all chunks that both modes have drawn, and a note; empty strings if there are none."""
    complete = {
        s: [n for n in range(chunks) if all(Chunk(s, mode, n).file(cache).exists() for mode in MODES)] for s in solvers
    }
    if not any(complete.values()):
        return "", ""
    net, accuracy = load_classifier(cache, folder, epochs)
    real = compute_features(net, data.load("t10k", folder)[0])
    distance, rows = Distance(real), []
    for solver, numbers in complete.items():
        if numbers:
            loaded = {m: [torch.load(Chunk(solver, m, n).file(cache)) for n in numbers] for m in MODES}
            rows += format_rows(solver, loaded, net, distance, resamples)
    training = compute_features(net, data.load("train", folder)[0][: 50 * CHUNK])
    count = f"{len(training):,}".replace(",", " ")
    note = (
        f"± is the standard deviation over {resamples} bootstrap resamples. {count} real training images are at a "
        f"distance of {distance(training):.3f}. The classifier has an accuracy of {accuracy:.2%} on the test images. "
        f"Span is that of the slowest of {CHUNK} samples that are drawn together."
    )
    return markdown(rows), note


def main() -> None:
    """Draw the missing samples, compute the distances, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/quality"), help="folder of the samples")
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--samples", type=int, default=2000, help=f"samples per row, a multiple of {CHUNK}")
    parser.add_argument("--steps", type=int, default=100, help="steps of the solvers")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error, by estimate")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--epochs", type=int, default=4, help="epochs of the classifier's training")
    parser.add_argument("--resamples", type=int, default=20, help="bootstrap resamples")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="the longest time to draw, in minutes")
    parser.add_argument("--device", default="cpu", help="device on which samples are drawn")
    parser.add_argument("--partial", action="store_true", help="print the table even if chunks are missing")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/benchmarks.md")
    options = parser.parse_args()
    if options.samples < 1 or options.samples % CHUNK:
        parser.error(f"--samples must be a multiple of {CHUNK}, but was {options.samples}")
    options.cache.mkdir(parents=True, exist_ok=True)
    chunks = options.samples // CHUNK
    requested = [Chunk(s, mode, n) for s in options.solvers for n in range(chunks) for mode in MODES]
    device = resolve_device(options.device)
    missing = draw_missing(requested, options.cache, CHUNK, options.steps, options.tolerance, options.minutes, device)
    if missing:
        print(f"{missing} of {len(requested)} chunks are missing: run the same command again to continue")
        if not options.partial:
            return
    text, note = format_table(options.cache, options.solvers, chunks, options.data, options.epochs, options.resamples)
    note += (
        f" {options.steps} steps, tolerance {options.tolerance:g}, {SLICES} slices. "
        f"Machine: {platform.machine()}, torch {torch.__version__}."
    )
    print(f"{text}\n\n{note}")
    if options.write:
        put(DOCS / "results/benchmarks.md", "quality", f"{text}\n\n{note.strip()}")


if __name__ == "__main__":
    main()
