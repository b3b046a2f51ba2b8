"""Is the quality of samples unchanged? Frechet distances to real pictures, drawn sequentially and in parallel in time.

    python benchmarks/diffusion/quality.py                 # 2000 samples a row: some three and a half hours of one core
    python benchmarks/diffusion/quality.py --minutes 5     # draws for five minutes, and says how much is missing
    python benchmarks/diffusion/quality.py --minutes 0 --partial   # the table of what has been drawn so far
    python benchmarks/diffusion/quality.py --write         # puts the table into docs/results/benchmarks.md

Each of DDIM, DPM-Solver++(2M) and DDPM draws the same samples twice with the shipped network, of all ten classes, from
the same noise: by the loop over the unmodified scheduler, and in parallel in time with a tolerance of 1e-2. The
distance (Heusel et al. 2017, arXiv 1706.08500, eq. 6) is torchmetrics', in the 128 features before the last layer of
examples/fashion_mnist/classifier.py, to the 10 000 test images of Fashion-MNIST, that neither network has seen. Its
resampling error is the standard deviation over bootstrap resamples of the drawn samples; the difference of the two
distances has its own, from pairs. Samples are kept in `--cache`, a file a chunk, so the script goes on where it was
stopped.
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
from parareal_diffusers.bench.harness.command import device_named
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
TAKES = ("sequential", "parallel")
SLICES = 17  # what "auto" takes for 100 steps where nothing is timed; here it must not depend on the machine


@dataclass(frozen=True)
class Job:
    """A chunk of samples of one solver, drawn one way."""

    solver: str
    take: str
    number: int

    def file(self, cache: Path) -> Path:
        """Return where its samples are kept."""
        name = "".join(c for c in self.solver.lower() if c.isalnum())
        return cache / f"{name}-{self.take}-{self.number:03}.pt"


def scheduler_of(solver: str, own: Any) -> Any:
    """Return the scheduler of a row, with the training schedule of the network's own."""
    if solver == "DDIM":
        return own
    if solver == "DDPM":
        return DDPMScheduler.from_config(own.config)
    config = {name: own.config[name] for name in ("beta_start", "beta_end", "beta_schedule", "prediction_type")}
    return DPMSolverMultistepScheduler(**config)


def draw(job: Job, net: Any, own: Any, steps: int, tolerance: float, size: int) -> dict[str, Any]:
    """Draw a chunk of samples; both takes of a number start from the same noise and use the same generator."""
    latents = torch.randn(size, 1, 28, 28, generator=torch.Generator().manual_seed(job.number))
    latents, labels = latents.to(net.device), (torch.arange(size) % 10).to(net.device)
    scheduler, generator = scheduler_of(job.solver, own), torch.Generator().manual_seed(10_000 + job.number)
    if job.take == "sequential":
        drawn = scheduler_loop(lambda x, t: net(x, t, class_labels=labels).sample, latents, scheduler, steps, generator)
        return {"samples": drawn.cpu(), "work": float(steps * size), "span": float(steps)}
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


def fill(
    jobs: list[Job], cache: Path, size: int, steps: int, tolerance: float, minutes: float, device: torch.device
) -> int:
    """Draw what is missing, for so many minutes; return how many chunks still are."""
    net, own = models.load("fashion-mnist")
    net.to(device, memory_format=torch.channels_last)  # a tenth faster
    missing = [job for job in jobs if not job.file(cache).exists()]
    end = time.monotonic() + 60 * minutes
    with tqdm(missing, unit="chunk") as bar:
        for done, job in enumerate(bar):
            if time.monotonic() > end:
                return len(missing) - done
            bar.set_description(f"{job.solver}, {job.take}")
            partial = job.file(cache).with_suffix(".partial")
            torch.save(draw(job, net, own, steps, tolerance, size), partial)
            partial.rename(job.file(cache))
    return 0


class Identity(nn.Module):
    """Hands features to the metric as they are."""

    num_features = 128

    def forward(self, features: Tensor) -> Tensor:
        """Return what is given, shape (rows, 128)."""
        return features


@torch.no_grad()
def features(net: nn.Sequential, pictures: Tensor) -> Tensor:
    """Return the classifier's 128 features before its last layer, of pictures (n, 1, 28, 28)."""
    body = net[:-2].eval()  # without dropout and the last layer
    return torch.cat([body(part) for part in pictures.clamp(-1, 1).split(500)])


class Distance:
    """The Frechet distance to real pictures, of features (n, 128)."""

    def __init__(self, real: Tensor):
        self.metric = FrechetInceptionDistance(feature=Identity(), reset_real_features=False)
        self.metric.update(real, real=True)

    def __call__(self, drawn: Tensor) -> float:
        """Return the distance of so many drawn pictures."""
        self.metric.reset()
        self.metric.update(drawn, real=False)
        return float(self.metric.compute())


