"""Every spelling of attention, and every reason to leave one."""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir
import pytest
from folding import build, ops
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.values import Array
from whet.passes.attention.call import read_attention
from whet.passes.attention.lift_attention import LiftAttention
from whet.passes.base import Coverage
from whet.passes.proof import compare
from whet.passes.workbench import Context, Workbench

STEP = LiftAttention()
BINDINGS = Bindings(({"N": 2, "M": 3, "K": 4}, {"N": 3, "M": 5, "K": 2}))
QKV = "float[N,2,M,4] q, float[N,2,K,4] k, float[N,2,K,6] v"
OUT = "float[N,2,M,6] y"
KT = "kt = Transpose<perm=[0,1,3,2]>(k)"


def run(model: onnx_ir.Model) -> Coverage:
    work = Workbench(model, STEP, Context(bindings=BINDINGS))
    STEP.apply(work)
    return work.coverage


def number(value: float, dtype: str = "float32") -> Array:
    return np.asarray(value, dtype)


CONSTANTS: dict[str, Array] = {
    "c": number(0.5),
    "e": number(2.0),
    "minus": number(-0.5),
    "zero": number(0.0),
    "low": number(np.finfo("float32").min),
    "nine": number(-1e9),
    "four": number(-1e4),
    "inf": number(-np.inf),
    "one": number(1.0),
    "table": np.linspace(-1, 1, 2 * 7 * 7, dtype="float32").reshape(1, 2, 7, 7),
}


def read(text: str, **more: Array) -> onnx_ir.Model:
    known = {**CONSTANTS, **more}
    body = text[text.index("{") :]
    used = {name: array for name, array in known.items() if mentions(body, name)}
    return build(text, used, 23)


def mentions(body: str, name: str) -> bool:
    return any(f"{a}{name}{b}" in body for a in ("(", " ") for b in (",", ")"))


def outputs(model: onnx.ModelProto, choice: int, *, runtime: bool) -> list[Array]:
    feeds = BINDINGS.feeds(onnx_ir.from_proto(copy.deepcopy(model)), choice)
    if runtime:
        return Executor(model).run(feeds)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def lifts(model: onnx_ir.Model, count: int = 1) -> list[onnx_ir.Node]:
    """Check that everything becomes Attention, that outputs stay, and that nothing is left to do; return the nodes."""
    before = onnx_ir.to_proto(model)
    coverage = run(model)
    assert not coverage.failures, coverage.failures
    assert not coverage.declined, coverage.declined
    found = [node for node in model.graph if node.op_type == "Attention"]
    assert len(found) == count, coverage
    assert not {"Softmax", "MatMul", "Einsum", "Gemm", "Where", "IsNaN"} & set(ops(model)) - {
        "Where"
    }
    for node in found:
        call = read_attention(node)
        assert all(v.shape is not None and len(v.shape) == 4 for v in (call.q, call.k, call.v))
    after = onnx_ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    for choice in range(len(BINDINGS.choices)):
        old = outputs(before, choice, runtime=True)
        new = outputs(after, choice, runtime=False)
        assert max(compare(a, b) for a, b in zip(old, new, strict=True)) <= 1e-5
    assert run(model).changed == 0
    return found


def declines(model: onnx_ir.Model, reason: str) -> None:
    before = str(onnx_ir.to_proto(model).graph)
    coverage = run(model)
    assert not coverage.failures
    assert coverage.changed == 0
    assert str(onnx_ir.to_proto(model).graph) == before
    said = [*coverage.declined.values(), *coverage.near_misses.values()]
    assert len(said) == 1
    assert reason in said[0]


def attention(scores: str, inputs: str = "", after: str = "", **more: Array) -> onnx_ir.Model:
    """Return a model whose softmax reads ``s``, which ``scores`` compute; ``p`` is what the values are weighted by."""
    tail = f"w = Softmax<axis=-1>(s) {after or 'p = Identity(w)'} y = MatMul(p, v)"
    return read(f"({QKV}{inputs}) => ({OUT}) {{ {scores} {tail} }}", **more)


