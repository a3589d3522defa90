"""Compile a PyTorch vision model: a small residual network that reads handwritten digits.

``python examples/02_vision_model.py`` trains it (a few seconds), compiles it to int8 and prints the report.
Everything comes with scikit-learn; nothing is downloaded.

What one needs to know about a vision model is little: an example input, which of its axes are free, some real images
to find the ranges of activations (``calibration``), and images with labels to see what it costs (``labels``).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn

import whet

Arrays = tuple[np.ndarray, np.ndarray]


class Block(nn.Module):
    """Two convolutions and the sum with what went in, as in ResNet."""

    def __init__(self, channels: int) -> None:
        """Batch normalization is there to be folded away."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, channels, height, width] to the same."""
        return torch.relu(x + self.body(x))


class Digits(nn.Module):
    """Map images [batch, 1, 8, 8], 0 to 1, to ten scores."""

    def __init__(self, channels: int = 32) -> None:
        """About 60 thousand weights with 32 channels."""
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU6())
        self.blocks = nn.Sequential(Block(channels), nn.MaxPool2d(2), Block(channels))
        self.leave = nn.Linear(4 * channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Score the ten digits."""
        states = self.blocks(self.enter(x))
        return self.leave(nn.functional.max_pool2d(states, 2).flatten(1))


def images() -> tuple[Arrays, Arrays]:
    """Return images and labels to train with, and to test with."""
    data = load_digits()
    x = (data.images[:, None] / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    seen, unseen = order[:1200], order[1200:]
    return (x[seen], data.target[seen]), (x[unseen], data.target[unseen])


def train(model: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """Minimize the cross entropy."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


def trained(epochs: int = 6, channels: int = 32) -> nn.Module:
    """Return a trained network; the same one each time."""
    torch.manual_seed(0)
    model = Digits(channels)
    train(model, *images()[0], epochs)
    return model


def make() -> tuple[nn.Module, tuple[torch.Tensor], dict[str, dict[int, str]]]:
    """Return the network, an example and its free axes: what ``whet compile 02_vision_model:make`` calls."""
    return trained(), (torch.from_numpy(images()[1][0][:2]),), {"x": {0: "batch"}}


def main() -> None:
    """Train, compile, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/digits"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--recipe", default="auto")
    options = parser.parse_args()
    console = Console(width=100)
    (x, _), (test_x, test_y) = images()
    model = trained(options.epochs, options.channels)

    # `dynamic_shapes` says that the first axis of the first input is a batch of any size: every rewrite is then
    # proven at two sizes of it. Without it the artifact takes exactly the example's shape.
    #
    # Calibration images set the grids of activations; a tenth of them is held out and judges every layer. Labelled
    # images, which calibration has not seen, give top-1 accuracy before and after.
    artifact = whet.compile(
        model,
        (torch.from_numpy(x[:2]),),
        dynamic_shapes=({0: "batch"},),
        calibration={"x": x[:256]},
        labels={"x": test_x, "labels": test_y},
        recipe=options.recipe,
        output=options.output,
    )

    # The report tells which passes did what. Look for three things: BatchNormalization is folded into the
    # convolutions (fold-batch-norm, proven to rounding), the convolutions are int8 (quantize-static) if that was
    # measured to be faster on this machine, and the metric hardly moved. A pass that made things worse is taken back,
    # and the reason is printed.
    artifact.report.print(console)

    # An artifact runs wherever whet and ONNX Runtime are installed, on arrays or tensors.
    image = torch.from_numpy(test_x[:1])
    (scores,) = whet.load(options.output).run(image)
    with torch.no_grad():
        expected = int(model(image).argmax())
    console.print(
        f"\nthe first test image is a {test_y[0]}; PyTorch says {expected}, the artifact {scores.argmax()}"
    )
    console.print(f"the page with everything: {options.output / 'report.html'}")


if __name__ == "__main__":
    main()
