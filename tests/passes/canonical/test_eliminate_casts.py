import itertools

import numpy as np
import onnx_ir
import pytest
from rewriting import declines, model_of, op_types, run_pass

from whet.ir.execute import Executor
from whet.passes.canonical.eliminate_casts import EliminateCasts, mergeable

FLOAT, FLOAT16, INT64, DOUBLE, BOOL, INT8 = 1, 10, 7, 11, 9, 3


def chain(source: str, middle: int, target: str, to: int) -> str:
    return f"({source}[N] x) => ({target}[N] y) {{ a = Cast<to={middle}>(x) y = Cast<to={to}>(a) }}"


def test_a_cast_to_the_same_type_goes() -> None:
    text = "(float[N] x) => (float[N] y) { a = Cast<to=1>(x) y = Relu(a) }"
    model, _ = run_pass(text, EliminateCasts())
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize(
    "text",
    [
        chain("float", DOUBLE, "float16", FLOAT16),
        chain("int8", INT64, "float", FLOAT),
        chain("bool", FLOAT, "int64", INT64),
        chain("float16", FLOAT, "double", DOUBLE),
        chain("float", DOUBLE, "int64", INT64),
    ],
)
def test_a_widening_cast_goes(text: str) -> None:
    model, _ = run_pass(text, EliminateCasts())
    assert op_types(model) == ["Cast"]


def test_there_and_back_goes() -> None:
    text = """(float[N] x) => (float[N] y) {
        a = Cast<to=11>(x) b = Cast<to=1>(a) y = Relu(b) }"""
    model, _ = run_pass(text, EliminateCasts())
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize(
    "text",
    [
        chain("float", INT64, "float", FLOAT),
        chain("float", FLOAT16, "float", FLOAT),
        chain("int64", FLOAT, "int64", INT64),
        chain("float", BOOL, "float", FLOAT),
        chain("int64", DOUBLE, "int8", INT8),
        "(float[N] x) => (int64[N] y) { y = Cast<to=7>(x) }",
    ],
)
def test_leaves_casts_that_lose(text: str) -> None:
    declines(text, EliminateCasts())


KINDS = [
    onnx_ir.DataType[name]
    for name in ("BOOL", "INT8", "UINT8", "INT16", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE")
]


def samples(kind: onnx_ir.DataType) -> np.ndarray:
    """Extremes, and every value of the small types."""
    if kind == onnx_ir.DataType.BOOL:
        return np.array([False, True])
    if kind.is_floating_point():
        info = np.finfo(kind.numpy())
        numbers = [0.0, -0.0, 1.5, -2.5, 100.0, float(info.eps), float(info.tiny), 1 / 3]
        return np.array(numbers, dtype=kind.numpy())
    bounds = np.iinfo(kind.numpy())
    if bounds.bits <= 16:
        return np.arange(bounds.min, bounds.max + 1, dtype=kind.numpy())
    return np.array([bounds.min, -1, 0, 1, 2**24 + 1, bounds.max], dtype=kind.numpy())


@pytest.mark.parametrize("source", KINDS, ids=lambda kind: kind.name)
def test_merged_casts_agree_on_extremes(source: onnx_ir.DataType) -> None:
    checked = 0
    for middle, target in itertools.product(KINDS, KINDS):
        if not mergeable(source, middle, target):
            continue
        long = model_of(chain(name(source), int(middle), name(target), int(target)))
        short = model_of(
            f"({name(source)}[N] x) => ({name(target)}[N] y) {{ y = Cast<to={int(target)}>(x) }}"
        )
        feeds = {"x": samples(source)}
        old, new = (Executor(onnx_ir.serde.serialize_model(m)).run(feeds) for m in (long, short))
        assert old[0].tobytes() == new[0].tobytes(), (source, middle, target)
        checked += 1
    assert checked >= 4


def name(kind: onnx_ir.DataType) -> str:
    return kind.name.lower()
