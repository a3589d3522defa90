import numpy as np
import pytest
from folding import build

from whet.analysis import activations
from whet.analysis.activations import Sampler, observe

TEXT = "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Exp(a) y = Relu(a) }"
BATCHES = (
    {"x": np.asarray([[1, 2, 3]], np.float32)},
    {"x": np.asarray([[-4, 0, 0.5], [1, 1, 1]], np.float32)},
)


def test_values_are_streamed_in_chunks_and_the_model_is_left_alone() -> None:
    model = build(TEXT)
    found = [(name, a.shape) for name, a in observe(model, ["a", "b", "y"], BATCHES, chunk=2)]
    assert found == [
        ("a", (1, 3)), ("b", (1, 3)), ("a", (2, 3)), ("b", (2, 3)), ("y", (1, 3)), ("y", (2, 3)),
    ]  # fmt: skip
    assert [v.name for v in model.graph.outputs] == ["y"]


def test_the_sampler_sees_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_CHUNK", 1)
    model = build(TEXT)
    sample = Sampler(model, ["a", "b"], BATCHES[0])
    model.graph[0].op_type = "Abs"
    assert sample("unknown") is None
    found = sample("a")
    assert found is not None
    assert found.tolist() == [[-1, -2, -3]]
    assert sample("b") is not None
