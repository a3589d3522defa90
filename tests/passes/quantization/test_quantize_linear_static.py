import dataclasses

import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, ops, weights

from whet.ir.execute import Executor
from whet.ir.values import initializers
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.quantization.quantize_linear_static import QuantizeLinearStatic
from whet.passes.workbench import Context, Workbench

TIMES = {"float32": 3.0, "dynamic": 2.0, "static": 1.0}
FAST = FakePrices(lambda _work, name: TIMES[name])
LINEAR = "(float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }"
W = weights(w=(64, 32), u=(64, 16), b=(32,))


def data(seed: int = 3, outlier: float = 1.0) -> tuple[dict[str, np.ndarray], ...]:
    x = np.random.default_rng(seed).standard_normal((32, 64)).astype(np.float32)
    x[-1] *= outlier
    return ({"x": x[:16]}, {"x": x[16:]})


def apply(
    model: onnx_ir.Model, prices: FakePrices | None = FAST, step: QuantizeLinearStatic | None = None,
    calibration: tuple[dict[str, np.ndarray], ...] | None = None,
) -> Coverage:  # fmt: skip
    batches = data() if calibration is None else calibration
    context = Context(bindings=BINDINGS, prices=prices, calibration=batches)
    chosen = step or QuantizeLinearStatic()
    work = Workbench(model, chosen, context)
    chosen.apply(work)
    verify(model)
    return work.coverage


def outputs(model: onnx_ir.Model, x: np.ndarray) -> list[np.ndarray]:
    return list(Executor(onnx_ir.to_proto(model), optimization="all").run({"x": x}))


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, w)",
        "p = MatMul(x, w) y = Add(p, b)",
        "y = Gemm<alpha=0.5, beta=2.0>(x, w, b)",
    ],
)
def test_a_product_becomes_integers_and_stays_close(body: str) -> None:
    model = build(f"(float[N,64] x) => (float[N,32] y) {{ {body} }}", W)
    x = data(5)[0]["x"]
    before = outputs(model, x)[0]
    coverage = apply(model)
    assert (coverage.matched, coverage.changed) == (1, 1), coverage
    assert ops(model).count("QuantizeLinear") == 1
    assert "w" not in {v.name for v in initializers(model)}
    after = outputs(model, x)[0]
    assert 0 < np.linalg.norm(after - before) / np.linalg.norm(before) < 0.04
    damage = coverage.damage[0]
    assert damage.format.endswith("static")
    assert (damage.ms_before, damage.ms_after) == (3.0, 1.0)
    assert damage.bytes_before > 3 * damage.bytes_after


def test_what_reads_one_value_shares_its_integers() -> None:
    text = "(float[N,64] x) => (float[N,32] y, float[N,16] z) { y = MatMul(x, w) z = MatMul(x, u) }"
    model = build(text, W)
    assert apply(model).changed == 2
    assert ops(model).count("QuantizeLinear") == 1


def test_a_second_run_changes_nothing() -> None:
    model = build(LINEAR, W)
    apply(model)
    assert apply(model).changed == 0


def test_without_prices_everything_is_quantized() -> None:
    assert apply(build(LINEAR, W), prices=None).changed == 1


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({"static": 3.0}, "static takes 3 ms, float32 3 ms"),
        ({"static": 2.05}, "static takes 2.05 ms, dynamic 2 ms"),
        ({"static": -1.0}, "no kernel"),
    ],
)
def test_what_is_not_faster_stays(times: dict[str, float], reason: str) -> None:
    prices = FakePrices(lambda _work, name: {**TIMES, **times}[name])
    coverage = apply(build(LINEAR, W), prices)
    assert coverage.changed == 0
    assert reason in next(iter(coverage.declined.values()))


def test_what_reads_one_value_is_decided_and_proven_together() -> None:
    x = np.random.default_rng(1).standard_normal((4, 8, 64)).astype(np.float32)
    text = (
        "(float[N,8,64] x) => (float[N,8,32] y, float[N,8,16] z) "
        "{ h = Sigmoid(x) y = MatMul(h, w) z = MatMul(h, u) }"
    )
    prices = FakePrices(lambda _work, name: TIMES[name])
    coverage = apply(build(text, W), prices, calibration=({"x": x}, {"x": x}))
    assert coverage.changed == 2, coverage
    assert all("x [64,48]" in work for work in prices.asked), prices.asked
    assert [found.measured_on for found in coverage.damage] == ["calibration data"] * 2
    assert max(found.error for found in coverage.damage) < 0.05


def test_a_grid_that_loses_much_more_than_one_per_sample_is_refused() -> None:
    x = np.random.default_rng(0).standard_normal((4, 8, 64)).astype(np.float32)
    loud = ({"x": x}, {"x": x * 3})
    text = "(float[N,8,64] x) => (float[N,8,32] y) { y = MatMul(x, w) }"
    coverage = apply(build(text, W), calibration=loud, step=QuantizeLinearStatic(worse=0.0))
    assert "a fixed grid changes the product by" in next(iter(coverage.declined.values()))
    assert (
        apply(build(text, W), calibration=loud, step=QuantizeLinearStatic(worse=100.0)).changed == 1
    )


@pytest.mark.parametrize(
    ("text", "calibration", "reason"),
    [
        (LINEAR, (), "needs calibration data"),
        ("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, s) }", (), "64 weights, fewer than 1024"),
        (
            "(float[N,64] x, int64[N] i) => (float[N,32] y, float[N,32] z) { y = MatMul(x, w) z = Gather(w, i) }",
            ({"x": np.ones((2, 64), np.float32), "i": np.zeros(2, np.int64)},),
            "also read by Gather",
        ),
    ],
)  # fmt: skip
def test_declines_say_why(
    text: str, calibration: tuple[dict[str, np.ndarray], ...], reason: str
) -> None:
    model = build(text, {**W, **weights(s=(8, 8))})
    coverage = apply(model, calibration=calibration)
    assert coverage.changed == 0
    assert reason in next(iter(coverage.declined.values()))


def test_equal_options_make_an_equal_pass() -> None:
    assert QuantizeLinearStatic() == dataclasses.replace(QuantizeLinearStatic(worse=9), worse=1.5)
