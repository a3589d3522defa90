import numpy as np
from folding import build, weights

from whet.passes.quantization.integer_steps import Kind, find_steps

HEAD = "(float[N,8,12,12] x) => (float[N,8,12,12] y)"


def test_activations_belong_to_what_they_follow() -> None:
    model = build(HEAD + "{ a = Conv(x, w) b = Relu(a) y = Add(b, x) }", weights(w=(8, 8, 1, 1)))
    steps, refused = find_steps(list(model.graph))
    assert [(s.node.op_type, s.tail and s.tail.op_type) for s in steps] == [
        ("Conv", "Relu"),
        ("Add", None),
    ]
    assert not refused


def test_moves_absorb_nothing() -> None:
    text = HEAD + "{ a = MaxPool<kernel_shape=[1,1]>(x) y = Relu(a) }"
    steps, _ = find_steps(list(build(text).graph))
    assert [s.kind for s in steps] == [Kind.MOVE, Kind.MOVE]


def test_products_say_why_they_are_none() -> None:
    text = """(float[4,8] x, float[8,8] v, float[8,8] t) => (float[4,8] y) {
        a = MatMul(x, v)
        b = Gemm<alpha=2.0>(a, w)
        c = Gemm<transA=1>(t, w)
        d = Add(b, b)
        y = Gemm(d, w, u)
    }"""
    model = build(text.replace("c = Gemm<transA=1>(t, w)", ""), weights(w=(8, 8), u=(4, 8)))
    steps, refused = find_steps(list(model.graph))
    assert [s.node.op_type for s in steps] == ["Add"]
    assert list(refused.values()) == [
        "the weight is not a float32 constant",
        "alpha and beta are 2 and 1, not 1",
        "the bias has 2 dimensions, not 1",
    ]


def test_constants_are_operands_of_sums() -> None:
    model = build(HEAD + "{ a = Mul(x, c) y = Add(a, x) }", {"c": np.ones((8, 1, 1), np.float32)})
    steps, _ = find_steps(list(model.graph))
    assert [s.data for s in steps] == [(0,), (0, 1)]


def test_what_reads_integers_is_left() -> None:
    text = HEAD + "{ q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z) y = Add(r, r) }"
    model = build(text, {"s": np.float32(0.1), "z": np.uint8(3)})
    assert find_steps(list(model.graph)) == ([], {})


def test_paddings_with_numbers_are_no_moves() -> None:
    text = HEAD + "<int64[8] p = {0, 0, 0, 0, 0, 0, 0, 0}> { y = Pad(x, p, c) }"
    assert len(find_steps(list(build(text, {"c": np.float32(0)}).graph))[0]) == 1
    assert not find_steps(list(build(text, {"c": np.float32(1)}).graph))[0]


def test_a_bias_behind_a_product_of_matrices_belongs_to_it() -> None:
    text = "(float[4,8] x) => (float[4,8] y) { a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
    (step,) = find_steps(list(build(text, weights(w=(8, 8), c=(8,))).graph))[0]
    assert step.added is not None
    assert [node.op_type for node in step.nodes] == ["Relu", "Add", "MatMul"]
    assert step.writes[0].name == "y"
    deeper = text.replace("[4,8]", "[2,4,8]")
    found = find_steps(list(build(deeper, weights(w=(8, 8), c=(8,))).graph))[0]
    assert [s.node.op_type for s in found] == ["MatMul", "Add"]
    found = find_steps(list(build(text, weights(w=(8, 8), c=(4, 8))).graph))[0]
    assert [s.node.op_type for s in found] == ["MatMul", "Add"]
