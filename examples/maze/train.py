"""Training of the maze planner that the package ships.

    python examples/maze/train.py --out runs/maze    # seven minutes on one core

The result is a function of the seed. Writes the averaged weights as float16, in the folder format of diffusers, and
prints the smoothed training loss.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.training_utils import EMAModel
from mazes import POINTS, build_plans
from parareal_diffusers.models._planner import Planner
from torch import Tensor
from tqdm import trange


def build_scheduler() -> DDIMScheduler:
    """Return the scheduler: 1000 training steps.

    Each DDIM step arrives at the node from which the next one leaves, for 100 and for 1000 steps.
    """
    return DDIMScheduler(clip_sample=False, prediction_type="v_prediction", timestep_spacing="leading")


def compute_loss(net: Planner, scheduler: DDIMScheduler, clean: Tensor, ends: Tensor, generator: torch.Generator):
    """Return the mean squared error of the predicted velocity (Salimans, Ho 2022, section 4), on a batch of plans."""
    rows = len(clean)
    # One timestep from each of `rows` equal strata: the same expectation as independent ones, a smaller variance.
    share = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    timesteps: Any = (share * len(scheduler.alphas_cumprod)).long()
    noise = torch.randn(clean.shape, generator=generator)
    target = scheduler.get_velocity(clean, noise, timesteps)
    predicted = net(scheduler.add_noise(clean, noise, timesteps), timesteps, ends=ends)
    return (predicted - target).square().mean()


def main() -> None:
    """Train the planner and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--steps", type=int, default=10_000, help="training steps")
    parser.add_argument("--batch", type=int, default=256, help="plans per step")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--plans", type=int, default=50_000, help="number of different training plans")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    clean, ends = build_plans(options.plans, options.seed)
    net, scheduler = Planner(POINTS), build_scheduler()
    average = EMAModel(net.parameters(), decay=0.999, use_ema_warmup=True, power=3 / 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.0)
    rate_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=options.rate, total_steps=options.steps)
    smooth = None
    progress = trange(options.steps, mininterval=5)
    for _ in progress:
        rows = torch.randint(len(clean), (options.batch,), generator=generator)
        loss = compute_loss(net, scheduler, clean[rows], ends[rows], generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate_schedule.step()
        average.step(net.parameters())
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
    average.copy_to(net.parameters())
    net.half().save_pretrained(options.out, safe_serialization=True)
    scheduler.save_pretrained(options.out)
    print(f"averaged weights in {options.out}; smoothed training loss {smooth:.4f}")


if __name__ == "__main__":
    main()