SCALES = {
    "mul": (f"{KT} t = MatMul(q, kt) s = Mul(t, c)", 0.5),
    "mul-left": (f"{KT} t = MatMul(q, kt) s = Mul(c, t)", 0.5),
    "div": (f"{KT} t = MatMul(q, kt) s = Div(t, e)", 0.5),
    "none": (f"{KT} s = MatMul(q, kt)", 1.0),
    "q": (f"{KT} a = Mul(q, c) s = MatMul(a, kt)", 0.5),
    "k-before": ("a = Div(k, e) b = Transpose<perm=[0,1,3,2]>(a) s = MatMul(q, b)", 0.5),
    "k-after": (f"{KT} b = Mul(kt, c) s = MatMul(q, b)", 0.5),
    "both": (f"{KT} a = Mul(q, c) b = Mul(c, kt) s = MatMul(a, b)", 0.25),
    "three": (f"{KT} a = Mul(q, c) t = MatMul(a, kt) u = Div(t, e) s = Mul(u, c)", 0.125),
    "neg": (f"{KT} a = Mul(q, minus) t = MatMul(a, kt) s = Neg(t)", 0.5),
}


@pytest.mark.parametrize("case", SCALES)
def test_scale(case: str) -> None:
    text, scale = SCALES[case]
    (node,) = lifts(attention(text))
    call = read_attention(node)
    assert call.scale == pytest.approx(scale)
    assert call.mask is None
    assert call.q.name == "q"
    assert call.v.name == "v"


def test_default_operands_are_the_inputs() -> None:
    (node,) = lifts(attention(f"{KT} s = MatMul(q, kt)"))
    assert [v and v.name for v in node.inputs] == ["q", "k", "v"]


def test_a_negative_scale_goes_to_the_queries() -> None:
    (node,) = lifts(attention(f"{KT} t = MatMul(q, kt) s = Mul(t, minus)"))
    call = read_attention(node)
    assert call.scale == 1.0
    assert call.q.producer() is not None


