import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops, weights

from whet.ir.execute import Executor
from whet.ir.values import constant, is_op
from whet.passes.base import Change, Coverage, Fidelity, Pass
from whet.passes.pipeline import Pipeline
from whet.passes.proposal import Proposal
from whet.passes.quantization.correct_biases import CorrectBiases
from whet.passes.quantization.quantize_static import QuantizeStatic
from whet.passes.workbench import Context, Workbench

CONSTANTS = weights(w1=(8, 3, 3, 3), c1=(8,), w2=(6, 8, 3, 3), c2=(6,), m=(6, 4), c=(4,))
TEXT = """(float[N,3,6,6] x) => (float[N,4] y) { a = Conv(x, w1, c1) b = Relu(a) d = Conv(b, w2, c2) e = Relu(d)
g = GlobalAveragePool(e) h = Flatten(g) p = MatMul(h, m) y = Add(p, c) }"""


@dataclasses.dataclass(frozen=True)
class ShiftWeights(Pass):
    """Add to every weight what makes its outputs larger on average."""

    changes: ClassVar[Change] = Change.WEIGHTS | Change.OPS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    by: float = 0.05

    def apply(self, work: Workbench) -> None:
        for node in work.nodes("Conv", "MatMul"):
            build, array = work.builder(node), constant(node.inputs[1])
            assert array is not None
            inputs = [node.inputs[0], build.constant(array + np.float32(self.by)), *node.inputs[2:]]
            new = build.op(node.op_type, *inputs, attributes=node.attributes)
            pairs = ((node.outputs[0], new),)
            work.propose(Proposal((node,), pairs, tuple(build.nodes), tuple(build.initializers)))


def batches(count: int = 8) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(0)
    return tuple({"x": rng.uniform(0, 1, (8, 3, 6, 6)).astype(np.float32)} for _ in range(count))


def compiled(
    *stages: Pass, text: str = TEXT, data: bool = True
) -> tuple[onnx_ir.Model, Coverage, float]:
    """Return the model, what the last stage did, and the error of the outputs on fresh data."""
    used = {k: v for k, v in CONSTANTS.items() if f" {k}," in text or f" {k})" in text}
    model = build(text, used)
    before = Executor(onnx_ir.to_proto(model))
    context = Context(bindings=BINDINGS, calibration=batches() if data else ())
    model, steps = Pipeline(stages).run(model, context)
    feeds = batches(12)[-1]
    (old,), (new,) = before.run(feeds), Executor(onnx_ir.to_proto(model)).run(feeds)
    return model, steps[-1].coverage, float(np.linalg.norm(new - old) / np.linalg.norm(old))


def test_the_mean_error_goes_into_the_biases() -> None:
    model, _, plain = compiled(ShiftWeights())
    corrected, coverage, error = compiled(ShiftWeights(), CorrectBiases())
    assert coverage.changed == 3, coverage
    assert coverage.proofs == {"mean error on data held out": 3}
    assert ops(corrected) == ops(model)
    assert error < plain / 3


def test_biases_of_integers() -> None:
    """The bias has 32 bits and a scale per channel; what is added is a whole number of steps."""
    static = QuantizeStatic(prefer="size", weights="int7")
    _, _, plain = compiled(static)
    model, coverage, error = compiled(static, CorrectBiases())
    assert coverage.changed >= 1
    assert error < plain * 1.2
    shifted, coverage, error = compiled(ShiftWeights(), static, CorrectBiases())
    assert coverage.changed == 3  # two Conv, and the MatMul whose bias is in the accumulator
    assert ops(shifted).count("Gemm") == 1
    assert "Add" not in ops(shifted)
    integers = [
        node.inputs[2].producer().inputs[0].const_value.numpy()
        for node in shifted.graph
        if is_op(node, "Conv", "Gemm")
    ]
    assert len(integers) == 3
    assert all(array.dtype == np.int32 for array in integers)
    assert error < compiled(ShiftWeights(), static)[2] / 2
    assert ops(model).count("Conv") == 2


def test_a_bias_that_is_added_in_eight_bits() -> None:
    """Products of more dimensions keep their addition; its operand gets a grid of its own."""
    text = """(float[N,3,6,6] x) => (float[N,3,6,4] y) { p = MatMul(x, m) y = Add(p, c) }"""
    static = QuantizeStatic(prefer="size", weights="int7")
    _, _, plain = compiled(ShiftWeights(by=0.2), static, text=text)
    model, coverage, error = compiled(ShiftWeights(by=0.2), static, CorrectBiases(), text=text)
    assert coverage.changed == 1, coverage.declined
    (total,) = [node for node in model.graph if is_op(node, "Add")]
    assert total.inputs[1].producer().inputs[0].const_value.numpy().dtype.itemsize == 1
    assert error < plain / 2


def test_a_missing_bias_is_added_to_a_convolution() -> None:
    text = TEXT.replace("Conv(x, w1, c1)", "Conv(x, w1)")
    model, coverage, _ = compiled(ShiftWeights(), CorrectBiases(), text=text)
    assert coverage.changed == 3
    assert len(model.graph[0].inputs) == 3


def test_nothing_to_correct() -> None:
    _, coverage, error = compiled(CorrectBiases())
    assert (coverage.matched, coverage.changed, error) == (0, 0, 0.0)
    _, coverage, _ = compiled(ShiftWeights(by=0.0), CorrectBiases())
    assert coverage.changed == 0
    assert any("no different from noise" in reason for reason in coverage.declined.values())


def test_declines_without_data() -> None:
    _, coverage, _ = compiled(ShiftWeights(), CorrectBiases(), data=False)
    assert set(coverage.declined.values()) == {"needs calibration data"}


def test_a_second_run_finds_nothing_left() -> None:
    _, once, first = compiled(ShiftWeights(), CorrectBiases())
    _, twice, second = compiled(ShiftWeights(), CorrectBiases(), CorrectBiases(batches=7))
    assert once.changed == 3
    assert second == pytest.approx(first, rel=0.3)
    assert twice.matched == 3


def test_the_original_is_kept_only_where_it_is_needed() -> None:
    for stages, kept in (((ShiftWeights(),), False), ((ShiftWeights(), CorrectBiases()), True)):
        model = build(TEXT, CONSTANTS)
        context = Context(bindings=BINDINGS, calibration=batches())
        Pipeline(stages).run(model, context)
        assert (context.original is not None) is kept
        assert bool(context.lineage) is kept
