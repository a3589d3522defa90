from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from folding import BINDINGS, build, ops

from whet.compiler import compile
from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.files import load_model
from whet.ir.saving import save_model
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.quantization.quantize_codebooks import QuantizeCodebooks
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(0)
PRODUCT = "(float[N,256] x) => (float[N,48] y) { y = MatMul(x, w) }"
MIX = RNG.standard_normal((256, 256)) * 0.1 + np.diag(RNG.lognormal(0, 1, 256))


def heavy(seed: int = 0, /, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw weights with outliers, for which even grids are bad."""
    rng = np.random.default_rng(seed)
    return {k: (rng.standard_t(3, s) * 0.1).astype(np.float32) for k, s in shapes.items()}


def batches(count: int = 4) -> tuple[dict[str, np.ndarray], ...]:
    drawn = (RNG.standard_normal((300, 256)) @ MIX for _ in range(count))
    return tuple({"x": x.astype(np.float32)} for x in drawn)


def apply(model: onnx_ir.Model, step: QuantizeCodebooks, count: int = 4) -> Coverage:
    context = Context(bindings=BINDINGS, calibration=batches(count))
    work = Workbench(model, step, context)
    step.apply(work)
    verify(model)
    return work.coverage


def error(before: onnx.ModelProto, model: onnx_ir.Model) -> float:
    x = batches(1)[0]
    (old,) = Executor(before).run(x)
    (new,) = Executor(onnx_ir.to_proto(model)).run(x)
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("bits", [2, 3])
def test_a_product_is_stored_in_few_bits(bits: int) -> None:
    model = build(PRODUCT, heavy(w=(256, 48)), opset=21)
    before = onnx_ir.to_proto(model)
    coverage = apply(model, QuantizeCodebooks(bits=bits))
    assert (coverage.matched, coverage.eligible, coverage.changed) == (1, 1, 1)
    assert error(before, model) < {2: 0.45, 3: 0.2}[bits]
    (damage,) = coverage.damage
    assert damage.format == f"{bits} bits, lean"
    assert damage.bytes_before == 4 * 256 * 48
    assert damage.bytes_after == 256 * 48 * bits // 8 + 48 * 2**bits * 2
    assert weight_bytes(model) < damage.bytes_after + 120
    assert coverage.proofs == {"calibration": 1}


def test_methods_outliers_and_rank_lower_the_error() -> None:
    found: dict[str, float] = {}
    formats: dict[str, str] = {}
    for name, step in {
        "squeeze": QuantizeCodebooks(bits=2, method="squeeze"),
        "lean": QuantizeCodebooks(bits=2, method="lean"),
        "outliers": QuantizeCodebooks(bits=2, outliers=0.005),
        "rank": QuantizeCodebooks(bits=2, method="lean", rank=8),
    }.items():
        drawn = heavy(w=(256, 48))
        drawn["w"].flat[::211] = 4.0 * (-1) ** np.arange(59)
        model = build(PRODUCT, drawn, opset=21)
        before = onnx_ir.to_proto(model)
        coverage = apply(model, step)
        found[name] = error(before, model)
        formats[name] = coverage.damage[0].format
    assert found["lean"] < found["squeeze"]
    assert found["outliers"] < found["lean"]
    assert found["rank"] < found["lean"]
    assert formats["outliers"] == "2 bits, lean + outliers"
    assert formats["rank"] == "2 bits, lean + rank 8"


def test_without_data_the_weights_alone_decide() -> None:
    model = build(PRODUCT, heavy(w=(256, 48)), opset=21)
    coverage = apply(model, QuantizeCodebooks(method="lean"), 0)
    assert coverage.damage[0].format == "3 bits, squeeze"


def test_convolutions_with_groups() -> None:
    text = """(float[N,32,6,6] x) => (float[N,32,6,6] y)
    { y = Conv<group=2, pads=[1,1,1,1]>(x, w) }"""
    model = build(text, heavy(w=(32, 16, 3, 3)), opset=21)
    x = {"x": RNG.standard_normal((20, 32, 6, 6)).astype(np.float32)}
    (old,) = Executor(onnx_ir.to_proto(model)).run(x)
    work = Workbench(model, QuantizeCodebooks(), Context(bindings=BINDINGS, calibration=(x,)))
    QuantizeCodebooks().apply(work)
    assert work.coverage.changed == 1, work.coverage
    (new,) = Executor(onnx_ir.to_proto(model)).run(x)
    assert np.linalg.norm(new - old) / np.linalg.norm(old) < 0.2


def test_a_tied_table_is_stored_once() -> None:
    text = """(int64[N] i) => (float[N,64] y)
    { h = Gather(w, i) g = Relu(h) y = MatMul(g, v) z = Gemm<transB=1>(y, w) s = ReduceSum<keepdims=0>(z)
      y2 = Add(y, s) }"""
    text = text.replace(" y)", " y2)", 1)
    model = build(text, {"w": heavy(w=(40, 64))["w"], **heavy(1, v=(64, 64))}, opset=21)
    feeds = {"i": RNG.integers(0, 40, 64)}
    (old,) = Executor(onnx_ir.to_proto(model)).run(feeds)
    context = Context(bindings=BINDINGS, calibration=(feeds,))
    work = Workbench(model, QuantizeCodebooks(bits=4), context)
    QuantizeCodebooks(bits=4).apply(work)
    verify(model)
    assert work.coverage.changed == 3, work.coverage
    assert work.coverage.proofs == {"calibration": 2, "decoded for an earlier reader": 1}
    assert "w" not in model.graph.initializers
    (new,) = Executor(onnx_ir.to_proto(model)).run(feeds)
    assert np.linalg.norm(new - old) / np.linalg.norm(old) < 0.5


def test_few_inputs_have_no_room_for_tables() -> None:
    """Of 32 inputs a table of 16 entries in float16 costs 8 bits each: rounding evenly is better for its bytes."""
    text = "(float[N,32] x) => (float[N,48] y) { y = MatMul(x, w) }"
    coverage = apply(build(text, heavy(w=(32, 48)), opset=21), QuantizeCodebooks(bits=4), 0)
    assert coverage.damage[0].format == "4 bits, rtn"


def test_a_second_run_changes_nothing() -> None:
    model = build(PRODUCT, heavy(w=(256, 48)), opset=21)
    apply(model, QuantizeCodebooks())
    assert apply(model, QuantizeCodebooks()).changed == 0


@pytest.mark.parametrize(
    ("text", "shapes", "step", "reason"),
    [
        (PRODUCT.replace("256", "16"), {"w": (16, 48)}, QuantizeCodebooks(), "768 weights, fewer than 1024"),
        (PRODUCT.replace("48", "1").replace("256", "160"), {"w": (160, 1)}, QuantizeCodebooks(minimum=1), "about 700"),
        ("(float[64,64] x) => (float[64,64] y) { y = MatMul(w, x) }", {"w": (64, 64)}, QuantizeCodebooks(), "second"),
    ],
)  # fmt: skip
def test_declines_say_why(
    text: str, shapes: dict[str, tuple[int, ...]], step: QuantizeCodebooks, reason: str
) -> None:
    coverage = apply(build(text, heavy(**shapes), opset=21), step, 0)
    assert coverage.changed == 0
    assert coverage.matched == 1
    assert reason in coverage.nearest_miss


def test_a_weight_that_is_not_finite_stays() -> None:
    drawn = heavy(w=(256, 48))
    drawn["w"][3, 4] = np.inf
    coverage = apply(build(PRODUCT, drawn, opset=21), QuantizeCodebooks(), 0)
    assert "cannot be quantized: a weight is infinite" in coverage.nearest_miss
    with pytest.raises(UsageError, match=r"option 'bits' .* is 7, expected 2 to 6"):
        QuantizeCodebooks(bits=7)


def test_a_whole_compile_keeps_the_file_small(tmp_path: Path) -> None:
    """Clean-up and the choice of kernels run behind the pass; the runtime keeps nothing of the decoding."""
    text = """(float[N,256] x) => (float[N,64] y) { h = MatMul(x, w) g = Relu(h) k = MatMul(g, v) y = Add(k, b) }"""
    model = build(text, heavy(w=(256, 256), v=(256, 64), b=(64,)), opset=21)
    save_model(model, tmp_path / "m.onnx")
    recipe = tmp_path / "r.toml"
    recipe.write_text('base = "exact"\n[[pass]]\nname = "quantize-codebooks"\nbits = 3\n')
    data = {"x": np.concatenate([b["x"] for b in batches(1)])}
    artifact = compile(
        tmp_path / "m.onnx", calibration=data, recipe=recipe, measure=False, output=tmp_path / "out"
    )
    size = (tmp_path / "out" / "model.onnx").stat().st_size
    assert size < 4 * 256 * (256 + 64) * 0.15
    assert artifact.report.after.bytes == size
    found = ops(load_model(tmp_path / "out" / "model.onnx"))
    assert found.count("GatherElements") == found.count("MatMulInteger") == 2
    Executor(
        tmp_path / "out" / "model.onnx",
        optimization="basic",
        save_optimized=tmp_path / "optimized.onnx",
    )
    kept = [n.op_type for n in onnx.load(str(tmp_path / "optimized.onnx")).graph.node]
    assert set(kept) <= {"MatMul", "Relu", "Add", "Gemm"}
