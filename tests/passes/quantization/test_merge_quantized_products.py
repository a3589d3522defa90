import numpy as np
import onnx
import onnx_ir
import pytest
from choosing import run_priced
from fake_prices import FakePrices
from folding import build, ops, weights, worst_error

from whet.ir.execute import Executor
from whet.passes.quantization.merge_quantized_products import MergeQuantizedProducts

STEP = MergeQuantizedProducts()
TIMES = {"float32": 3.0, "apart": 2.0, "merged": 1.0}
CONSTANTS = weights(p=(64, 32), q=(64, 48), b=(32,), c=(48,), s=(64, 2))
OUTPUTS = "float[N,M,32] y, float[N,M,48] z"
PLAIN = "y = MatMul(x, p) z = MatMul(x, q)"
BIASED = "g = MatMul(x, p) y = Add(g, b) h = MatMul(x, q) z = Add(c, h)"


def text(body: str, outputs: str = OUTPUTS) -> str:
    return f"(float[N,M,64] x) => ({outputs}) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "left"), [(PLAIN, ["MatMul", "Split"]), (BIASED, ["MatMul", "Add", "Split"])]
)
def test_products_of_one_value_are_merged(body: str, left: list[str]) -> None:
    model = build(text(body), CONSTANTS)
    before = onnx_ir.to_proto(model)
    prices = FakePrices(lambda _work, name: TIMES[name])
    assert run_priced(model, STEP, prices).changed == 1
    assert ops(model) == left
    assert worst_error(before, model) <= 1e-5
    assert prices.asked == ["MatMul [6,64] x [64,32] [64,48] dynamic, apart or merged"]
    assert run_priced(model, STEP, prices).changed == 0


def test_what_is_measured_runs_and_computes_the_same_in_each_form() -> None:
    prices = FakePrices(lambda _work, name: TIMES[name])
    run_priced(build(text(PLAIN), CONSTANTS), STEP, prices)
    found: dict[str, np.ndarray] = {}
    for (_, name), make in prices.models.items():
        model, feeds = make()
        found[name] = Executor(onnx.load_from_string(model), optimization="all").run(feeds)[0]
    assert set(found) == set(TIMES)
    np.testing.assert_allclose(found["apart"], found["merged"], rtol=1e-5)
    np.testing.assert_allclose(found["apart"], found["float32"], atol=0.5)


@pytest.mark.parametrize(
    ("times", "body", "reason"),
    [
        ({"merged": 1.95}, PLAIN, "merged they take 1.95 ms, apart 2 ms"),
        ({"float32": 0.5}, PLAIN, "in floats 0.5 ms"),
        ({"apart": -1.0}, PLAIN, "no kernel"),
    ],
)
def test_declines_say_why(times: dict[str, float], body: str, reason: str) -> None:
    model = build(text(body), CONSTANTS)
    coverage = run_priced(model, STEP, FakePrices(lambda _work, name: {**TIMES, **times}[name]))
    assert coverage.changed == 0
    assert reason in next(iter(coverage.declined.values()))


def test_small_products_and_unmeasured_ones_stay_apart() -> None:
    small = build(
        text("y = MatMul(x, s) z = MatMul(x, q)", "float[N,M,2] y, float[N,M,48] z"), CONSTANTS
    )
    coverage = run_priced(small, STEP, FakePrices(lambda _work, name: TIMES[name]))
    assert "128 weights, fewer than 1024" in next(iter(coverage.declined.values()))
    coverage = run_priced(build(text(PLAIN), CONSTANTS), STEP, None)
    assert "nothing may be measured" in next(iter(coverage.declined.values()))
