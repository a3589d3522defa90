from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
import pytest
from choosing import ONLY_PLAIN, TIE, Executing
from fake_prices import FakePrices
from folding import build, ops, weights

from whet.analysis.prices import Prices
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.onnxruntime.run_batch_in_parts import RunBatchInParts
from whet.passes.workbench import Context, Workbench

STEP = RunBatchInParts()
BINDINGS = Bindings(({"N": 32, "M": 3}, {"N": 5, "M": 2}))
CONSTANTS = weights(w=(8, 8), b=(8,))
PLAIN = "(float[N,M,8] x, float[M,8] t) => (float[N,M,8] y) { h = MatMul(x, w) s = Add(h, t) y = Softmax(s) }"
DYNAMIC = "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)"
FAST = FakePrices(lambda _work, name: 0.5 if name == "parts of 4" else 1.0)


def apply(model: onnx_ir.Model, prices: Prices | None = FAST) -> Coverage:
    work = Workbench(model, STEP, Context(bindings=BINDINGS, prices=prices))
    STEP.apply(work)
    verify(model)
    return work.coverage


def outputs(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return list(Executor(proto).run(feeds))


def test_any_batch_gives_what_the_whole_gives() -> None:
    model = build(PLAIN, CONSTANTS)
    before = onnx_ir.to_proto(model)
    coverage = apply(model)
    assert (coverage.matched, coverage.changed) == (1, 1), coverage
    assert ops(model).count("Scan") == 1
    assert "MatMul" not in ops(model)
    after = onnx_ir.to_proto(model)
    rng = np.random.default_rng(0)
    for batch in (1, 2, 3, 4, 5, 7, 8, 9, 31, 33):
        feeds = {
            "x": rng.standard_normal((batch, 2, 8)).astype(np.float32),
            "t": rng.standard_normal((2, 8)).astype(np.float32),
        }
        for old, new in zip(outputs(before, feeds), outputs(after, feeds), strict=True):
            np.testing.assert_allclose(old, new, atol=1e-6)


def test_what_races_computes_the_same() -> None:
    prices = Executing()
    assert apply(build(PLAIN, CONSTANTS), prices).changed == 1
    assert len(prices.asked) == 1


def test_several_inputs_and_outputs_and_sizes_inside() -> None:
    text = (
        "(float[N,M,8] x, float[N] k) => (float[N,8] y, float[N,M,8] z) "
        "{ z = Relu(x) n = Shape<start=0, end=1>(x) e = Concat<axis=0>(n, minus) "
        "f = Reshape(k, e) m = ReduceMean<keepdims=0>(z, one) y = Add(m, f) }"
    )
    constants = {"minus": np.asarray([-1]), "one": np.asarray([1])}
    model = build(text, constants)
    before = onnx_ir.to_proto(model)
    coverage = apply(model)
    assert coverage.changed == 1, coverage
    feeds = BINDINGS.feeds(model, 0)
    for old, new in zip(
        outputs(before, feeds), outputs(onnx_ir.to_proto(model), feeds), strict=True
    ):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_a_second_run_changes_nothing() -> None:
    model = build(PLAIN, CONSTANTS)
    apply(model)
    again = apply(model)
    assert again.changed == 0
    assert "cannot be repeated for parts" in next(iter(again.declined.values()))


def test_what_mixes_samples_is_refuted_by_its_proof() -> None:
    text = (
        "(float[N,M,8] x) => (float[N,M,8] y) { m = ReduceMax<keepdims=1>(x, zero) y = Sub(x, m) }"
    )
    model = build(text, {"zero": np.asarray([0])})
    coverage = apply(model)
    assert coverage.changed == 0
    assert len(coverage.failures) == 1
    assert "Scan" not in ops(model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[4,8] x) => (float[4,8] y) { y = Relu(x) }", "do not share a symbolic first"),
        ("(float[M,8] x, float[N,8] k) => (float[M,N] y) { t = Transpose(k) y = MatMul(x, t) }", "3 samples"),
        ("(float[N,8] x) => (float[N,N] y) { t = Transpose(x) y = MatMul(x, t) }", "in another place"),
        ("(float[N,8] x, float[8,N] k) => (float[N,8] y) { t = Transpose(k) y = Add(x, t) }", "in another place"),
        (f"(float[N,8] x) => (float[N,8] y) {{ {DYNAMIC} }}", "looks at all samples together"),
        ("(float[N,8] x) => (float[N,8] y) { r = RandomNormalLike(x) y = Add(x, r) }", "cannot be repeated"),
    ],
)  # fmt: skip
def test_declines_say_why(text: str, reason: str) -> None:
    model = build(text)
    before = ops(model)
    coverage = apply(model)
    assert coverage.changed == 0
    assert not coverage.failures
    assert reason in next(iter(coverage.declined.values()))
    assert ops(model) == before


def test_old_operator_sets_have_no_ranges_of_shapes() -> None:
    coverage = apply(build("(float[N,8] x) => (float[N,8] y) { y = Relu(x) }", opset=14))
    assert "opset 14" in next(iter(coverage.declined.values()))


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        (None, "nothing may be measured"),
        (TIE, "it takes 0.96 ms, whole 1 ms"),
        (ONLY_PLAIN, "does not run it in parts"),
    ],
)
def test_no_gain(prices: Prices | None, reason: str) -> None:
    coverage = apply(build(PLAIN, CONSTANTS), prices)
    assert coverage.changed == 0
    assert reason in next(iter(coverage.declined.values()))
