import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops
from onnx.reference import ReferenceEvaluator

from whet.passes.attention.drop_neutral_mask import DropNeutralMask
from whet.passes.base import Coverage
from whet.passes.proof import compare
from whet.passes.workbench import Context, Workbench

STEP = DropNeutralMask()
QKV = "float[N,2,M,4] q, float[N,2,5,4] k, float[N,2,5,6] v"
CONSTANTS = {
    "zeros": np.zeros((1, 1, 1, 5), np.float32),
    "trues": np.ones((1, 1, 1, 5), np.bool_),
    "table": np.linspace(-1, 1, 10, dtype="float32").reshape(1, 2, 1, 5),
    "some": np.array([[True, False, True, True, False]]),
    "zero": np.float32(0),
    "one": np.float32(1),
    "two": np.float32(2),
    "low": np.float32(-1e30),
    "five": np.int64([5]),
    "axes": np.int64([0, 1]),
    "ones": np.int64([1, 1, 1]),
}
WIDE = "b = Shape<start=0, end=1>(q) r = Shape<start=2, end=3>(q) s = Concat<axis=0>(b, first, r, five)"


def read(body: str, inputs: str = "") -> onnx_ir.Model:
    text = f"({QKV}{inputs}) => (float[N,2,M,6] y) {{ {body} }}"
    known = {**CONSTANTS, "first": np.int64([1])}
    used = {n: a for n, a in known.items() if any(f"{x}{n}{y}" in body for x in "( " for y in ",)")}
    return build(text, used, 23)


def run(model: onnx_ir.Model) -> Coverage:
    work = Workbench(model, STEP, Context(bindings=BINDINGS))
    STEP.apply(work)
    assert not work.coverage.failures
    return work.coverage


def drops(model: onnx_ir.Model) -> onnx_ir.Node:
    """Check that a mask goes, in whole or in part, that outputs stay and nothing is left to do."""
    before = onnx_ir.to_proto(model)
    assert run(model).changed == 1
    after = onnx_ir.to_proto(model)
    for choice in range(len(BINDINGS.choices)):
        feeds = BINDINGS.feeds(model, choice)
        (old,), (new,) = (ReferenceEvaluator(proto).run(None, feeds) for proto in (before, after))
        assert compare(old, new) <= 1e-5
    assert run(model).changed == 0
    return next(node for node in model.graph if node.op_type == "Attention")


NEUTRAL = {
    "zeros": "y = Attention(q, k, v, zeros)",
    "trues": "y = Attention(q, k, v, trues)",
    "expanded": f"{WIDE} m = Expand(trues, s) y = Attention(q, k, v, m)",
    "where-true": f"{WIDE} c = Expand(trues, s) m = Where(c, zero, low) y = Attention(q, k, v, m)",
    "where-false": f"{WIDE} t = Expand(trues, s) c = Not(t) m = Where(c, low, zero) y = Attention(q, k, v, m)",
    "filled": f"{WIDE} m = ConstantOfShape(s) y = Attention(q, k, v, m)",
    "one-minus": f"{WIDE} e = Expand(one, s) d = Sub(one, e) m = Mul(d, low) y = Attention(q, k, v, m)",
    "cast": f"{WIDE} e = Expand(trues, s) c = Cast<to=1>(e) d = Sub(c, one) y = Attention(q, k, v, d)",
    "compared": f"{WIDE} e = Expand(one, s) m = LessOrEqual(e, two) y = Attention(q, k, v, m)",
    "or": f"{WIDE} e = Expand(trues, s) m = Or(e, some) y = Attention(q, k, v, m)",
    "same-branches": f"{WIDE} e = Expand(zero, s) m = Where(some, e, zero) y = Attention(q, k, v, m)",
}


@pytest.mark.parametrize("case", NEUTRAL)
def test_neutral(case: str) -> None:
    model = read(NEUTRAL[case])
    assert [v and v.name for v in drops(model).inputs] == ["q", "k", "v"]
    assert ops(model)[-1] == "Attention"


PARTS = {
    "sum": (
        f"{WIDE} z = Expand(zero, s) m = Add(z, n) y = Attention(q, k, v, m)",
        "float[N,1,M,5] n",
    ),
    "sum-left": (
        f"{WIDE} z = Expand(zero, s) m = Add(n, z) y = Attention(q, k, v, m)",
        "float[M,5] n",
    ),
    "and": (
        f"{WIDE} z = Expand(trues, s) m = And(z, n) y = Attention(q, k, v, m)",
        "bool[N,1,M,5] n",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_the_rest_of_a_mask_stays(case: str) -> None:
    body, inputs = PARTS[case]
    mask = drops(read(body, f", {inputs}")).inputs[3]
    assert mask is not None
    assert mask.name == "n"


def test_other_inputs_and_outputs_stay() -> None:
    text = """(float[N,2,M,4] q, float[N,2,5,4] k, float[N,2,5,6] v, float[N,2,3,4] pk, float[N,2,3,6] pv)
    => (float[N,2,M,6] y, float[N,2,8,4] a, float[N,2,8,6] b)
    { y, a, b = Attention<scale=0.5>(q, k, v, zeros, pk, pv) }"""
    model = build(text, {"zeros": np.zeros((1, 8), np.float32)}, 23)
    coverage = run(model)
    assert coverage.changed == 1
    (node,) = list(model.graph)
    assert [v and v.name for v in node.inputs] == ["q", "k", "v", None, "pk", "pv"]
    assert [v.name for v in node.outputs] == ["y", "a", "b"]
    assert node.attributes["scale"].as_float() == 0.5


KEPT = {
    "table": "y = Attention(q, k, v, table)",
    "some": "y = Attention(q, k, v, some)",
    "where": "m = Where(some, zero, low) y = Attention(q, k, v, m)",
    "none": "y = Attention(q, k, v)",
}


@pytest.mark.parametrize("case", KEPT)
def test_masks_that_mask_stay(case: str) -> None:
    coverage = run(read(KEPT[case]))
    assert coverage.changed == 0
    assert not coverage.declined


def test_a_rest_without_keys_is_declined() -> None:
    body = f"{WIDE} z = Expand(zero, s) m = Add(z, n) y = Attention(q, k, v, m)"
    coverage = run(read(body, ", float[N,1,M,1] n"))
    assert coverage.changed == 0
    assert "has fewer axes or keys" in next(iter(coverage.declined.values()))