def trained(cache: Path, folder: Path, epochs: int) -> tuple[nn.Sequential, float]:
    """Return the classifier and its accuracy on the test images, trained once."""
    file = cache / f"classifier-{epochs}.pt"
    if not file.exists():
        net, accuracy = judge.train(folder, epochs, 0)
        torch.save({"net": net.state_dict(), "accuracy": accuracy}, file)
    saved, net = torch.load(file), judge.classifier()
    net.load_state_dict(saved["net"])
    return net, saved["accuracy"]


def resampled(distance: Distance, pair: list[Tensor], count: int) -> list[Tensor]:
    """Return the distances of bootstrap resamples: one tensor (count,) for each, drawn with the same indices."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(pair[0]), (len(pair[0]),), generator=generator) for _ in range(count)]
    return [torch.tensor([distance(x[index]) for index in rows]) for x in pair]


def row(solver: str, chunks: dict[str, list[dict[str, Any]]], net: Any, distance: Distance, resamples: int) -> Iterator:
    """Give the two lines of one solver."""
    pictures = {take: torch.cat([c["samples"] for c in chunks[take]]) for take in TAKES}
    pair = [features(net, pictures[take]) for take in TAKES]
    spread = resampled(distance, pair, resamples)
    plain = [distance(x) for x in pair]
    errors = relative_errors(pictures["parallel"], pictures["sequential"])
    difference = spread[1] - spread[0]
    for i, take in enumerate(TAKES):
        made, count = chunks[take], len(pictures[take])
        parallel = take == "parallel"
        made_iterations = torch.cat([c["iterations"] for c in made]).float() if parallel else None
        yield {
            "solver": solver,
            "take": take,
            "samples": str(count),
            "Frechet distance": f"{plain[i]:.3f} ± {spread[i].std():.3f}",
            "parallel minus sequential": f"{plain[1] - plain[0]:+.4f} ± {difference.std():.4f}" if parallel else "",
            "iterations": f"{made_iterations.mean():.2f}" if made_iterations is not None else "-",
            "span": f"{sum(c['span'] for c in made) / len(made):.0f}",
            "work / sample": f"{sum(c['work'] for c in made) / count:.0f}",
            "mean error": f"{errors.mean():.1e}" if parallel else "0",
            "worst error": f"{errors.max():.1e}" if parallel else "0",
        }


def table(cache: Path, solvers: list[str], chunks: int, folder: Path, epochs: int, resamples: int) -> tuple[str, str]:
    """Return the table of what has been drawn by both takes, and what to say of it; empty without any."""
    have = {s: [n for n in range(chunks) if all(Job(s, t, n).file(cache).exists() for t in TAKES)] for s in solvers}
    if not any(have.values()):
        return "", ""
    net, accuracy = trained(cache, folder, epochs)
    real = features(net, data.load("t10k", folder)[0])
    distance, rows = Distance(real), []
    for solver, numbers in have.items():
        if numbers:
            loaded = {t: [torch.load(Job(solver, t, n).file(cache)) for n in numbers] for t in TAKES}
            rows += row(solver, loaded, net, distance, resamples)
    seen = features(net, data.load("train", folder)[0][: 50 * CHUNK])
    note = (
        f"± is the standard deviation over {resamples} bootstrap resamples. 2 500 real training images are at a "
        f"distance of {distance(seen):.3f}. The classifier names {accuracy:.2%} of the test images right. Span is the "
        f"slowest sample's of {CHUNK} drawn together."
    )
    return markdown(rows), note


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/quality"), help="where samples are kept")
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--samples", type=int, default=2000, help=f"a row, in chunks of {CHUNK}")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tolerance", type=float, default=1e-2)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--epochs", type=int, default=4, help="of the classifier's training")
    parser.add_argument("--resamples", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="to draw for, at most")
    parser.add_argument("--device", default="cpu", help="where samples are drawn")
    parser.add_argument("--partial", action="store_true", help="judge what there is, even if chunks are missing")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/benchmarks.md")
    given = parser.parse_args()
    if given.samples < 1 or given.samples % CHUNK:
        parser.error(f"--samples must be a multiple of {CHUNK}, got {given.samples}")
    given.cache.mkdir(parents=True, exist_ok=True)
    chunks = given.samples // CHUNK
    jobs = [Job(s, t, n) for s in given.solvers for n in range(chunks) for t in TAKES]
    left = fill(jobs, given.cache, CHUNK, given.steps, given.tolerance, given.minutes, device_named(given.device))
    if left:
        print(f"{left} of {len(jobs)} chunks are missing: the same command goes on")
        if not given.partial:
            return
    text, note = table(given.cache, given.solvers, chunks, given.data, given.epochs, given.resamples)
    note += (
        f" {given.steps} steps, tolerance {given.tolerance:g}, {SLICES} slices. "
        f"Machine: {platform.machine()}, torch {torch.__version__}."
    )
    print(f"{text}\n\n{note}")
    if given.write:
        put(DOCS / "results/benchmarks.md", "quality", f"{text}\n\n{note.strip()}")


if __name__ == "__main__":
    main()
