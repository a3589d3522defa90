import numpy as np
import onnx_ir
import pytest
import torch

from whet.errors import Mismatch
from whet.ir.text import parse_model
from whet.ir.twin import run_observed, to_fx
from whet.passes.quantization.algorithms.adaround import Schedule
from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.arrays import affine
from whet.passes.quantization.algorithms.formats import UINT8
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.reconstruction import read_layer, reconstruct

TEXT = """
model {ir_version=10, opset={"": 20}}

graph small(x: float32[N, 3, 6, 6]) -> (y: float32[N, 5]) {
  w = float32[8, 3, 3, 3] <sha256:c001>
  b = float32[8] <sha256:c002>
  u = float32[8, 2, 3, 3] <sha256:c003>
  m = float32[128, 6] <sha256:c004>
  g = float32[6, 5] <sha256:c005>
  h = float32[5] <sha256:c006>
  c: float32[N, 8, 6, 6] = Conv(x, w, b) {pads=[1, 1, 1, 1]} @"first"
  r: float32[N, 8, 6, 6] = Relu(c)
  d: float32[N, 8, 4, 4] = Conv(r, u) {group=4} @"second"
  f: float32[N, 128] = Flatten(d)
  p: float32[N, 6] = MatMul(f, m) @"third"
  q: float32[N, 6] = Relu(p) @"relu"
  y = Gemm(q, g, h) @"fourth"
}
"""
NAMES = ("first", "second", "third", "fourth")


def model():
    return parse_model(TEXT)


def images(count=128, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6)).astype(np.float32)


def batches():
    return [{"x": images()[:64]}, {"x": images()[64:]}]


def layers():
    return {n.name: read_layer(n) for n in model().graph if n.name in NAMES}


def with_weights(found):
    changed = model()
    for node in changed.graph:
        if node.name in found:
            layer = read_layer(node)
            array = layer.stored(found[node.name].values())
            node.inputs[1].const_value = onnx_ir.tensor(array, name=layer.weight)
    return changed


def outputs(which, x):
    with torch.no_grad():
        return run_observed(to_fx(which), (torch.from_numpy(x),), {})[0].numpy()


def test_layers_are_read_with_their_activation():
    found = layers()
    assert [found[n].output for n in NAMES] == ["r", "d", "q", "y"]
    shapes = [found[n].matrix().shape for n in NAMES]
    assert shapes == [(8, 27), (8, 18), (6, 128), (5, 6)]
    for layer in found.values():
        array = layer.node.inputs[1].const_value.numpy()
        np.testing.assert_array_equal(layer.stored(layer.matrix()), array)


def test_the_whole_model_comes_nearer_than_by_rounding_to_the_nearest():
    start = {n: lambda m: round_to_nearest(Layer(m), 3) for n in NAMES}
    nearest = {n: round_to_nearest(Layer(layer.matrix()), 3) for n, layer in layers().items()}
    found = reconstruct(model(), batches(), start, schedule=Schedule(steps=150, rate=0.05))
    assert list(found) == list(NAMES)
    fresh = images(seed=1)
    wanted = outputs(model(), fresh)
    errors = [np.square(outputs(with_weights(w), fresh) - wanted).mean() for w in (found, nearest)]
    assert errors[0] < errors[1]


def test_rounded_activations_are_what_later_layers_are_fitted_on():
    """A coarse grid behind the first layer changes what the second one is rounded to."""
    start = {"second": lambda m: round_to_nearest(Layer(m), 3)}
    short = Schedule(steps=40, rate=0.05)
    coarse = {"r": affine(0.0, 1.0, UINT8), "unknown": affine(0.0, 1.0, UINT8)}
    first = reconstruct(model(), batches(), start, schedule=short)["second"]
    second = reconstruct(model(), batches(), start, activations=coarse, schedule=short)["second"]
    assert not np.array_equal(first.codes, second.codes)


def test_the_same_data_give_the_same_codes_and_the_model_is_left_alone():
    given = model()
    before = [v.const_value.numpy().copy() for v in given.graph.initializers.values()]
    start = {n: lambda m: round_to_nearest(Layer(m), 3) for n in NAMES}
    runs = [reconstruct(given, batches(), start, schedule=Schedule(steps=10)) for _ in range(2)]
    for name in NAMES:
        np.testing.assert_array_equal(runs[0][name].codes, runs[1][name].codes)
    for old, value in zip(before, given.graph.initializers.values(), strict=True):
        np.testing.assert_array_equal(old, value.const_value.numpy())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MatMul(f, m)", "MatMul(m2, m)", None),
        ("MatMul(f, m)", "Mul(f, m)", "Mul is no layer"),
        ("MatMul(f, m)", "MatMul(f, f)", "not a constant"),
        ("m = float32[128, 6]", "m = float32[1, 128, 6]", "3 dimensions"),
        ("Gemm(q, g, h)", "Gemm(q, g, f)", "the bias is not a constant"),
    ],
)
def test_what_is_no_layer(old, new, message):
    text = TEXT.replace(old, new.replace("m2", "f"))
    for node in parse_model(text).graph:
        if node.name not in ("third", "fourth"):
            continue
        if message is None or (node.name == "third") == ("bias" in message):
            read_layer(node)
            continue
        if node.name == "third" or "bias" in message:
            with pytest.raises(Mismatch, match=message):
                read_layer(node)


def test_a_name_that_is_no_layer():
    with pytest.raises(Mismatch, match="Relu is no layer"):
        reconstruct(model(), batches(), {"relu": lambda m: round_to_nearest(Layer(m), 3)})
