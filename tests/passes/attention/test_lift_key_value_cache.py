import onnx_ir
import pytest
from folding import build, declines, folds, ops, run

from whet.passes.attention.lift_key_value_cache import LiftKeyValueCache

STEP = LiftKeyValueCache()

PAST = "float[N,2,P,8] pk, float[N,2,P,6] pv"
NEW = "float[N,4,M,8] q, float[N,2,M,8] k, float[N,2,M,6] v"
OUT = "float[N,4,M,6] y, float[N,2,T,8] ok, float[N,2,T,6] ov"
JOIN = "ok = Concat<axis = 2>(pk, k) ov = Concat<axis = -2>(pv, v)"


def decoder(
    attention: str, inputs: str = "", outputs: str = OUT, body: str = JOIN
) -> onnx_ir.Model:
    """A decoder step; the past is as long as the new part, which gives its length a binding."""
    head = f"({NEW}, {PAST}{inputs}) => ({outputs})".replace("P", "M")
    return build(f"{head} {{ {body} {attention} }}", opset=23)


PLAIN = "y = Attention(q, ok, ov)"


def test_past_and_present() -> None:
    model = decoder(PLAIN)
    coverage = folds(model, STEP, ["Attention"])
    assert coverage.proofs == {"float64": 1}
    node = model.graph[0]
    assert [v and v.name for v in node.inputs] == ["q", "k", "v", None, "pk", "pv"]
    assert [v.name for v in node.outputs] == ["y", "ok", "ov"]


@pytest.mark.parametrize("mask", ["float[N,4,M,T] m", "bool[N,1,M,T] m", "float[M,T] m"])
def test_with_a_mask_over_all_keys(mask: str) -> None:
    # Sixteen keys of the past and M new ones cannot be written as a symbol of an input: all sizes are fixed.
    text = f"""(float[2,4,3,8] q, float[2,2,3,8] k, float[2,2,3,6] v, float[2,2,5,8] pk, float[2,2,5,6] pv,
        {mask.replace("N", "2").replace("M", "3").replace("T", "8")})
        => (float[2,4,3,6] y, float[2,2,8,8] ok, float[2,2,8,6] ov) {{
        {JOIN} y = Attention<scale = 0.3, softcap = 5.0>(q, ok, ov, m) }}"""
    model = build(text, opset=23)
    folds(model, STEP, ["Attention"])
    assert model.graph[0].attributes["softcap"].as_float() == 5.0


def test_a_past_that_is_no_input_is_a_cache_if_the_present_is_an_output() -> None:
    body = "a = Relu(pk) b = Relu(pv) ok = Concat<axis = 2>(a, k) ov = Concat<axis = 2>(b, v)"
    folds(decoder(PLAIN, body=body), STEP, ["Relu", "Relu", "Attention"])


def test_an_empty_present_is_still_a_cache_if_the_past_is_an_input() -> None:
    folds(decoder(PLAIN, outputs="float[N,4,M,6] y"), STEP, ["Attention"])


def test_the_shape_of_the_present_becomes_a_sum() -> None:
    body = (
        JOIN
        + " s = Shape<start = 2, end = 3>(ok) t = Shape(ov) u = Expand(b, s) m = Cast<to = 1>(u)"
    )
    model = decoder(
        "y = Attention(q, ok, ov)", ", float[1] b", OUT + ", float[T] m, int64[4] t", body
    )
    folds(
        model,
        STEP,
        [
            "Shape",
            "Mul",
            "Shape",
            "Add",
            "Shape",
            "Mul",
            "Shape",
            "Add",
            "Expand",
            "Cast",
            "Attention",
        ],
    )


def test_two_attentions_on_one_cache() -> None:
    both = "z = Attention(q, ok, ov) w = Relu(z) y = Attention(w, ok, ov)"
    inputs = NEW.replace("6", "8")
    past, out = PAST.replace("6", "8").replace("P", "M"), OUT.replace("6", "8")
    model = build(f"({inputs}, {past}) => ({out}) {{ {JOIN} {both} }}", opset=23)
    folds(model, STEP, ["Attention", "Relu", "Attention"])
    assert model.graph[2].inputs[1] is model.graph[0].outputs[1]


@pytest.mark.parametrize(
    ("attention", "body", "reason"),
    [
        ("y = Attention<is_causal = 1>(q, ok, ov)", JOIN, "causal without a past"),
        (
            "y = Attention(q, ok, w)",
            JOIN + " w = Relu(ov)",
            "the values are not a past and new ones",
        ),
        (
            "y = Attention(q, w, ov)",
            JOIN + " w = Relu(ok)",
            "the keys are not a past and new ones",
        ),
        (
            "y = Attention(q, ok, ov)",
            "ok = Concat<axis = 2>(pk, k) w = Concat<axis = 2>(pv, pv) ov = Concat<axis = 2>(w, v)",
            "the past has",
        ),
        (
            "y = Attention(w, ok, ov)",
            JOIN + " u = ReduceSum<keepdims = 1>(ok) w = Add(q, u)",
            "ReduceSum 'ReduceSum_2' reads the past with the new ones before the attention",
        ),
    ],
)
def test_declines(attention: str, body: str, reason: str) -> None:
    declines(decoder(attention, body=body), STEP, reason)


def test_declines_an_attention_that_gives_its_keys_out() -> None:
    model = decoder("y, z, u = Attention(q, ok, ov)", outputs=f"{OUT}, float[N,2,T,8] z")
    declines(model, STEP, "the attention gives its keys out already")


def test_one_tensor_for_keys_and_values() -> None:
    text = """(float[N,2,M,8] q, float[N,2,M,8] k, float[N,2,M,8] pk)
        => (float[N,2,M,8] y, float[N,2,T,8] ok) { ok = Concat<axis = 2>(pk, k) y = Attention(q, ok, ok) }"""
    declines(build(text, opset=23), STEP, "keys and values are one tensor")


@pytest.mark.parametrize(
    "text",
    [
        # A token in front of the others, computed inside the model, is no cache.
        """(float[N,2,M,8] q, float[N,2,M,8] k, float[N,2,M,8] p) => (float[N,2,M,8] y) {
        a = Relu(p) c = Concat<axis = 2>(a, k) d = Concat<axis = 2>(a, q) y = Attention(q, c, d) }""",
        # Joined along the heads.
        """(float[N,2,M,8] q, float[N,1,M,8] k, float[N,1,M,8] p) => (float[N,2,M,8] y) {
        c = Concat<axis = 1>(p, k) y = Attention(q, c, c) }""",
        # Of rank 3.
        """(float[N,M,8] q, float[N,M,8] k, float[N,M,8] p) => (float[N,M,8] y) {
        c = Concat<axis = 1>(p, k) y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, c, c) }""",
    ],
)
def test_leaves_what_is_no_cache(text: str) -> None:
    model = build(text, opset=23)
    before = ops(model)

    coverage = run(model, STEP)
    assert (coverage.matched, ops(model)) == (0, before)
