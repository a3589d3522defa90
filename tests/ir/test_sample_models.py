"""The sample models that every pass is tried on are themselves valid, finite and runnable."""

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
from strategies import random_feeds

from whet.ir.text import parse_model, print_model
from whet.ir.verify import verify

MODELS = sorted((Path(__file__).resolve().parents[1] / "models").glob("*.txt"))
OPAQUE = {"custom_op"}

each_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def run(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_there_are_sample_models():
    assert len(MODELS) >= 16


@each_model
def test_sample_model_verifies_and_round_trips(path):
    model = parse_model(path.read_text(encoding="utf-8"))
    verify(model)
    text = print_model(model)
    assert print_model(parse_model(text)) == text


@each_model
@pytest.mark.parametrize("size", [1, 3])
def test_sample_model_runs_in_onnx_runtime(path, size):
    if path.stem in OPAQUE:
        pytest.skip("holds an operator that no runtime knows")
    model = parse_model(path.read_text(encoding="utf-8"))
    bindings = dict.fromkeys("BNST", size) | {"H": 6 + size, "W": 5 + size}
    outputs = run(model, random_feeds(model, seed=1, bindings=bindings))
    assert len(outputs) == len(model.graph.outputs)
    for value, array in zip(model.graph.outputs, outputs, strict=True):
        assert np.isfinite(array).all(), value.name
        assert np.ptp(array) > 0, value.name
        for declared, actual in zip(value.shape, array.shape, strict=True):
            expected = declared if isinstance(declared, int) else bindings.get(declared.value)
            assert expected in (None, actual), value.name
