"""`parareal plan`: whether sampling in parallel in time pays on this machine, and with which setting."""

import argparse
from collections.abc import Callable

import torch

from parareal_diffusers import models
from parareal_diffusers._sampling.plan import plan


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Plan for the shipped network: time calls, learn iterations, simulate, and advise."""
    parser.add_argument("--steps", type=int, default=100, help="DDIM steps")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error of the final state")
    parser.add_argument("--samples", type=int, default=2, help="samples to learn from")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    return run


def run(options: argparse.Namespace) -> int:
    """Print the plan."""
    if not 1 <= options.steps <= 1000:
        raise ValueError(f"--steps must be between 1 and 1000, the steps the model was trained on, got {options.steps}")
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {options.samples}")
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    net, scheduler = models.load("fashion-mnist")
    noise = torch.randn(options.samples, 1, 28, 28, generator=torch.Generator().manual_seed(options.seed))
    found = plan(
        net,
        noise,
        scheduler,
        num_inference_steps=options.steps,
        model_kwargs={"class_labels": torch.arange(options.samples) % 10},
        tolerance=options.tolerance,
        progress=True,
    )
    print(f"{options.steps} steps, tolerance {options.tolerance:g}, {torch.get_num_threads()} thread(s); seconds\n")
    print(found.explain())
    return 0