S = f"{KT} t = MatMul(q, kt)"
MASKS = {
    "add": (f"{S} s = Add(t, m)", ", float[N,2,M,K] m"),
    "add-left": (f"{S} s = Add(m, t)", ", float[N,1,M,K] m"),
    "sub": (f"{S} s = Sub(t, m)", ", float[N,1,M,K] m"),
    "sub-from": (f"{S} u = Sub(m, t) s = Neg(u)", ", float[N,1,M,K] m"),
    "thin": (f"{S} s = Add(t, m)", ", float[N,1,1,K] m"),
    "per-head": (f"{S} s = Add(t, m)", ", float[2,M,K] m"),
    "flat": (f"{S} s = Add(t, m)", ", float[M,K] m"),
    "keys": (f"{S} s = Add(t, m)", ", float[K] m"),
    "queries": (f"{S} s = Add(t, m)", ", float[N,1,M,1] m"),
    "two": (f"{S} u = Add(t, m) s = Add(n, u)", ", float[N,1,M,K] m, float[2,1,K] n"),
    "three": (f"{S} u = Add(t, m) x = Sub(u, n) s = Add(x, m)", ", float[M,K] m, float[1,1,1,K] n"),
    "scaled-before": (f"{S} u = Mul(t, c) s = Add(u, m)", ", float[N,1,M,K] m"),
    "scaled-after": (f"{S} u = Add(t, m) s = Mul(u, c)", ", float[N,1,M,K] m"),
    "scaled-between": (
        f"{S} u = Add(t, m) x = Div(u, e) s = Add(x, n)",
        ", float[N,1,M,K] m, float[K] n",
    ),
    "where": (f"{S} s = Where(m, t, low)", ", bool[N,1,M,K] m"),
    "where-nine": (f"{S} s = Where(m, t, nine)", ", bool[N,1,M,K] m"),
    "where-four": (f"{S} s = Where(m, t, four)", ", bool[M,K] m"),
    "where-hidden": (f"{S} s = Where(m, low, t)", ", bool[N,2,M,K] m"),
    "where-scaled": (f"{S} u = Where(m, nine, t) s = Mul(u, c)", ", bool[N,1,M,K] m"),
    "where-and-add": (
        f"{S} u = Add(t, n) s = Where(m, u, nine)",
        ", bool[N,1,M,K] m, float[2,M,K] n",
    ),
    "add-where": (
        f"{S} u = Where(m, zero, low) s = Add(t, u)",
        ", bool[N,1,M,K] m",
    ),
    "add-one-minus": (
        f"{S} a = Cast<to=1>(m) b = Sub(one, a) u = Mul(b, low) s = Add(t, u)",
        ", bool[N,1,1,K] m",
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_mask(case: str) -> None:
    text, inputs = MASKS[case]
    (node,) = lifts(attention(text, inputs))
    assert read_attention(node).mask is not None


def test_a_fill_at_the_lowest_number_is_raised() -> None:
    """The runtime's kernel takes a row of the lowest float for one without keys."""
    model = attention(f"{S} u = Where(m, zero, low) s = Add(t, u)", ", bool[N,1,M,K] m")
    before = onnx_ir.to_proto(model)
    lifts(model)
    hidden = {"m": np.zeros((2, 1, 3, 4), np.bool_)}
    feeds = {**BINDINGS.feeds(model, 0), **hidden}
    old = Executor(before).run(feeds)
    new = Executor(onnx_ir.to_proto(model)).run(feeds)
    assert compare(old[0], new[0]) <= 1e-5


@pytest.mark.parametrize("guarded", [False, True])
def test_minus_infinity_is_added(guarded: bool) -> None:
    guard = "n = IsNaN(w) p = Where(n, zero, w)" if guarded else ""
    model = attention(f"{S} s = Where(m, t, inf)", ", bool[N,1,M,K] m", guard)
    before = onnx_ir.to_proto(model)
    coverage = run(model)
    assert not coverage.failures
    assert coverage.changed == 2
    assert ops(model) == ["Where", "Attention"]
    masked = np.ones((2, 1, 3, 4), np.bool_)
    masked[0, 0, 1], masked[1, 0, 2, 1:] = False, False
    feeds = {**BINDINGS.feeds(model, 0), "m": masked}
    (old,), (new,) = Executor(before).run(feeds), Executor(onnx_ir.to_proto(model)).run(feeds)
    assert not new[0, :, 1].any()
    assert np.isnan(old[0, :, 1]).all() or guarded
    assert compare(np.nan_to_num(old), new) <= 1e-5


def test_several_heads_share_one_key_head() -> None:
    text = """(float[N,4,M,4] q, float[N,1,K,4] k, float[N,1,K,6] v) => (float[N,4,M,6] y)
    { kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) w = Softmax<axis=3>(s) y = MatMul(w, v) }"""
    lifts(read(text))


def test_learned_queries_are_expanded_over_the_batch() -> None:
    text = """(float[N,2,K,4] k, float[N,2,K,6] v) => (float[N,2,3,6] y)
    { kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(latent, kt) w = Softmax(s) y = MatMul(w, v) }"""
    latent = np.linspace(-1, 1, 24, dtype="float32").reshape(1, 2, 3, 4)
    lifts(read(text, latent=latent))


TENSOR_SCALES = {
    "per-head": ("s = Mul(t, f)", "float[2,1,1] f"),
    "divided": ("s = Div(t, f)", "float[N,2,1,1] f"),
    "one-number": ("s = Mul(f, t)", "float f"),
    "per-query": ("s = Mul(t, f)", "float[N,2,M,1] f"),
    "before-mask": ("u = Mul(t, f) s = Add(u, table2)", "float[2,1,1] f"),
}


@pytest.mark.parametrize("case", TENSOR_SCALES)
def test_a_tensor_scales_the_queries(case: str) -> None:
    steps, given_ = TENSOR_SCALES[case]
    table = np.linspace(-1, 1, 2, dtype="float32").reshape(2, 1, 1)
    lifts(attention(f"{S} {steps}", f", {given_}", table2=table))


@pytest.mark.parametrize("outer", ["e", "minus"])
def test_soft_cap(outer: str) -> None:
    steps = f"a = Mul(t, c) b = Div(a, e) h = Tanh(b) u = Mul(h, {outer}) s = Add(u, m)"
    (node,) = lifts(attention(f"{S} {steps}", ", float[N,1,M,K] m"))
    call = read_attention(node)
    assert call.softcap == pytest.approx(abs(float(CONSTANTS[outer])))


KEYS = {
    "folded": ("float[N,K,2,4] k", "kt = Transpose<perm=[0,2,3,1]>(k)"),
    "given": ("float[N,2,4,K] k", "kt = Identity(k)"),
    "twice": (
        "float[N,K,2,4] k",
        "h = Transpose<perm=[0,2,1,3]>(k) kt = Transpose<perm=[0,1,3,2]>(h)",
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_keys(case: str) -> None:
    given_, steps = KEYS[case]
    text = f"""(float[N,2,M,4] q, {given_}, float[N,2,K,6] v) => ({OUT})
    {{ {steps} t = MatMul(q, kt) s = Mul(t, c) w = Softmax(s) y = MatMul(w, v) }}"""
    (node,) = lifts(read(text))
    assert ops_above(node) <= 1


def ops_above(node: onnx_ir.Node) -> int:
    graph = node.graph
    assert graph is not None
    return sum(1 for other in graph if other.op_type == "Transpose")


def test_keys_transposed_flat() -> None:
    """As torch's exporter writes a transposition of the last two axes at opset 18."""
    text = f"""(float[N,2,M,4] q, float[N,2,5,4] k, float[N,2,5,6] v) => ({OUT})
    {{ a = Reshape(k, flat) b = Transpose<perm=[0,2,1]>(a) kt = Reshape(b, full)
       x = Mul(q, c) z = Mul(kt, c) s = MatMul(x, z) w = Softmax(s) y = MatMul(w, v) }}"""
    shapes = {"flat": np.array([-1, 5, 4]), "full": np.array([-1, 2, 4, 5])}
    (node,) = lifts(read(text, **shapes))
    assert [v and v.name for v in node.inputs] == ["q", "k", "v"]


def test_values_come_first() -> None:
    text = f"""(float[N,2,M,4] q, float[N,2,K,4] k, float[N,2,6,K] v) => (float[N,2,6,M] y)
    {{ {KT} s = MatMul(q, kt) w = Softmax(s) p = Transpose<perm=[0,1,3,2]>(w) y = MatMul(v, p) }}"""
    lifts(read(text))


RANKS = {
    "two": ("float[M,4] q, float[K,4] k, float[K,6] v", "float[M,6] y", "[1,0]", "float[M,K] m"),
    "three": (
        "float[N,M,4] q, float[N,K,4] k, float[N,K,6] v",
        "float[N,M,6] y",
        "[0,2,1]",
        "float[N,M,K] m",
    ),
    "three-shared-mask": (
        "float[N,M,4] q, float[N,K,4] k, float[N,K,6] v",
        "float[N,M,6] y",
        "[0,2,1]",
        "float[1,M,K] m",
    ),
    "five": (
        "float[N,3,2,M,4] q, float[N,3,2,K,4] k, float[N,3,2,K,6] v",
        "float[N,3,2,M,6] y",
        "[0,1,2,4,3]",
        "float[N,3,2,M,K] m",
    ),
    "five-windows": (
        "float[N,3,2,M,4] q, float[N,3,2,K,4] k, float[N,3,2,K,6] v",
        "float[N,3,2,M,6] y",
        "[0,1,2,4,3]",
        "float[1,3,1,M,K] m",
    ),
    "five-heads": (
        "float[N,3,2,M,4] q, float[N,3,2,K,4] k, float[N,3,2,K,6] v",
        "float[N,3,2,M,6] y",
        "[0,1,2,4,3]",
        "float[2,M,K] m",
    ),
}


@pytest.mark.parametrize("case", RANKS)
def test_rank(case: str) -> None:
    inputs, out, perm, mask = RANKS[case]
    text = f"""({inputs}, {mask}) => ({out})
    {{ kt = Transpose<perm={perm}>(k) t = MatMul(q, kt) s = Add(t, m) w = Softmax(s) y = MatMul(w, v) }}"""
    lifts(read(text))


def test_batch_and_heads_are_one_axis_for_a_while() -> None:
    """As BLOOM: product of rank 3 with a bias per head, mask at rank 4, values at rank 3."""
    text = """(float[N,2,5,4] q4, float[N,2,5,4] k4, float[N,2,5,6] v4, float[N,2,5] alibi, float[N,1,5,5] m)
    => (float[N,2,5,6] y)
    { q = Reshape(q4, three) k = Reshape(k4, three) v = Reshape(v4, values) kt = Transpose<perm=[0,2,1]>(k)
      t = MatMul(q, kt) u = Mul(t, c) a = Reshape(alibi, row) x = Add(a, u) z = Reshape(x, four) s = Add(z, m)
      w = Softmax(s) p = Reshape(w, scores) o = MatMul(p, v) y = Reshape(o, out) }"""
    shapes = {
        "three": np.array([-1, 5, 4]),
        "values": np.array([-1, 5, 6]),
        "row": np.array([-1, 1, 5]),
        "four": np.array([-1, 2, 5, 5]),
        "scores": np.array([-1, 5, 5]),
        "out": np.array([-1, 2, 5, 6]),
    }
    model = read(text, **shapes)
    (node,) = lifts(model)
    assert [v and v.name for v in node.inputs[:3]] == ["q4", "k4", "v4"]
    assert ops(model) == ["Unsqueeze", "Add", "Attention"]


def test_batched_heads_are_split_where_they_were_merged() -> None:
    text = """(float[N,2,5,4] q4, float[N,2,5,4] k4, float[N,2,5,6] v4) => (float[P,5,6] y)
    { q = Reshape(q4, three) k = Reshape(k4, three) v = Reshape(v4, values) kt = Transpose<perm=[0,2,1]>(k)
      s = MatMul(q, kt) w = Softmax(s) y = MatMul(w, v) }"""
    (node,) = lifts(read(text, three=np.array([-1, 5, 4]), values=np.array([-1, 5, 6])))
    assert [v and v.name for v in node.inputs] == ["q4", "k4", "v4"]


def test_masks_of_windows_are_spread_over_the_batch() -> None:
    """As SwinV2: bias at rank 4, mask of three windows at rank 5."""
    text = """(float[P,2,5,4] q, float[P,2,5,4] k, float[P,2,5,6] v, float[1,3,1,5,5] m, float[1,2,5,5] b)
    => (float[P,2,5,6] y)
    { kt = Transpose<perm=[0,1,3,2]>(k) t = MatMul(q, kt) u = Add(t, b) a = Reshape(u, five) d = Add(a, m)
      s = Reshape(d, four) w = Softmax(s) y = MatMul(w, v) }"""
    shapes = {"five": np.array([-1, 3, 2, 5, 5]), "four": np.array([-1, 2, 5, 5])}
    model = read(text.replace("P", "6"), **shapes)
    (node,) = lifts(model)
    assert read_attention(node).mask is not None


EINSUMS = {
    "bhnm": ("bhid,bhjd->bhij", "bhij,bhjd->bhid", "N,2,M,4", "N,2,K,4", "N,2,K,6", "N,2,M,6"),
    "bnhd": ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "N,M,2,4", "N,K,2,4", "N,K,2,6", "N,M,2,6"),
    "keys-first": (
        "bkhd,bqhd->bhqk",
        "bkhd,bhqk->bqhd",
        "N,M,2,4",
        "N,K,2,4",
        "N,K,2,6",
        "N,M,2,6",
    ),
    "one-key-head": ("bhid,bjd->bhij", "bhij,bjd->bhid", "N,2,M,4", "N,K,4", "N,K,6", "N,2,M,6"),
    "three": ("bid,bjd->bij", "bij,bjd->bid", "N,M,4", "N,K,4", "N,K,6", "N,M,6"),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_einsum(case: str) -> None:
    first, second, q, k, v, y = EINSUMS[case]
    left, right = ("k, q", "v, w") if case == "keys-first" else ("q, k", "w, v")
    text = f"""(float[{q}] q, float[{k}] k, float[{v}] v) => (float[{y}] y)
    {{ t = Einsum<equation="{first}">({left}) s = Mul(t, c) w = Softmax(s)
       y = Einsum<equation="{second}">({right}) }}"""
    lifts(read(text))


def test_gemm() -> None:
    text = """(float[M,4] q, float[K,4] k, float[K,6] v, float[M,K] m) => (float[M,6] y)
    { s = Gemm<transB=1, alpha=0.5, beta=2.0>(q, k, m) w = Softmax(s) y = Gemm(w, v) }"""
    (node,) = lifts(read(text))
    assert read_attention(node).scale == 0.5


def test_fused_matmul() -> None:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> g ({QKV}) => ({OUT})
        {{ s = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(q, k) w = Softmax(s) y = MatMul(w, v) }}"""
    )
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        node.name = node.op_type
        if node.op_type in {"FusedMatMul", "Softmax"}:
            node.outputs[0].shape = onnx_ir.Shape(["N", 2, "M", "K"])
            node.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    coverage = run(model)
    assert not coverage.failures
    assert ops(model) == ["Attention"]
    assert read_attention(model.graph[0]).scale == 0.5


def test_two_attentions_in_a_row() -> None:
    text = f"""(float[N,2,M,4] q, float[N,2,K,4] k, float[N,2,K,4] v) => (float[N,2,M,4] y)
    {{ {KT} s = MatMul(q, kt) w = Softmax(s) z = MatMul(w, v)
       t = MatMul(z, kt) x = Softmax(t) y = MatMul(x, v) }}"""
    lifts(read(text), 2)


LEFT: Mapping[str, tuple[str, str, str]] = {
    "no product": (
        f"({QKV}) => ({OUT}) {{ u = MatMul(q, square) s = Relu(u) w = Softmax(s) y = MatMul(w, v) }}",
        "Relu",
        "float[N,2,M,4] q, float[N,2,4,4] k, float[N,2,4,6] v",
    ),
    "linear": (
        f"({QKV}) => ({OUT}) {{ s = MatMul(q, square) w = Softmax(s) y = MatMul(w, v) }}",
        "stands where a product of queries and keys was expected",
        "float[N,2,M,4] q, float[N,2,4,4] k, float[N,2,4,6] v",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_no_scores(case: str) -> None:
    text, reason, inputs = LEFT[case]
    square = np.eye(4, dtype="float32")
    declines(read(text.replace(QKV, inputs), square=square), reason)


REASONS = {
    "axis": (f"{S} s = Identity(t)", "", "w2 = Softmax<axis=2>(s) p = Identity(w2)", "over axis 2"),
    "read-scores": (f"{S} s = Mul(t, c)", "", "a = Relu(s) p = Add(w, a)", "go to Add"),
    "scores-elsewhere": (
        f"{S} s = Mul(t, c) r = Relu(t)",
        "",
        "p = Identity(w)",
        "the scores 't' are read elsewhere too",
    ),
    "read-twice": (f"{S} s = Mul(t, c)", "", "a = Relu(w) p = Add(w, a)", "are read by"),
    "mixed-heads": (f"{S} s = Mul(t, c)", "", "p = Mul(w, heads)", "go to Mul"),
    "capped-mask": (
        f"{S} u = Add(t, m) s = Tanh(u)",
        ", float[M,K] m",
        "",
        "before the scores are capped",
    ),
    "capped-twice": (f"{S} u = Tanh(t) s = Tanh(u)", "", "", "capped twice"),
    "small-fill": (f"{S} s = Where(m, t, minus)", ", bool[M,K] m", "", "fills with -0.5"),
    "computed-fill": (
        f"{S} s = Where(m, t, n)",
        ", bool[M,K] m, float[M,K] n",
        "",
        "something computed",
    ),
    "mask-on-fill": (
        f"{S} u = Where(m, t, four) s = Add(u, n)",
        ", bool[M,K] m, float[M,K] n",
        "",
        "a mask is added behind Where",
    ),
    "per-key-scale": (f"{S} s = Mul(t, n)", ", float[N,2,1,K] n", "", "may vary between keys"),
    "scaled-masked": (
        f"{S} u = Add(t, m) s = Mul(u, n)",
        ", float[M,K] m, float[2,1,1] n",
        "",
        "a tensor scales the masked scores",
    ),
    "inverse": (f"{S} s = Div(c, t)", "", "", "the scores divide"),
    "cast": (
        f"{S} a = Cast<to=11>(t) s = Cast<to=1>(a)",
        "",
        "",
        "Cast",
    ),
    "product-of-products": (
        f"{S} u = MatMul(q, kt) s = Mul(t, u)",
        "",
        "",
        "combines two products",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_reason(case: str) -> None:
    scores, inputs, after, reason = REASONS[case]
    heads = np.ones((2, 1, 1), np.float32)
    model = attention(scores, inputs, after, heads=heads)
    if case == "axis":
        model = read(f"({QKV}) => ({OUT}) {{ {S} w = Softmax<axis=2>(t) y = MatMul(w, v) }}")
    if case == "scores-elsewhere":
        model = read(
            f"({QKV}) => ({OUT}, float[N,2,M,K] r) "
            f"{{ {S} r = Relu(t) s = Mul(t, c) w = Softmax(s) y = MatMul(w, v) }}"
        )
    declines(model, reason)


def test_probabilities_that_are_an_output() -> None:
    text = f"({QKV}) => ({OUT}, float[N,2,M,K] w) {{ {S} w = Softmax(t) y = MatMul(w, v) }}"
    declines(read(text), "an output of the model")


def test_an_older_operator_set() -> None:
    text = f"({QKV}) => ({OUT}) {{ {S} w = Softmax(t) y = MatMul(w, v) }}"
    declines(build(text, {}, 20), "opset 20 has no Attention")


HALF = "float16[N,2,M,4] q, float16[N,2,K,4] k, float16[N,2,K,6] v"


def test_a_softmax_of_another_type() -> None:
    body = f"{S} s = Cast<to=1>(t) w = Softmax(s) p = Cast<to=10>(w) y = MatMul(p, v)"
    declines(read(f"({HALF}) => (float16[N,2,M,6] y) {{ {body} }}"), "changes the type")


def test_a_fill_of_half_precision() -> None:
    body = f"{S} s = Where(m, t, deep) w = Softmax(s) y = MatMul(w, v)"
    model = read(
        f"({HALF}, bool[M,K] m) => (float16[N,2,M,6] y) {{ {body} }}", deep=np.float16(-65504)
    )
    declines(model, "absorbs the scores")


WIDER = {
    "queries": ("float[N,2,1,4] q, float[N,2,K,4] k, float[N,2,K,6] v, float[M,K] m", "Add"),
    "batch": ("float[1,2,M,4] q, float[1,2,K,4] k, float[1,2,K,6] v, float[N,1,M,K] m", "Add"),
    "heads": ("float[N,1,M,4] q, float[N,1,K,4] k, float[N,1,K,6] v, float[2,1,1] m", "Mul"),
}


@pytest.mark.parametrize("case", WIDER)
def test_what_widens_the_scores(case: str) -> None:
    inputs, kind = WIDER[case]
    body = f"{S} s = {kind}(t, m) w = Softmax(s) y = MatMul(w, v)"
    declines(read(f"({inputs}) => (float[N,2,M,6] y) {{ {body} }}"), "makes an axis of the scores")


def test_unknown_sizes() -> None:
    text = "(float[a,b,c,d] q, float[e,f,g,h] k, float[i,j,l,o] v) => (float[p,r,z,u] y)"
    declines(read(f"{text} {{ {S} w = Softmax(t) y = MatMul(w, v) }}"), "keys have f heads")


def test_key_and_value_heads_that_differ() -> None:
    text = """(float[N,2,M,4] q, float[N,1,K,4] k, float[N,2,K,6] v) => (float[N,2,M,6] y)
    { kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) w = Softmax(s) y = MatMul(w, v) }"""
    declines(read(text), "keys have 1 heads, values 2")


def test_scores_split_between_queries() -> None:
    text = """(float[N,2,6,4] q, float[N,2,6,4] k, float[N,2,6,4] v, float[2,3,1,6] m) => (float[N,2,6,4] y)
    { kt = Transpose<perm=[0,1,3,2]>(k) t = MatMul(q, kt) u = Reshape(t, six) a = Add(u, m) s = Reshape(a, four)
      w = Softmax(s) y = MatMul(w, v) }"""
    shapes = {"six": np.array([-1, 2, 2, 3, 1, 6]), "four": np.array([-1, 2, 6, 6])}
    declines(read(text, **shapes), "may split queries or keys")


@dataclasses.dataclass(frozen=True)
class Spelling:
    """One way to write the same attention."""

    query: str
    key: str
    folded: bool
    cap: bool
    steps: tuple[str, ...]
    reverse: bool
    swap: bool

    def text(self) -> str:
        lines = {"plain": "a = Identity(q)", "mul": "a = Mul(q, c)", "div": "a = Div(q, e)"}
        keys = "float[N,K,2,4] k" if self.folded else "float[N,2,K,4] k"
        perm = "[0,2,3,1]" if self.folded else "[0,1,3,2]"
        after = {"plain": "", "mul": "b2 = Mul(c, b)", "div": "b2 = Div(b, e)"}[self.key]
        body = [lines[self.query], f"b = Transpose<perm={perm}>(k)", after]
        body.append(f"s0 = MatMul(a, {'b2' if after else 'b'})")
        count = 0
        for step in (*(("cap",) if self.cap else ()), *self.steps):
            body += self._step(step, count)
            count += 1
        body.append(f"w = Softmax<axis=-1>(s{count})")
        value = "float[N,2,6,K] v" if self.swap else "float[N,2,K,6] v"
        out = "float[N,2,6,M] y" if self.swap else "float[N,2,M,6] y"
        product = (
            "wt = Transpose<perm=[0,1,3,2]>(w) y = MatMul(v, wt)"
            if self.swap
            else "y = MatMul(w, v)"
        )
        masks = "float[N,1,M,K] full, float[2,1,K] head, float[K] flat, bool[N,1,1,K] keep, float[2,1,1] tall"
        return f"(float[N,2,M,4] q, {keys}, {value}, {masks}) => ({out}) {{ {' '.join(body)} {product} }}"

    def _step(self, step: str, at: int) -> list[str]:
        old, new = f"s{at}", f"s{at + 1}"
        if step == "cap":
            return [f"h{at} = Tanh({old})", f"{new} = Mul(h{at}, e)"]
        if step in {"mul", "div"}:
            return [f"{new} = {step.title()}({old}, {'c' if step == 'mul' else 'e'})"]
        if step == "where":
            return [f"{new} = Where(keep, {old}, low)"]
        if step == "sub":
            return [f"{new} = Sub({old}, flat)"]
        pair = f"{step}, {old}" if self.reverse else f"{old}, {step}"
        return [f"{new} = Add({pair})"]


spellings = st.builds(
    Spelling,
    st.sampled_from(["plain", "mul", "div"]),
    st.sampled_from(["plain", "mul", "div"]),
    st.booleans(),
    st.booleans(),
    st.lists(
        st.sampled_from(["mul", "div", "full", "head", "flat", "sub", "where"]), max_size=5
    ).map(tuple),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(spellings)
def test_any_combination(spelling: Spelling) -> None:
    lifts(read(spelling.text()))
