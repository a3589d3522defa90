"""Make what the build starts from: a trained network as ONNX, data to calibrate with, and data to judge by."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


def main() -> None:
    """Train on digits for a few seconds."""
    torch.manual_seed(0)
    data = load_digits()
    x = (data.images[:, None] / 16).astype(np.float32)
    y = data.target
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    inputs, labels = torch.from_numpy(x[:1200]), torch.from_numpy(y[:1200])
    for _ in range(6):
        for rows in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    program = torch.onnx.export(
        model.eval(), (inputs[:2],), dynamic_shapes=({0: "batch"},), dynamo=True, verbose=False
    )
    assert program is not None
    program.save("model.onnx")
    np.savez("calibration.npz", **{program.model.graph.inputs[0].name: x[:256]})
    np.savez("labels.npz", labels=y[1200:], **{program.model.graph.inputs[0].name: x[1200:]})


if __name__ == "__main__":
    main()
