"""`parareal plan`: a prediction of whether sampling in parallel in time is faster on this machine, and how."""

import argparse
from collections.abc import Callable

import torch

from parareal_diffusers import models
from parareal_diffusers._sampling.options import check_plan_tolerance
from parareal_diffusers._sampling.plan import plan


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Plan for the shipped network: time its calls, count iterations, simulate settings, and advise."""
    # The first line of the docstring is the subcommand's help text.
    parser.add_argument("--steps", type=int, default=100, help="number of DDIM steps")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative error of the final state")
    parser.add_argument("--samples", type=int, default=2, help="number of samples whose iterations are counted")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; by default torch's choice")
    return run


def run(options: argparse.Namespace) -> int:
    """Print the plan; return the exit status.

    Raises:
        ValueError: for an invalid option; the command line prints the message.
    """
    if not 1 <= options.steps <= 1000:
        raise ValueError(
            f"--steps must be between 1 and 1000, the steps the model was trained on, but was {options.steps}"
        )
    check_plan_tolerance("--tolerance", options.tolerance)
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, but was {options.samples}")
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads must be at least 1, but was {options.threads}")
        torch.set_num_threads(options.threads)
    net, scheduler = models.load("fashion-mnist")
    noise = torch.randn(options.samples, 1, 28, 28, generator=torch.Generator().manual_seed(options.seed))
    advice = plan(
        net,
        noise,
        scheduler,
        num_inference_steps=options.steps,
        model_kwargs={"class_labels": torch.arange(options.samples) % 10},
        tolerance=options.tolerance,
        progress=True,
    )
    print(
        f"{options.steps} steps, tolerance {options.tolerance:g}, {torch.get_num_threads()} thread(s); times in "
        "seconds\n"
    )
    print(advice.explain())
    return 0
