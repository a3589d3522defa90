from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops

from whet.compiler import compile
from whet.ir.execute import Executor
from whet.ir.saving import save_model
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.canonical.fold_constants import FoldConstants
from whet.passes.sparsity.store_sparse import StoreSparse
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(0)
PRODUCT = "(float[N,96] x) => (float[N,64] y) { y = MatMul(x, w) }"


def sparse(share: float, *shape: int, kind: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(3)
    array = rng.integers(-99, 99, shape) if kind != np.float32 else rng.standard_normal(shape)
    return (array * (rng.random(shape) < share)).astype(kind)


def apply(model: onnx_ir.Model, step: StoreSparse | None = None) -> Coverage:
    step = step or StoreSparse()
    work = Workbench(model, step, Context(bindings=BINDINGS))
    step.apply(work)
    verify(model)
    return work.coverage


def outputs(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return Executor(onnx_ir.to_proto(model)).run(feeds)


def unfolded(model: onnx_ir.Model) -> list[str]:
    before = ops(model)
    work = Workbench(model, FoldConstants(), Context(bindings=BINDINGS))
    FoldConstants().apply(work)
    assert ops(model) == before
    return before


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(("share", "operator"), [(0.5, "Gather"), (0.05, "ScatterElements")])
def test_a_weight_is_decoded_to_the_same_bits(opset: int, share: float, operator: str) -> None:
    weight = sparse(share, 96, 64)
    model = build(PRODUCT, {"w": weight}, opset=opset)
    x = {"x": RNG.standard_normal((5, 96)).astype(np.float32)}
    (before,) = outputs(model, x)
    coverage = apply(model)
    assert (coverage.matched, coverage.changed) == (1, 1), coverage
    assert outputs(model, x)[0].tobytes() == before.tobytes()
    assert operator in unfolded(model)
    (damage,) = coverage.damage
    assert damage.error == 0.0
    assert weight_bytes(model) < weight.nbytes * (share + 0.1)
    again = apply(model)
    assert again.changed == 0


@pytest.mark.parametrize(("height", "width"), [(4, 1), (1, 4), (4, 4), (1, 16)])
def test_blocks(height: int, width: int) -> None:
    kept = sparse(0.4, 96 // height, 64 // width) != 0
    mask = np.repeat(np.repeat(kept, height, 0), width, 1)
    weight = np.where(mask, RNG.standard_normal((96, 64)), 0).astype(np.float32)
    model = build(PRODUCT, {"w": weight})
    x = {"x": RNG.standard_normal((5, 96)).astype(np.float32)}
    (before,) = outputs(model, x)
    assert apply(model).changed == 1
    assert outputs(model, x)[0].tobytes() == before.tobytes()


def test_integers_keep_their_type_and_their_zero_point() -> None:
    text = """(float[N,96] x) => (float[N,64] y)
    { w = DequantizeLinear(q, s, z) y = MatMul(x, w) }"""
    weight = (sparse(0.3, 96, 64, kind=np.int8).astype(np.int16) + 128).astype(np.uint8)
    weights = {"q": weight, "s": np.float32(0.01), "z": np.uint8(128)}
    model = build(text, weights)
    x = {"x": RNG.standard_normal((5, 96)).astype(np.float32)}
    (before,) = outputs(model, x)
    assert apply(model).changed == 1
    assert outputs(model, x)[0].tobytes() == before.tobytes()
    assert weight_bytes(model) < weight.nbytes * 0.55


def test_two_readers_share_one_decoding() -> None:
    text = """(float[N,96] x) => (float[N,64] y)
    { a = MatMul(x, w) b = Relu(x) c = MatMul(b, w) y = Add(a, c) }"""
    model = build(text, {"w": sparse(0.2, 96, 64)})
    coverage = apply(model)
    assert coverage.changed == 2
    assert ops(model).count("ScatterElements") + ops(model).count("Gather") == 1


def test_reasons_to_decline() -> None:
    dense = build(PRODUCT, {"w": sparse(1.0, 96, 64)})
    (reason,) = apply(dense).declined.values()
    assert reason.startswith("'w': ")
    assert "are not fewer than 24576" in reason
    old = build(PRODUCT, {"w": sparse(0.1, 96, 64)}, opset=10)
    (reason,) = apply(old).declined.values()
    assert "opset 10 cannot add up places, opset 11 can" in reason
    text = "(float[N,96] x) => (float[N,64] y, float[96,64] w) { y = MatMul(x, w) }"
    model = build(text, {"w": sparse(0.1, 96, 64)})
    (reason,) = apply(model).declined.values()
    assert "is an output of the model" in reason
    both = "(float[N,96] x) => (float[N,64] y) { a = MatMul(x, w) c = MatMul(x, w) y = Add(a, c) }"
    model = build(both, {"w": sparse(0.1, 96, 64)})
    names = [n.name or "" for n in model.graph]
    (reason,) = apply(model, StoreSparse(only=(names[0],))).declined.values()
    assert f"'{names[1]}' reads it too, which is left alone" in reason
    small = build(PRODUCT, {"w": sparse(0.1, 96, 64)})
    assert apply(small, StoreSparse(minimum=1 << 20)).matched == 0


def test_a_model_of_nine_tenths_zeros_takes_a_fifth_of_the_bytes(tmp_path: Path) -> None:
    text = """(float[N,256] x) => (float[N,256] y)
    { a = MatMul(x, u) b = Relu(a) y = MatMul(b, v) }"""
    model = build(text, {"u": sparse(0.1, 256, 256), "v": sparse(0.1, 256, 256)})
    source = tmp_path / "model.onnx"
    save_model(model, source)
    x = {"x": RNG.standard_normal((5, 256)).astype(np.float32)}
    (before,) = Executor(source, optimization="all").run(x)
    artifact = compile(source, recipe="store-sparse", measure=False, output=tmp_path / "out")
    (after,) = Executor(tmp_path / "out" / "model.onnx", optimization="all").run(x)
    assert after.tobytes() == before.tobytes()
    size = (tmp_path / "out" / "model.onnx").stat().st_size
    assert size < 0.2 * source.stat().st_size
    assert artifact.report is not None
