"""Trained models: the twin agrees with ONNX Runtime in float32, and with itself in float64."""

import os
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
ASSETS = SHARED / "assets"


def uniform(*shape: int, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32) * np.float32(high)


def speech() -> dict[str, np.ndarray]:
    return {
        "input": uniform(2, 576, high=0.1),
        "state": uniform(2, 2, 128, high=0.1),
        "sr": np.array(16000, np.int64),
    }


FEEDS = {
    "resnet_cifar10/resnet20.onnx": {"x": uniform(2, 3, 32, 32)},
    "mlperf_tiny_resnet8/resnet8.onnx": {"x": uniform(2, 3, 32, 32, high=255)},
    "stories260k/stories260k.onnx": {
        "input_ids": np.random.default_rng(0).integers(0, 512, (2, 17))
    },
    "super_resolution/ngswin_x2.onnx": {"lr": uniform(1, 3, 64, 64)},
    "super_resolution/rlfn_x4.onnx": {"lr": uniform(1, 3, 24, 20)},
    "silero_vad/silero_vad.onnx": speech(),
    "silero_vad/silero_vad_op18_ifless.onnx": speech(),
    "mnist/mnist.onnx": {"Input3": uniform(1, 1, 28, 28, high=255)},
    "mnist/cnn_mnist_pytorch.onnx": {"0": uniform(1, 1, 28, 28, high=255)},
}

# ONNX Runtime's Sigmoid is off by 3e-6 of the largest value far below zero, and the next layers
# amplify that; the float64 twin stands on the float32 twin's side.
TOLERANCE = {"super_resolution/rlfn_x4.onnx": 1e-4}


def disagreement(actual: np.ndarray, expected: np.ndarray) -> float:
    largest = np.abs(expected).max()
    return float(np.abs(actual - expected).max() / largest)


@pytest.mark.parametrize("name", list(FEEDS))
def test_twin_matches_onnxruntime(name: str) -> None:
    path = ASSETS / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    feeds = FEEDS[name]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    model = onnx_ir.load(path)
    inputs = [
        torch.from_numpy(feeds[value.name]) if value.name in feeds else None
        for value in model.graph.inputs
    ]
    with torch.no_grad():
        single = twin_package.to_fx(model)(*inputs)
        double = twin_package.to_fx(model, dtype=torch.float64)(*inputs)
    for one, two, wanted in zip(single, double, expected, strict=True):
        assert two.dtype is torch.float64
        assert disagreement(one.numpy(), wanted) < TOLERANCE.get(name, 1e-5)
        assert disagreement(one.numpy(), two.numpy()) < 1e-5
