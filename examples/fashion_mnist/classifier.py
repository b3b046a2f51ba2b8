"""Training of a small classifier on the real images, by which samples are judged.

    python examples/fashion_mnist/classifier.py --out runs/classifier.pt    # two minutes on two cores

Writes the weights, and prints the accuracy on the 10 000 real test images, which are not used in training.
"""

import argparse
from pathlib import Path

import torch
from data import FOLDER, load
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm


def build_classifier() -> nn.Sequential:
    """Return the untrained network, from 28 x 28 grey images in [-1, 1] to 10 logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 49, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that the network classifies correctly."""
    net.eval()
    correct = [(net(x).argmax(1) == y).float().sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(torch.stack(correct).sum() / len(images))


def train(data: Path, epochs: int, seed: int) -> tuple[nn.Module, float]:
    """Train the classifier; return it and its accuracy on the real test images.

    Args:
        data: folder of the data set.
        epochs: passes over the 60 000 training images.
        seed: of weights, order and flips.
    """
    torch.manual_seed(seed)
    images, labels = load("train", data)
    net = build_classifier()
    batches = epochs * (len(images) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=batches)
    progress = tqdm(total=batches, desc="classifier")
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: batches // epochs * 128].split(128):
            x = images[rows]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            loss = functional.cross_entropy(net.train()(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    progress.close()
    return net, accuracy(net, *load("t10k", data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the weights")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    options = parser.parse_args()
    net, share = train(options.data, options.epochs, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"net": net.state_dict(), "test_accuracy": share}, options.out)
    print(f"accuracy on the real test images: {share:.2%}")
