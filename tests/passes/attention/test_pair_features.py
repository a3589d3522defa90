import pytest
from pairing import PERCEPTRON, of_pairs

from whet.errors import Mismatch
from whet.passes.attention.call import read_attention
from whet.passes.attention.expression import BATCH, KEY, QUERY
from whet.passes.attention.input_bias import InputBias, read_input_bias


def found(nodes: str, inputs: str = "") -> InputBias | None:
    model = of_pairs(nodes, inputs)
    (node,) = (node for node in model.graph if node.op_type == "Attention")
    return read_input_bias(read_attention(node))


def sides(nodes: str, inputs: str = "") -> tuple[list[tuple[object, ...]], ...]:
    bias = found(nodes, inputs)
    assert bias is not None
    both = bias.features.query, bias.features.key
    return tuple([(f.value.name, f.labels, f.width) for f in side] for side in both)


X = ("x", (BATCH, QUERY, None), 6), ("x", (BATCH, KEY, None), 6)
LAST = "bias = Transpose<perm=[0, 3, 1, 2]>(z)"
SPELLINGS = {
    "perceptron": PERCEPTRON,
    "concatenated": f"""
        xi = Unsqueeze(x, two)  xj = Unsqueeze(x, one)  p = Mul(xi, xj)  m = Sub(xi, xj)
        c = Concat<axis=-1>(p, m)  h = MatMul(c, wc)  r = Relu(h)  z = MatMul(r, wo)  {LAST}""",
    "normalized, softmax": f"""
        xi = Unsqueeze(x, two)  xj = Unsqueeze(x, one)  p = Mul(xi, xj)
        s = Softmax<axis=-1>(p)  h = MatMul(s, wp)  z = MatMul(h, wo)  {LAST}""",
    "outer product by Einsum": f"""
        p = Einsum<equation="bic,bjc->bijc">(x, x)  h = MatMul(p, wp)  g = Tanh(h)  z = MatMul(g, wo)  {LAST}""",
    "product of positions": """
        xt = Transpose<perm=[0, 2, 1]>(x)  s = MatMul(x, xt)  u = Unsqueeze(s, one)  bias = Sigmoid(u)""",
    "distance": """
        xi = Unsqueeze(x, two)  xj = Unsqueeze(x, one)  d = Sub(xi, xj)
        s = ReduceL2<keepdims=0>(d, three)  n = Neg(s)  bias = Unsqueeze(n, one)""",
}


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_features_of_queries_and_of_keys_are_found(nodes: str) -> None:
    assert sides(nodes) == ([X[0]], [X[1]])


def test_features_end_at_the_narrowest_value() -> None:
    nodes = PERCEPTRON.replace("Unsqueeze(x, two)", "Unsqueeze(n, two)")
    query, key = sides(f"few = MatMul(x, wn) n = MatMul(few, wm) {nodes}")
    assert query == [("few", (BATCH, QUERY, None), 2)]
    assert key == [X[1]]


def test_several_values_are_features_together() -> None:
    nodes = PERCEPTRON.replace("MatMul(xj, wj)", "MatMul(wj0, wj)")
    query, key = sides(f"wj0 = Unsqueeze(other, one) {nodes}", ", float[B,N,6] other")
    assert query == [X[0]]
    assert sorted((str(name), width) for name, _, width in key) == [("other", 6), ("x", 6)]


def test_positions_shared_by_samples_have_no_batch() -> None:
    nodes = PERCEPTRON.replace("MatMul(xj, wj)", "MatMul(pl, wj)")
    bias = found(f"pl = Unsqueeze(places, first) {nodes}", ", float[N,6] places")
    assert bias is not None
    assert sorted(f.has_batch for f in bias.features.key) == [False, True]


def test_a_mask_of_booleans_or_of_keys_is_none_of_ours() -> None:
    assert found("bias = Greater(y0, zero)", ", float[B,1,N,N] y0") is None
    assert found("bias = Unsqueeze(s, ends)", ", float[B,N] s") is None


def test_a_pair_that_is_given_has_no_features() -> None:
    with pytest.raises(Mismatch, match="'z', an input of the model, has a value for every pair"):
        found(LAST, ", float[B,N,N,2] z")


def test_an_operator_without_a_rule_is_named() -> None:
    nodes = PERCEPTRON.replace("Gelu(t)", "CumSum(t, axis)")
    with pytest.raises(Mismatch, match="made by CumSum, was not followed"):
        found(nodes)


def test_what_has_factors_or_no_input_is_not_fitted() -> None:
    nodes = PERCEPTRON.replace("bias", "free")
    bias = found(
        f"{nodes} pad = Unsqueeze(seen, ends) b = Add(free, pad) bias = Add(b, table)",
        ", float[B,N] seen",
    )
    assert bias is not None
    assert bias.extra == 1
    assert len(bias.added) == 1
    assert not bias.causal
