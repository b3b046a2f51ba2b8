r"""Acceptance test of a trained model: the share of samples that a classifier assigns to the requested class.

    python examples/fashion_mnist/accept.py --model runs/fashion/model \\
        --classifier runs/classifier.pt --out runs/accept.png

Draws 500 guided samples, 50 per class, with the model's own unmodified scheduler. Prints the share per class and in
total. Writes an image of the first ten samples per class, one row per class. Takes about three minutes on two cores.
"""

import argparse
from pathlib import Path

import torch
from classifier import build_classifier
from data import NO_CLASS
from matplotlib import image
from parareal_diffusers.models import load_folder
from tqdm import tqdm


@torch.no_grad()
def draw(net, scheduler, labels, steps, scale, generator):
    """Return guided samples, one per label, shape (labels, 1, 28, 28)."""
    x = torch.randn(len(labels), 1, 28, 28, generator=generator)
    # Unguided and guided halves are evaluated in one call.
    both = torch.cat([torch.full_like(labels, NO_CLASS), labels])
    scheduler.set_timesteps(steps)
    for t in tqdm(scheduler.timesteps, desc="samples", leave=False):
        unconditional, conditional = net(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
        x = scheduler.step(unconditional + scale * (conditional - unconditional), t, x).prev_sample
    return x


def main():
    """Draw samples, classify them, print the shares, and write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--classifier", type=Path, required=True, help="file of classifier.py")
    parser.add_argument("--out", type=Path, required=True, help="file of the image")
    parser.add_argument("--steps", type=int, default=50, help="steps of the scheduler")
    parser.add_argument("--scale", type=float, default=2.0, help="guidance scale")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    options = parser.parse_args()
    net, scheduler = load_folder(options.model)
    judge = build_classifier()
    saved = torch.load(options.classifier)
    judge.load_state_dict(saved["net"])
    judge.eval()
    generator = torch.Generator().manual_seed(options.seed)
    labels = torch.arange(10).repeat_interleave(50)
    samples = torch.cat(
        [draw(net, scheduler, part, options.steps, options.scale, generator) for part in labels.split(50)]
    )
    with torch.no_grad():
        correct = judge(samples).argmax(1) == labels
    for label in range(10):
        print(f"class {label}: {correct[labels == label].float().mean():.0%}")
    print(
        f"the classifier ({saved['test_accuracy']:.2%} on the real test images) names the requested class of "
        f"{correct.float().mean():.1%} of {len(labels)} samples (guidance {options.scale}, {options.steps} steps)"
    )
    grid = samples.reshape(10, 50, 28, 28)[:, :10].permute(0, 2, 1, 3).reshape(280, 280)
    image.imsave(options.out, grid.clamp(-1, 1).numpy(), cmap="gray", vmin=-1, vmax=1)


if __name__ == "__main__":
    main()
