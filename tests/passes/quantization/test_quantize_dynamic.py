import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, ops, weights

from whet.backends.device import find_device
from whet.backends.onnxruntime import runtime_fusions
from whet.ir.execute import Executor
from whet.ir.files import save_model
from whet.ir.values import initializers
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.quantization.quantize_dynamic import QuantizeDynamic
from whet.passes.workbench import Context, Workbench

FAST = FakePrices(lambda _work, name: 2.0 if name == "float32" else 1.0)
LINEAR = "(float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }"


def apply(model: onnx_ir.Model, step: QuantizeDynamic, context: Context | None = None) -> Coverage:
    context = context or Context(bindings=BINDINGS, prices=FAST)
    work = Workbench(model, step, context)
    step.apply(work)
    verify(model)
    return work.coverage


def outputs(model: onnx_ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    return list(Executor(onnx_ir.to_proto(model), optimization="all").run(feeds))


@pytest.mark.parametrize("grid", ["int7", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_product_becomes_integers_and_stays_close(grid: str, per_channel: bool) -> None:
    model = build(LINEAR, weights(w=(64, 32)))
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    before = outputs(model, x=x)[0]
    step = QuantizeDynamic(weights=grid, per_channel=per_channel)
    coverage = apply(model, step)
    assert (coverage.matched, coverage.eligible, coverage.changed) == (1, 1, 1)
    assert "MatMulInteger" in ops(model)
    assert "MatMul" not in ops(model)
    after = outputs(model, x=x)[0]
    assert 0 < np.linalg.norm(after - before) / np.linalg.norm(before) < 0.04
    damage = coverage.damage[0]
    assert damage.format == f"{grid} dynamic"
    assert 0 < damage.error < 0.04
    assert damage.bytes_before == 4 * 64 * 32 > 3 * damage.bytes_after
    assert (damage.ms_before, damage.ms_after) == (2.0, 1.0)


def test_the_float_weight_leaves_and_names_are_fresh() -> None:
    model = build(LINEAR, weights(w=(64, 32)))
    apply(model, QuantizeDynamic(weights="uint8"))
    assert {v.name for v in initializers(model)} == {"w.uint8", "w.scale", "w.uint8.zero"} or {
        v.name for v in initializers(model)
    } == {"w.uint8", "w.scale", "w.zero"}


def test_a_second_run_changes_nothing() -> None:
    model = build(LINEAR, weights(w=(64, 32)))
    apply(model, QuantizeDynamic())
    assert apply(model, QuantizeDynamic()).changed == 0


def test_onnx_runtime_fuses_the_spelling(tmp_path: Path) -> None:
    text = """(float[N,64] x) => (float[N,32] y, float[N,32] z, float[N,32] u)
    { y = MatMul(x, w) z = MatMul(x, v) h = Relu(y) u = Gemm(h, p, b) }"""
    model = build(text, weights(w=(64, 32), v=(64, 32), p=(32, 32), b=(32,)))
    assert apply(model, QuantizeDynamic(weights="uint8")).changed == 3
    assert ops(model).count("DynamicQuantizeLinear") == 2
    save_model(model, tmp_path / "m.onnx")
    fused = runtime_fusions(tmp_path / "m.onnx")
    assert sum(count for name, count in fused.items() if "MatMul" in name) == 3


@pytest.mark.parametrize("attributes", ["transB=1", "alpha=0.5", "beta=2.0", "alpha=3.0, beta=0.0"])
def test_gemm_attributes_are_kept(attributes: str) -> None:
    text = f"(float[N,64] x) => (float[N,32] y) {{ y = Gemm<{attributes}>(x, w, b) }}"
    shape = (32, 64) if "transB" in attributes else (64, 32)
    model = build(text, weights(w=shape, b=(32,)))
    x = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    before = outputs(model, x=x)[0]
    assert apply(model, QuantizeDynamic(weights="uint8")).changed == 1
    after = outputs(model, x=x)[0]
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.04


def test_a_chain_reads_the_rewritten_value() -> None:
    text = (
        "(float[N,64] x) => (float[N,64] y) { h = MatMul(x, w) g = MatMul(h, v) y = MatMul(g, w) }"
    )
    model = build(text, weights(w=(64, 64), v=(64, 64)))
    coverage = apply(model, QuantizeDynamic(weights="uint8"))
    assert coverage.changed == 3
    assert sum("w.uint8" in (v.name or "") for v in initializers(model)) == 1


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        ("(float[64,64] x) => (float[64,64] y) { y = MatMul(w, x) }", {"w": (64, 64)}, "second operand"),
        ("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": (8, 8)}, "64 weights, fewer"),
        ("(float[N,9,64] x) => (float[N,9,64] y) { y = MatMul(x, w) }", {"w": (1, 64, 64)}, "3 dimensions"),
        ("(float[64,N] x) => (float[N,64] y) { y = Gemm<transA=1>(x, w) }", {"w": (64, 64)}, "transposed"),
        (
            "(float[N,64] x, int64[N] i) => (float[N,64] y, float[N,64] z) { y = MatMul(x, w) z = Gather(w, i) }",
            {"w": (64, 64)},
            "also read by Gather",
        ),
    ],
)  # fmt: skip
def test_declines_say_why(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    model = build(text, weights(**shapes))
    coverage = apply(model, QuantizeDynamic())
    assert coverage.changed == 0
    assert coverage.matched == 1
    assert reason in coverage.nearest_miss


def test_a_slower_kernel_is_declined_with_both_times() -> None:
    slow = FakePrices(lambda _work, name: 0.28 if name == "float32" else 0.31)
    model = build(LINEAR, weights(w=(64, 32)))
    context = Context(bindings=BINDINGS, prices=slow)
    coverage = apply(model, QuantizeDynamic(weights="uint8"), context)
    assert coverage.changed == 0
    assert coverage.declined == {"MatMul_0": "uint8 takes 0.31 ms, float32 0.28 ms"}
    sized = dataclasses.replace(QuantizeDynamic(weights="uint8"), prefer="size")
    assert apply(model, sized, context).changed == 1
    assert slow.asked == ["MatMul [2,64] x [64,32] dynamic per channel"] * 2


def test_the_less_exact_grid_must_be_much_faster() -> None:
    device = find_device("x86-64-v3")
    for seven_bits, expected in ((0.9, "uint8 dynamic"), (0.5, "int7 dynamic")):
        times = {"float32": 2.0, "uint8": 1.0, "int7": seven_bits}
        prices = FakePrices(lambda _work, name, times=times: times[name])
        model = build(LINEAR, weights(w=(64, 32)))
        coverage = apply(
            model, QuantizeDynamic(), Context(bindings=BINDINGS, prices=prices, device=device)
        )
        assert coverage.damage[0].format == expected


def test_an_output_that_changes_too_much_is_declined() -> None:
    numbers = weights(w=(64, 32))
    model = build(LINEAR, numbers)
    x = np.random.default_rng(3).standard_normal((8, 64)).astype(np.float32)
    x[:, 0] = 1e4
    numbers["w"][0] = 0
    model = build(LINEAR, numbers)
    context = Context(bindings=BINDINGS, prices=FAST, calibration=({"x": x},))
    coverage = apply(model, QuantizeDynamic(weights="uint8"), context)
    assert coverage.changed == 0
    assert "changes by" in coverage.declined["MatMul_0"]
    assert not coverage.failures


def test_weights_that_are_not_finite_are_declined() -> None:
    numbers = weights(w=(64, 32))
    numbers["w"][3, 3] = np.nan
    coverage = apply(build(LINEAR, numbers), QuantizeDynamic())
    assert "cannot be quantized" in coverage.declined["MatMul_0"]


def test_the_measured_kernels_compute_the_product() -> None:
    prices = FakePrices(lambda _work, name: 2.0 if name == "float32" else 1.0)
    model = build(LINEAR, weights(w=(64, 32)))
    apply(model, QuantizeDynamic(weights="uint8"), Context(bindings=BINDINGS, prices=prices))
    results = []
    for make in prices.models.values():
        import onnx

        data, feeds = make()
        results.append(Executor(onnx.load_from_string(data), optimization="all").run(feeds)[0])
    assert len(results) == 2
    assert np.linalg.norm(results[1] - results[0]) / np.linalg.norm(results[0]) < 0.04
