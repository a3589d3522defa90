"""Graphs on which other optimizers gave wrong outputs: here every pass together must leave the outputs as they are.

Each runs twice: with proofs, where no pass may propose anything that is refuted, and without, where the passes have to
be right on their own.
"""

import dataclasses

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, weights, worst_error

from whet.ir.prepare import normalize
from whet.ir.values import Array
from whet.passes.base import Fidelity
from whet.passes.pipeline import Fixpoint, Pipeline
from whet.passes.registry import all_passes
from whet.passes.workbench import Context


@dataclasses.dataclass(frozen=True)
class Case:
    text: str
    constants: dict[str, Array] = dataclasses.field(default_factory=dict)
    opset: int = 18


def ints(**values: list[int]) -> dict[str, Array]:
    return {name: np.asarray(value, np.int64) for name, value in values.items()}


def norm(channels: int, seed: int = 3) -> dict[str, Array]:
    return weights(seed, g=(channels,), h=(channels,), m=(channels,), v=(channels,))


NOP_CONCAT = {
    "of-an-input": Case("(float[N,3] x) => (float[N,3] y) { y = Concat<axis=1>(x) }"),
    "of-an-output": Case(
        "(float[N,3] x) => (float[N,3] y, float[N,3] z) { z = Relu(x) y = Concat<axis=-1>(z) }"
    ),
    "of-a-weight": Case(
        "(float[N,3] x) => (float[2,3] y, float[N,3] z) { y = Concat<axis=0>(w) z = Relu(x) }",
        weights(w=(2, 3)),
    ),
    "two-outputs-of-one-value": Case(
        """(float[N,3] x) => (float[N,3] y, float[N,3] z)
        { a = Relu(x) y = Concat<axis=0>(a) z = Concat<axis=1>(a) }"""
    ),
    "with-an-empty-operand": Case(
        "(float[N,3] x) => (float[N,3] y) { y = Concat<axis=0>(w, x) }",
        {"w": np.zeros((0, 3), np.float32)},
    ),
    "chain": Case(
        """(float[N,3] x) => (float[N,6] y)
        { a = Concat<axis=0>(x) b = Concat<axis=1>(a) y = Concat<axis=1>(b, a) }"""
    ),
    "of-a-shape": Case(
        """(float[N,3] x, float[3,N] r) => (float[N,3] y)
        { s = Shape(x) t = Concat<axis=0>(s) y = Reshape(r, t) }"""
    ),
}
SQUEEZES = {
    "negative-axes": Case(
        "(float[1,N,1,1] x) => (float[1,N] y) { a = Squeeze(x, m) y = Squeeze(a, m) }",
        ints(m=[-1]),
    ),
    "negative-then-positive": Case(
        "(float[1,2,1,3,1] x) => (float[2,3] y) { a = Squeeze(x, p) y = Squeeze(a, q) }",
        ints(p=[-1, 0], q=[1]),
    ),
    "interleaved": Case(
        "(float[1,2,1,3,1,4,1] x) => (float[2,3,4] y) { a = Squeeze(x, p) y = Squeeze(a, q) }",
        ints(p=[2, 6], q=[0, 3]),
    ),
    "default-axes": Case(
        "(float[1,2,1,3] x) => (float[2,3] y) { a = Squeeze(x, p) y = Squeeze(a) }", ints(p=[2])
    ),
    "inner-read-twice": Case(
        """(float[1,1,N,1] x) => (float[N] y, float[1,N] z)
        { a = Squeeze(x, p) y = Squeeze(a, q) z = Relu(a) }""",
        ints(p=[1, 3], q=[0]),
    ),
    "inner-is-an-output": Case(
        """(float[1,1,N,1] x) => (float[N] y, float[1,N] a)
        { a = Squeeze(x, p) y = Squeeze(a, q) }""",
        ints(p=[0, 3], q=[0]),
    ),
    "attributes": Case(
        "(float[1,2,1,3] x) => (float[2,3] y) { a = Squeeze<axes=[0]>(x) y = Squeeze<axes=[1]>(a) }",
        opset=11,
    ),
    "between-unsqueezes": Case(
        """(float[1,N,1] x) => (float[N,1,1] y)
        { a = Squeeze(x, p) b = Unsqueeze(a, q) c = Squeeze(b, p) y = Unsqueeze(c, r) }""",
        ints(p=[0], q=[0], r=[1]),
    ),
}
BATCH_NORM = {
    "no-bias": Case(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y)
        { a = Conv(x, w) y = BatchNormalization<epsilon=0.5>(a, g, h, m, v) }""",
        weights(w=(4, 3, 3, 3)) | norm(4),
    ),
    "one-weight-two-norms": Case(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z)
        { a = Conv(x, w, b) y = BatchNormalization(a, g, h, m, v)
          c = Conv(x, w, b) z = BatchNormalization(c, h, g, m, v) }""",
        weights(w=(4, 3, 3, 3), b=(4,)) | norm(4),
    ),
    "one-conv-two-norms": Case(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] z)
        { a = Conv(x, w) y = BatchNormalization(a, g, h, m, v) z = BatchNormalization(a, h, g, m, v) }""",
        weights(w=(4, 3, 3, 3)) | norm(4),
    ),
    "parameters-used-twice": Case(
        """(float[N,4,8,8] x) => (float[N,4,4,4] y)
        { a = Conv(x, w) b = BatchNormalization(a, g, g, g, v) c = Conv(b, u)
          y = BatchNormalization(c, g, h, m, v) }""",
        weights(w=(4, 4, 3, 3), u=(4, 4, 3, 3)) | norm(4),
    ),
    "weight-is-the-output": Case(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4,3,3,3] z)
        { a = Conv(x, w) y = BatchNormalization(a, g, h, m, v) z = Relu(w) }""",
        weights(w=(4, 3, 3, 3)) | norm(4),
    ),
    "before-padding": Case(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        { a = BatchNormalization(x, g, h, m, v) y = Conv<pads=[1,1,1,1]>(a, w) }""",
        weights(w=(4, 3, 3, 3)) | norm(3),
    ),
    "grouped-transposed": Case(
        """(float[N,4,5,5] x) => (float[N,6,7,7] y)
        { a = ConvTranspose<group=2>(x, w) y = BatchNormalization(a, g, h, m, v) }""",
        weights(w=(4, 3, 3, 3)) | norm(6),
    ),
    "constants-are-nodes": Case(
        """(float[N,1,5] x) => (float[N,1,5] y)
        { w = Constant<value = float[1,1,1] {2.0}>() g = Constant<value = float[1] {3.0}>()
          h = Constant<value = float[1] {-1.0}>() m = Constant<value = float[1] {0.5}>()
          v = Constant<value = float[1] {4.0}>()
          a = Conv(x, w) y = BatchNormalization(a, g, h, m, v) }"""
    ),
}
CONCAT_RESHAPE = {
    "one-unknown": Case(
        """(float[N,6] x) => (float[N,2,3] y)
        { s = Shape(x) b = Gather(s, i) t = Concat<axis=0>(b, p) y = Reshape(x, t) }""",
        ints(i=[0], p=[2, 3]),
    ),
    "two-unknown": Case(
        """(float[N,M,4] x) => (float[M,N,4] y)
        { s = Shape(x) a = Gather(s, i) b = Gather(s, j) t = Concat<axis=0>(b, a, p) y = Reshape(x, t) }""",
        ints(i=[0], j=[1], p=[4]),
    ),
    "unknown-next-to-minus-one": Case(
        """(float[N,M,4] x) => (float[N,K] y)
        { s = Shape(x) a = Gather(s, i) t = Concat<axis=0>(a, p) y = Reshape(x, t) }""",
        ints(i=[0], p=[-1]),
    ),
    "unknown-next-to-zero": Case(
        """(float[4,N,M] x) => (float[M,N,4] y)
        { s = Shape(x) a = Gather(s, i) t = Concat<axis=0>(a, p, q) y = Reshape(x, t) }""",
        ints(i=[2], p=[0], q=[4]),
    ),
    "piece-of-two": Case(
        """(float[N,M,4] x, float[1,N,M,2,2] z) => (float[N,M,2,2] y)
        { s = Shape(x) a = Slice(s, i, j) t = Concat<axis=0>(a, p) y = Reshape(x, t) }""",
        ints(i=[0], j=[2], p=[2, 2]),
    ),
    "shape-read-twice": Case(
        """(float[N,6] x) => (float[N,2,3] y, int64[3] t)
        { s = Shape(x) b = Gather(s, i) t = Concat<axis=0>(b, p) y = Reshape(x, t) }""",
        ints(i=[0], p=[2, 3]),
    ),
    "through-a-cast": Case(
        """(float[N,6] x) => (float[N,2,3] y)
        { s = Shape(x) b = Gather(s, i) c = Cast<to=6>(b) d = Concat<axis=0>(c, p) t = Cast<to=7>(d)
          y = Reshape(x, t) }""",
        ints(i=[0]) | {"p": np.asarray([2, 3], np.int32)},
    ),
    "of-another-tensor": Case(
        """(float[N,M] x, float[M,3] r) => (float[M,N] y)
        { s = Shape(r) b = Gather(s, i) t = Concat<axis=0>(b, p) y = Reshape(x, t) }""",
        ints(i=[0], p=[-1]),
    ),
}
PAD_POOL = {
    "max-pool-of-zeros": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { a = Exp(x) b = Neg(a) c = Pad(b, p) y = MaxPool<kernel_shape=[3,3]>(c) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "average-pool": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[3,3]>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "reflected": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { a = Pad<mode="reflect">(x, p) y = AveragePool<kernel_shape=[3,3]>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "max-pool-of-edges": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { a = Pad<mode="edge">(x, p) y = MaxPool<kernel_shape=[3,3]>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "ones": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { a = Pad(x, p, c) y = AveragePool<kernel_shape=[3,3], count_include_pad=1>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]) | {"c": np.asarray(1, np.float32)},
    ),
    "channels": Case(
        """(float[N,3,8,8] x) => (float[N,4,7,7] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(a) }""",
        ints(p=[0, 1, 0, 0, 0, 0, 0, 0]),
    ),
    "rounded-up": Case(
        """(float[N,3,7,7] x) => (float[N,3,4,4] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(a) }""",
        ints(p=[0, 0, 0, 0, 0, 0, 1, 1]),
    ),
    "old-attributes": Case(
        """(float[N,3,8,8] x) => (float[N,3,8,8] y)
        { n = Neg(x) e = Sub(n, o) a = Pad<pads=[0,0,1,1,0,0,1,1]>(e) y = MaxPool<kernel_shape=[3,3]>(a) }""",
        {"o": np.asarray(9, np.float32)},
        opset=10,
    ),
}
SLICES = {
    "same-axis": Case(
        "(float[N,12] x) => (float[N,3] y) { a = Slice(x, i, j, k) y = Slice(a, l, m, k) }",
        ints(i=[2], j=[11], k=[1], l=[1], m=[4]),
    ),
    "two-axes": Case(
        "(float[N,8,12] x) => (float[N,4,6] y) { a = Slice(x, i, j, k) y = Slice(a, l, m, n) }",
        ints(i=[2], j=[6], k=[1], l=[3], m=[9], n=[2]),
    ),
    "inner-end-cuts-the-outer": Case(
        "(float[N,12] x) => (float[N,2] y) { a = Slice(x, i, j, k) y = Slice(a, l, m, k) }",
        ints(i=[2], j=[5], k=[1], l=[1], m=[100]),
    ),
    "negative-bounds": Case(
        "(float[N,12] x) => (float[N,4] y) { a = Slice(x, i, j, k) y = Slice(a, l, m, k) }",
        ints(i=[-9], j=[-2], k=[-1], l=[-5], m=[-1]),
    ),
    "steps": Case(
        "(float[N,12] x) => (float[N,2] y) { a = Slice(x, i, j, k, s) y = Slice(a, l, m, k, t) }",
        ints(i=[1], j=[12], k=[1], s=[2], l=[1], m=[6], t=[3]),
    ),
    "backwards": Case(
        "(float[N,12] x) => (float[N,4] y) { a = Slice(x, i, j, k, s) y = Slice(a, l, m, k, t) }",
        ints(i=[-1], j=[-100], k=[1], s=[-1], l=[2], m=[6], t=[1]),
    ),
    "nothing-cut-at-one-size-only": Case(
        "(float[N,12] x) => (float[K,12] y) { y = Slice(x, i, j, k) }",
        ints(i=[0], j=[2], k=[0]),
    ),
    "inner-read-twice": Case(
        """(float[N,12] x) => (float[N,3] y, float[N,9] z)
        { a = Slice(x, i, j, k) y = Slice(a, l, m, k) z = Relu(a) }""",
        ints(i=[2], j=[11], k=[1], l=[1], m=[4]),
    ),
    "default-axes": Case(
        "(float[8,12] x) => (float[2,4] y) { a = Slice(x, i, j) y = Slice(a, l, m) }",
        ints(i=[1, 3], j=[7, 11], l=[2, 1], m=[4, 5]),
    ),
}
PAD_AVERAGE_POOL = {
    "own-padding-not-counted": Case(
        """(float[N,3,8,8] x) => (float[N,3,10,10] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "own-padding-counted": Case(
        """(float[N,3,8,8] x) => (float[N,3,9,9] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[4,4], pads=[1,1,1,1], count_include_pad=1>(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
    "bottom-and-right-only": Case(
        """(float[N,1,2,2] x) => (float[N,1,2,2] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[2,2]>(a) }""",
        ints(p=[0, 0, 0, 0, 0, 0, 1, 1]),
        opset=21,
    ),
    "automatic": Case(
        """(float[N,3,8,8] x) => (float[N,3,10,10] y)
        { a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(a) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1]),
    ),
}
CASES = {
    f"{group}/{name}": case
    for group, cases in {
        "nop-concat": NOP_CONCAT,
        "squeezes": SQUEEZES,
        "batch-norm": BATCH_NORM,
        "concat-reshape": CONCAT_RESHAPE,
        "pad-pool": PAD_POOL,
        "slices": SLICES,
        "pad-average-pool": PAD_AVERAGE_POOL,
    }.items()
    for name, case in cases.items()
}


def faithful_passes() -> Fixpoint:
    """Return every pass that promises to keep the outputs."""
    made = (cls() for cls in all_passes().values())
    return Fixpoint(tuple(p for p in made if p.fidelity is not Fidelity.LOSSY))


@pytest.mark.parametrize("prove", [True, False], ids=["proven", "unproven"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_stay(name: str, *, prove: bool) -> None:
    case = CASES[name]
    model = normalize(build(case.text, case.constants, case.opset))
    before = onnx_ir.to_proto(model)
    context = Context(bindings=BINDINGS, prove=prove)
    model, steps = Pipeline((faithful_passes(),)).run(model, context)
    assert [step.coverage.failures for step in steps if step.coverage.failures] == []
    assert worst_error(before, model) <= Fidelity.ROUNDING.tolerance
