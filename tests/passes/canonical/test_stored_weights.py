import numpy as np
import pytest
from folding import build

from whet.passes.canonical.fold_constants import FoldConstants
from whet.passes.canonical.stored_weights import is_decoding
from whet.passes.workbench import Context, Workbench

BYTES = np.arange(24, dtype=np.uint8).reshape(8, 1, 3)
SHIFTS = np.arange(8, dtype=np.uint8)[:, None]
HALF = np.ones((40, 2), np.float16)


def kept(text: str, **constants: np.ndarray) -> list[str]:
    """Return the operators that are recognized, and check that folding leaves exactly them and what follows."""
    model = build(text, constants, opset=21)
    found = [n.op_type for n in model.graph if is_decoding(n)]
    work = Workbench(model, FoldConstants(), Context())
    FoldConstants().apply(work)
    left = [n.op_type for n in model.graph]
    assert all(op_type in left for op_type in found)
    return found


def test_bits_shifted_out_of_bytes() -> None:
    text = """(float[8,8,3] x) => (float[8,8,3] y)
    { b = BitShift<direction="LEFT">(w, s) f = Cast<to=1>(b) y = Add(x, f) }"""
    assert kept(text, w=BYTES, s=SHIFTS) == ["BitShift"]
    same = text.replace("[8,8,3]", "[8,1,3]").replace("(w, s)", "(w, w)")
    assert kept(same, w=BYTES) == []


def test_two_factors_and_what_widens_them() -> None:
    text = "(float[N,40] x) => (float[N,40] y) { w = MatMul(a, b) y = MatMul(x, w) }"
    left, right = np.ones((40, 2), np.float32), np.ones((2, 40), np.float32)
    assert kept(text, a=left, b=right) == ["MatMul"]
    wide = text.replace("w =", "a = Cast<to=1>(h) w =")
    assert kept(wide, h=HALF, b=right) == ["Cast", "MatMul"]


@pytest.mark.parametrize("inner", [1, 40])
def test_products_that_are_arithmetic_fold(inner: int) -> None:
    text = "(float[N,40] x) => (float[N,40] y) { w = MatMul(a, b) y = MatMul(x, w) }"
    left, right = np.ones((40, inner), np.float32), np.ones((inner, 40), np.float32)
    assert kept(text, a=left, b=right) == []


def test_a_widened_weight_of_an_ordinary_product_folds() -> None:
    text = "(float[N,40] x) => (float[N,2] y) { w = Cast<to=1>(h) y = MatMul(x, w) }"
    assert kept(text, h=HALF) == []


def test_a_table_is_kept_narrow_only_where_codes_are_decoded() -> None:
    decoded = """(float[2,12] x) => (float[2,12] y)
    { b = BitShift<direction="RIGHT">(c, s) i = Cast<to=6>(b) t = Cast<to=1>(h)
      w = GatherElements<axis=1>(t, i) y = Add(x, w) }"""
    codes, halves = np.zeros((2, 1), np.uint8), np.ones((2, 4), np.float16)
    shifts = np.zeros((1, 12), np.uint8)
    assert kept(decoded, c=codes, s=shifts, h=halves) == ["BitShift", "Cast"]
    table = (
        "(int64[2,3] i) => (float[2,3] y) { t = Cast<to=1>(h) y = GatherElements<axis=1>(t, i) }"
    )
    assert kept(table, h=halves) == []


def test_places_stored_as_distances() -> None:
    text = """(float[9] x) => (float[9] y)
    { g = Cast<to=6>(d) p = CumSum(g, z) w = ConstantOfShape(n)
      v = ScatterElements<axis=0, reduction="add">(w, p, u) y = Add(x, v) }"""
    constants = {
        "d": np.asarray([1, 2], np.uint8),
        "z": np.asarray(0, np.int32),
        "n": np.asarray([9]),
        "u": np.ones(2, np.float32),
    }
    assert kept(text, **constants) == ["Cast", "CumSum", "ConstantOfShape"]
