import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops

from whet.errors import Mismatch
from whet.passes.base import Damage
from whet.passes.proposal import Builder
from whet.passes.quantization.quantize_codebooks import QuantizeCodebooks
from whet.passes.quantization.weight_readers import (
    OperandSamples,
    matched_weights,
    replace_weight,
)
from whet.passes.workbench import Context, Workbench

TEXT = """(float[N,5] x, float[N,5] c) => (float[N,5] y, float[N,5] z, float[N,5] u)
{ a = MatMul(x, w) y = Gemm(a, w, c) z = MatMul(x, c) u = MatMul(y, w) }"""
RNG = np.random.default_rng(0)
ROW = Damage("s", "doubled", 0.0, 100, 50)


def bench(*, data: bool = True) -> Workbench:
    w = RNG.standard_normal((5, 5)).astype(np.float32)
    feeds = {k: RNG.standard_normal((5, 5)).astype(np.float32) for k in "xc"}
    context = Context(bindings=BINDINGS, calibration=(feeds,) if data else ())
    return Workbench(build(TEXT, {"w": w}), QuantizeCodebooks(minimum=1), context)


def test_weights_are_counted_and_others_declined() -> None:
    work = bench()
    (weight,) = matched_weights(work)
    assert [node.op_type for node in weight.readers] == ["MatMul", "Gemm", "MatMul"]
    assert work.coverage.matched == 2
    assert list(work.coverage.declined.values()) == ["the second operand is not a constant"]
    assert not matched_weights(work, "Conv")


def test_samples_are_those_of_the_model_before() -> None:
    """Also when operands have other names by then, and of biases that are computed."""
    work = bench()
    (weight,) = matched_weights(work)
    samples = OperandSamples(work, [weight])
    first, second, _ = weight.readers
    assert np.array_equal(samples.of(first)["x"], work.context.calibration[0]["x"])
    second.inputs[0].name = "renamed"
    assert set(samples.of(second)) == {"renamed", "c"}
    blind = bench(data=False)
    assert OperandSamples(blind, matched_weights(blind)).of(blind.graph[0]) == {}


def test_all_readers_read_the_new_value() -> None:
    work = bench()
    (weight,) = matched_weights(work)
    array = weight.matrix().T

    def spell(build: Builder) -> onnx_ir.Value:
        return build.op("Mul", build.constant(array / 2, "h"), build.constant(np.float32(2), "t"))

    samples = OperandSamples(work, [weight])
    replace_weight(work, weight, weight.readers, spell, ROW, samples)
    assert ops(work.model).count("Mul") == 1
    assert work.coverage.changed == 3
    assert "w" not in work.graph.initializers
    assert work.coverage.damage[0].measured_on == "calibration data"


def test_what_cannot_be_spelled_leaves_nothing() -> None:
    work = bench()
    (weight,) = matched_weights(work)
    before = set(work.graph.initializers)

    def spell(build: Builder) -> onnx_ir.Value:
        build.constant(np.ones(3, np.float32), "h")
        raise Mismatch("no")

    with pytest.raises(Mismatch, match="no"):
        replace_weight(work, weight, weight.readers, spell, ROW, OperandSamples(work, [weight]))
    assert set(work.graph.initializers) == before
    assert work.coverage.changed == 0
