"""Small models for tests of the TVM target, which is skipped where TVM is not installed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

from whet.backends.base import RuntimeOptions, find_target
from whet.ir.execute import Executor
from whet.ir.prepare import normalize

pytest.importorskip("tvm", reason="TVM is not installed (pip install 'whet[tvm]')")


def parsed(text: str, weights: Mapping[str, np.ndarray] | None = None) -> onnx_ir.Model:
    """Return a model of ONNX's own text form, its weights given by name."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g {text}')
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return normalize(onnx_ir.from_proto(proto))


def both(
    model: onnx_ir.Model, folder: Path, feeds: Mapping[str, np.ndarray], target: str = "tvm"
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what TVM computes, and what ONNX Runtime does."""
    folder.mkdir(parents=True, exist_ok=True)
    settled, fixed = find_target(target).settle(model, feeds, {}, 0)
    settled.lower(fixed, folder)
    found = settled.open(folder / "model.onnx", RuntimeOptions(threads=2)).run(feeds)
    return found, list(Executor(folder / "model.onnx").run(feeds))


def same(model: onnx_ir.Model, folder: Path, feeds: Mapping[str, np.ndarray]) -> None:
    """Compare the two."""
    for got, want in zip(*both(model, folder, feeds), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Return numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
