import numpy as np
import onnx_ir
import pytest
from folding import build, weights

from whet.analysis.residual_branches import find_branches, unread_without

W = weights(w1=(8, 8), w2=(8, 8), w3=(8, 8), w4=(8, 8), g=(8,), k=(8, 8, 1, 1))
NORM = "RMSNormalization({}, g)"
ATTENTION = (
    "s{0} = MatMul({1}, w1) t{0} = Transpose<perm=[0,2,1]>({1}) p{0} = MatMul(s{0}, t{0}) "
    "m{0} = Softmax(p{0}) a{0} = MatMul(m{0}, s{0})"
)


def network(body: str, shape: str = "N,4,8") -> onnx_ir.Model:
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}"
    return build(text, {k: v for k, v in W.items() if f"{k}," in text or f"{k})" in text}, opset=23)


def kinds(model: onnx_ir.Model) -> list[tuple[str, str, str]]:
    return [(b.kind, b.skip.name or "", b.output.name or "") for b in find_branches(model.graph)]


def test_pre_norm_and_post_norm() -> None:
    block = (
        f"n = {NORM.format('x')} {ATTENTION.format(0, 'n')} h = Add(x, a0) o = {NORM.format('h')}"
    )
    pre = network(f"{block} f = MatMul(o, w2) r = Relu(f) q = MatMul(r, w3) y = Add(q, h)")
    assert kinds(pre) == [("attention", "x", "h"), ("mlp", "h", "y")]
    post = network(
        f"{ATTENTION.format(0, 'x')} h = Add(x, a0) o = {NORM.format('h')} f = MatMul(o, w2) y = Add(f, o)"
    )
    assert kinds(post) == [("attention", "x", "h"), ("mlp", "o", "y")]


def test_parallel_branches_and_convolutions() -> None:
    model = network(f"{ATTENTION.format(0, 'x')} h = Add(x, a0) f = MatMul(x, w2) y = Add(h, f)")
    assert kinds(model) == [("attention", "x", "h"), ("mlp", "h", "y")]
    model = network("c = Conv(x, k) r = Relu(c) d = Conv(r, k) y = Add(d, x)", "N,8,4,4")
    assert kinds(model) == [("convolution", "x", "y")]


@pytest.mark.parametrize(
    "body",
    [
        "c = Relu(x) y = Add(x, c)",
        "a = MatMul(x, w1) b = MatMul(x, w2) y = Add(a, b)",
        "a = MatMul(x, w1) b = Relu(a) c = Tanh(b) d = Mul(b, c) y = Add(b, d)",
    ],
)
def test_what_is_no_branch(body: str) -> None:
    assert kinds(network(body)) == []


def test_only_the_innermost_are_found() -> None:
    model = network("a = MatMul(x, w1) b = Add(x, a) c = MatMul(b, w2) d = Add(c, b) y = Add(x, d)")
    assert kinds(model) == [("mlp", "x", "b"), ("mlp", "b", "d")]


def test_what_nobody_reads_without_a_value() -> None:
    model = network("a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Add(a, c) y = Add(x, d)")
    values = {v.name: v for node in model.graph for v in node.outputs}
    assert [n.op_type for n in unread_without([values["d"]], [values["a"]])] == [
        "Add",
        "MatMul",
        "Relu",
    ]
    assert len(list(unread_without([values["d"]]))) == 4
    assert np.all([n.op_type != "Add" for n in unread_without([values["c"]])])
