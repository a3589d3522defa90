from folding import build, weights

from whet.passes.recovery.hidden import hidden_pairs
from whet.passes.workbench import Context

SUMS = """(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Add(a, x) d = Relu(b) e = MatMul(d, w)
f = Add(e, b) g = Add(f, c) y = Relu(g) }"""
CHAIN = "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
W = weights(w=(4, 4), c=(4,))


def test_sums_of_branches_by_name_and_by_lineage() -> None:
    old, new = build(SUMS, W), build(SUMS.replace("f = ", "f2 = ").replace("(f,", "(f2,"), W)
    context = Context(lineage={"f2": "f"})
    assert hidden_pairs(new, old, context) == [("b", "b"), ("f2", "f")]
    assert hidden_pairs(new, old, Context()) == [("b", "b")]


def test_activations_where_there_are_no_sums() -> None:
    used = weights(w=(4, 4))
    assert hidden_pairs(build(CHAIN, used), build(CHAIN, used), Context()) == [("b", "b")]


def test_values_of_other_shapes_are_left_out() -> None:
    old = build(CHAIN, weights(w=(4, 4)))
    text = "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }"
    assert not hidden_pairs(build(text, weights(w=(4, 3), v=(3, 4))), old, Context())


def test_many_are_thinned_out_evenly() -> None:
    lines = " ".join(f"a{k + 1} = Relu(a{k})" for k in range(40))
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ a0 = Relu(x) {lines} y = Neg(a40) }}")
    pairs = hidden_pairs(model, model, Context())
    assert len(pairs) <= 16
    assert pairs[-1] == ("a40", "a40")
