import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops, weights, worst_error

from whet.passes.base import Coverage
from whet.passes.fusion.fold_into_normalization import FoldIntoNormalization
from whet.passes.quantization.smooth_activations import SmoothActivations
from whet.passes.workbench import Context, Workbench

STEP = SmoothActivations()
PARTS = weights(m1=(8, 6), m2=(8, 5), w=(6, 8), u=(6, 8), v=(8, 4), b=(8,), o=(8, 3))
GAINS = np.asarray([1, 1, 40, 1, 1, 0.2, 1, 3], np.float32)


def model_of(body: str, outputs: str, size: int = 8) -> onnx_ir.Model:
    constants = dict(PARTS) | {"g": GAINS, "one": np.float32(1)}
    used = {k: a for k, a in constants.items() if f" {k}," in body or f" {k})" in body}
    return build(f"(float[N,M,{size}] x) => ({outputs}) {{ {body} }}", used, opset=23)


def smooth(model: onnx_ir.Model, step: SmoothActivations = STEP, *, data: bool = True) -> Coverage:
    size = model.graph.inputs[0].shape[2]
    x = np.random.default_rng(0).standard_normal((4, 50, size)).astype(np.float32)
    context = Context(bindings=BINDINGS, calibration=({"x": x},) if data else ())
    work = Workbench(model, step, context)
    step.apply(work)
    return work.coverage


def smooths(model: onnx_ir.Model, count: int = 1, step: SmoothActivations = STEP) -> None:
    before, kinds = onnx_ir.to_proto(model), ops(model)
    coverage = smooth(model, step)
    assert not coverage.failures
    assert coverage.changed == count, coverage
    assert ops(model) == kinds
    assert worst_error(before, model) <= 1e-5
    assert smooth(model, step).changed == 0


NORMS = {
    "layer": "n = LayerNormalization(x, g, b)",
    "rms": "n = RMSNormalization(x, g)",
    "gain": "t = Tanh(x) n = Mul(t, g)",
}


@pytest.mark.parametrize("name", NORMS)
def test_readers_share_the_scales_of_what_they_read(name: str) -> None:
    body = f"{NORMS[name]} y = MatMul(n, m1) z = MatMul(n, m2)"
    smooths(model_of(body, "float[N,M,6] y, float[N,M,5] z"))


def test_an_outlier_leaves_the_activations() -> None:
    model = model_of("n = LayerNormalization(x, g, b) y = MatMul(n, m1)", "float[N,M,6] y")
    smooth(model)
    scale = model.graph[0].inputs[1].const_value.numpy()
    assert scale.max() / np.median(scale) < GAINS.max() / np.median(GAINS) / 4


def test_weights_of_few_bits_are_protected_where_activations_are_large() -> None:
    model = model_of("n = RMSNormalization(x, g) y = MatMul(n, m1)", "float[N,M,6] y")
    smooths(model, step=SmoothActivations(weight_bits=3, activation_bits=0))


def test_gated_projections() -> None:
    body = "a = MatMul(x, w) s = Sigmoid(a) c = MatMul(x, u) d = Mul(c, g) e = Mul(s, d) y = MatMul(e, v)"
    model = model_of(body, "float[N,M,4] y", size=6)
    before = onnx_ir.to_proto(model)
    coverage = smooth(model)
    assert not coverage.failures
    assert coverage.changed >= 1, coverage
    assert worst_error(before, model) <= 1e-5


def test_later_passes_do_not_undo_it() -> None:
    model = model_of("n = LayerNormalization(x, g, b) y = MatMul(n, m1)", "float[N,M,6] y")
    smooth(model)
    text = [v.const_value.tobytes() for v in model.graph.initializers.values()]
    FoldIntoNormalization().apply(Workbench(model, FoldIntoNormalization(), Context()))
    assert [v.const_value.tobytes() for v in model.graph.initializers.values()] == text


MISSES = {
    "n = LayerNormalization(x, g, b) p = Add(n, x) y = MatMul(p, m1)": "which is not scaled",
    "n = LayerNormalization(x, g, b) p = Add(n, x) q = MatMul(n, m1) r = MatMul(p, m1) y = Add(q, r)": "is shared",
    "t = Tanh(x) n = Mul(t, x) y = MatMul(n, m1)": "does not multiply by a constant vector",
    "n = LayerNormalization<axis=1>(x, g2) y = MatMul(n, m1)": "the last axis alone",
}  # fmt: skip


@pytest.mark.parametrize("body", MISSES)
def test_near_misses(body: str) -> None:
    model = model_of(body.replace("(x, g2)", "(x, g)"), "float[N,M,6] y")
    coverage = smooth(model)
    assert coverage.changed == 0
    assert any(MISSES[body] in reason for reason in coverage.near_misses.values()), coverage


def test_declines_without_data_and_without_a_gain() -> None:
    body = "n = LayerNormalization(x, g, b) y = MatMul(n, m1)"
    coverage = smooth(model_of(body, "float[N,M,6] y"), data=False)
    assert set(coverage.declined.values()) == {"needs calibration data"}
    flat = build(
        "(float[N,M,8] x) => (float[N,M,6] y) { n = RMSNormalization(x, one) y = MatMul(n, m) }",
        {"one": np.ones(8, np.float32), "m": np.zeros((8, 6), np.float32)},
        opset=23,
    )
    coverage = smooth(flat)
    assert coverage.changed == 0
    assert any("no scale lowers the error" in r for r in coverage.declined.values())
