"""Training of the class-conditional networks that the package ships.

    python examples/fashion_mnist/train.py --out runs/fashion    # 77 minutes on two cores
    python examples/fashion_mnist/train.py --out runs/flow --objective flow --steps 1200 --batch 96    # 47 on one core

The first network predicts noise. The second, a smaller one, predicts the velocity of a rectified flow; it starts from
the weights of the first in the layers that both have.

The result is a function of the seed alone: the random numbers of a step depend on the seed and the step's number, so an
interrupted run that is resumed draws the same batches. A checkpoint is written every `--every` steps, and the same
command continues from it. Writes the averaged weights as float16, in the folder format of diffusers, and prints the
smoothed training loss.
"""

import argparse
import math
from pathlib import Path

import torch
from data import FOLDER, NO_CLASS, load
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import EMAModel
from parareal_diffusers import models
from tqdm import trange


def build_network(objective: str = "noise") -> UNet2DModel:
    """Return the untrained network for 28 x 28 grey images: 2.74 million parameters, or 1.91 million for a flow."""
    small = objective == "flow"
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D" if small else "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        mid_block_type=None if small else "UNetMidBlock2D",
        norm_num_groups=8,
        num_class_embeds=NO_CLASS + 1,
    )


def initialise(objective: str) -> UNet2DModel:
    """Return the network at the start of training.

    A flow's network starts from the weights of the shipped network that predicts noise, where it has the same layers.
    """
    net = build_network(objective)
    if objective == "flow":
        weights, own = models.load("fashion-mnist")[0].state_dict(), net.state_dict()
        net.load_state_dict({name: weights[name] for name in own})
    return net


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def add_noise(scheduler, clean, noise, share):
    """Return noisy states, their timesteps, and the target of the network's prediction.

    The target is the noise (Ho, Jain, Abbeel 2020, eq. 14), or the velocity of the straight line from noise to clean
    (Liu, Gong, Liu 2023, eq. 1; Lipman et al. 2023), whose time is not rounded to whole timesteps.

    Args:
        scheduler: the scheduler, which determines the objective.
        clean: training images, shape (rows, 1, 28, 28).
        noise: standard noise, of the same shape.
        share: times as shares of the whole interval, shape (rows,).
    """
    if isinstance(scheduler, DDIMScheduler):
        timesteps = (share * scheduler.config["num_train_timesteps"]).long()
        return scheduler.add_noise(clean, noise, timesteps), timesteps, noise
    sigma = share[:, None, None, None]
    return (1 - sigma) * clean + sigma * noise, share * scheduler.config["num_train_timesteps"], noise - clean


def compute_loss(net, scheduler, images, labels, generator, batch, drop):
    """Return the mean squared error of the prediction on one random batch."""
    rows = torch.randint(len(images), (batch,), generator=generator)
    clean = images[rows].contiguous(memory_format=torch.channels_last)
    noise = torch.randn(clean.shape, generator=generator)
    # One time from each of `batch` equal strata: the same expectation as independent ones, a smaller variance.
    share = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    state, timesteps, target = add_noise(scheduler, clean, noise, share)
    # Labels that are dropped train the unconditional prediction, which guidance needs.
    dropped = torch.rand(batch, generator=generator) < drop
    classes = torch.where(dropped, NO_CLASS, labels[rows])
    with torch.autocast("cpu", torch.bfloat16):
        predicted = net(state, timesteps, class_labels=classes).sample
    return (predicted.float() - target).square().mean()


def main() -> None:
    """Train the network, from a checkpoint if there is one, and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of the exported model")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--objective", choices=["noise", "flow"], default="noise", help="prediction")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--drop", type=float, default=0.1, help="share of labels that are dropped")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    net = initialise(options.objective)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload], torch's stubs want a dtype first
    average = EMAModel(net.parameters(), decay=0.9995, use_ema_warmup=True, power=3 / 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, weight_decay=0.01, fused=True)
    noise = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler = FlowMatchEulerDiscreteScheduler() if options.objective == "flow" else noise
    images, labels = load("train", options.data)

    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.pt"
    first, smooth = 0, None
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, smooth = saved["step"], saved["loss"]

    progress = trange(first, options.steps, initial=first, total=options.steps, mininterval=5)
    for step in progress:
        # A generator per step, not one for the run: a resumed run then draws the same batches.
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        loss = compute_loss(net, scheduler, images, labels, generator, options.batch, options.drop)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(net.parameters())
        smooth = loss.item() if smooth is None else 0.99 * smooth + 0.01 * loss.item()
        progress.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            state = {"net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            # Renamed when complete, so that an interruption cannot leave a broken checkpoint.
            partial = checkpoint.with_suffix(".partial")
            torch.save(state | {"step": step + 1, "loss": smooth}, partial)
            partial.rename(checkpoint)

    average.copy_to(net.parameters())
    net.half().save_pretrained(options.out / "model", safe_serialization=True)
    scheduler.save_pretrained(options.out / "model")
    print(f"averaged weights in {options.out / 'model'}; smoothed training loss {smooth:.4f}")


if __name__ == "__main__":
    main()
