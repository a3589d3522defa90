import numpy as np
from folding import build, weights

from whet.passes.recovery.tunable import Kind, find_tunable

MATRIX, VECTOR = Kind.MATRIX, Kind.VECTOR


def found(text: str, constants: dict, opset: int = 21, leave: tuple[str, ...] = ()):
    model = build(text, constants, opset=opset)
    chosen = [node for node in model.graph if node.op_type not in leave]
    tunable, refused = find_tunable(model.graph, chosen)
    return {one.name: one.kind for one in tunable}, refused


def test_products_biases_and_normalizations() -> None:
    text = """(float[N,4] x) => (float[N,3] y) { a = LayerNormalization(x, s, b) p = MatMul(a, w) q = Add(p, c)
    r = Mul(q, f) y = PRelu(r, k) }"""
    used = weights(s=(4,), b=(4,), w=(4, 3), c=(3,), f=(1, 3), k=(3,))
    kinds, refused = found(text, used)
    assert kinds == {"s": VECTOR, "b": VECTOR, "w": MATRIX, "c": VECTOR, "f": VECTOR, "k": VECTOR}
    assert not refused


def test_convolutions() -> None:
    text = """(float[N,3,5,5] x) => (float[N,2,5,5] y) { a = Conv(x, w, c)
    d = BatchNormalization(a, s, b, m, v) y = ConvTranspose(d, u) }"""
    used = weights(w=(4, 3, 1, 1), c=(4,), s=(4,), b=(4,), m=(4,), v=(4,), u=(4, 2, 1, 1))
    kinds, _ = found(text, used)
    assert kinds == {"w": MATRIX, "c": VECTOR, "s": VECTOR, "b": VECTOR, "u": MATRIX}


def test_what_is_no_weight_of_a_product() -> None:
    """Tables, single numbers, masks, and position angles of two axes stay."""
    text = """(int64[N,3] x) => (float[N,3,4] y) { a = Gather(t, x) b = Mul(a, one) d = Add(b, mask)
    y = Add(d, places) }"""
    used = weights(t=(9, 4), one=(1,), mask=(4,), places=(3, 4))
    used["mask"] = np.asarray([0, 0, -np.inf, -1e30], np.float32)
    kinds, refused = found(text, used)
    assert not kinds
    assert list(refused) == ["t"]
    assert "Gather" in refused["t"]


def test_a_table_that_is_also_a_product() -> None:
    text = "(int64[N,3] x) => (float[N,3,4] y) { a = Gather(t, x) y = MatMul(a, t) }"
    kinds, refused = found(text, weights(t=(4, 4)))
    assert not kinds
    assert "reads it" in refused["t"]


def test_what_decodes_stored_weights_stays() -> None:
    text = """(float[N,4] x) => (float[N,4] y) { a = Cast<to=1>(codes) w = Mul(a, scale) p = MatMul(x, w)
    y = Add(p, c) }"""
    used = {**weights(scale=(4,), c=(4,)), "codes": np.ones((4, 4), np.int8)}
    assert found(text, used)[0] == {"c": VECTOR}


def test_a_shared_weight_is_one_and_counts_for_all_its_readers() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) d = MatMul(b, w) y = Add(d, c) }"
    used = weights(w=(4, 4), c=(4,))
    assert found(text, used)[0] == {"w": MATRIX, "c": VECTOR}
    kinds, refused = found(text, used, leave=("MatMul",))
    assert kinds == {"c": VECTOR}
    assert "left alone" in refused["w"]
