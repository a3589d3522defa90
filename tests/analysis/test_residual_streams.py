import onnx_ir
import pytest
from folding import build, weights

from whet.analysis.residual_streams import ResidualStream, find_residual_streams

SHAPES = weights(
    e=(5, 8), p=(8,), g=(8,), b=(8,), w1=(8, 6), w2=(6, 8), b2=(8,), h=(8, 3), s=(1,)
)  # fmt: skip
BLOCK = """x0 = Gather(e, ids) x = Add(x0, p) n = {norm} u = MatMul(n, w1) a = Relu(u) v = MatMul(a, w2)
f = Add(v, b2) z = Add(x, f) """


def stream_of(end: str, norm: str = "RMSNormalization(x, g)") -> ResidualStream:
    text = f"(int64[N,M] ids) => (float[N,M,3] y) {{ {BLOCK.format(norm=norm)} {end} }}"
    used = {k: v for k, v in SHAPES.items() if f"{k}," in text or f"{k})" in text}
    (stream,) = find_residual_streams(build(text, used, opset=23).graph)
    return stream


def kinds(nodes: list[onnx_ir.Node]) -> list[str]:
    return [node.op_type for node in nodes]


def test_writers_readers_and_what_joins_them() -> None:
    stream = stream_of("m = RMSNormalization(z, g) y = MatMul(m, h)")
    assert stream.size == 8
    assert not stream.obstacles
    assert not stream.centered
    assert kinds(stream.writers) == ["Gather", "MatMul"]
    assert kinds(stream.joints) == ["Add", "Add", "Add"]
    assert [kinds(norm.readers) for norm in stream.norms] == [["MatMul"], ["MatMul"]]
    constants = {v.name for v in stream.axes if v.const_value is not None}
    assert constants == {"p", "b2"}


def test_direct_readers_and_a_mean_that_is_subtracted() -> None:
    stream = stream_of("y = MatMul(z, h)", norm="LayerNormalization(x, g, b)")
    assert kinds(stream.readers) == ["MatMul"]
    assert stream.centered


def test_pooling_and_movement_behind_a_normalization() -> None:
    end = """m = RMSNormalization(z, g) t = Transpose<perm=[1, 0, 2]>(m) r = Slice(t, one, two, one)
    c = Concat<axis=0>(r, r) y = MatMul(c, h)"""
    text = f"(int64[N,M] ids) => (float[K,N,3] y) {{ {BLOCK.format(norm='RMSNormalization(x, g)')} {end} }}"
    constants = dict(SHAPES) | {"one": [1], "two": [2]}
    used = {k: v for k, v in constants.items() if f"{k}," in text or f"{k})" in text}
    (stream,) = find_residual_streams(build(text, used, opset=23).graph)
    assert not stream.obstacles
    assert kinds(stream.norms[1].between) == ["Transpose", "Slice", "Concat"]


OBSTACLES = {
    "m = LayerNormalization(z, g) q = Add(m, p) r = LayerNormalization(q, g) y = MatMul(r, h)": "is post-norm",
    "m = RMSNormalization(z, g) q = Sigmoid(z) c = Mul(m, q) y = MatMul(c, h)": "does not leave the channels alone",
    "m = RMSNormalization(z, g) q = Mul(z, g) c = Add(m, q) y = MatMul(c, h)": "does not leave the channels alone",
    "m = RMSNormalization<axis=1>(z, k) y = MatMul(m, h)": "normalizes in another way",
    "a1, a2 = Split<axis=-1, num_outputs=2>(z) c = Concat<axis=-1>(a2, a1) m = RMSNormalization(z, g) "
    "d = Add(m, c) y = MatMul(d, h)": "works along the channels",
}  # fmt: skip


@pytest.mark.parametrize("end", OBSTACLES)
def test_obstacles_are_named(end: str) -> None:
    end = end.replace("<axis=1>(z, k)", "<axis=1>(z, p)")
    stream = stream_of(end)
    assert any(OBSTACLES[end.replace("(z, p)", "(z, k)", 1) if "axis=1>" in end else end] in r
               for r in stream.obstacles.values()), stream.obstacles  # fmt: skip


def test_outputs_and_inputs_of_the_model_are_obstacles() -> None:
    model = build(
        """(float[N,8] x) => (float[N,8] y) { n = RMSNormalization(x, g) u = MatMul(n, w1) v = MatMul(u, w2)
        y = Add(x, v) }""",
        {k: SHAPES[k] for k in ("g", "w1", "w2")},
        opset=23,
    )
    (stream,) = find_residual_streams(model.graph)
    assert any("is an input of the model" in r for r in stream.obstacles.values())
    assert any("is an output of the model" in r for r in stream.obstacles.values())


def test_a_normalization_without_additions_is_no_stream() -> None:
    model = build(
        "(float[N,8] x) => (float[N,6] y) { n = RMSNormalization(x, g) y = MatMul(n, w1) }",
        {k: SHAPES[k] for k in ("g", "w1")},
        opset=23,
    )
    assert not find_residual_streams(model.graph)
