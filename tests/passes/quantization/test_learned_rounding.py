import importlib.util

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, weights

from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.passes.base import Coverage, Pass
from whet.passes.quantization import reconstruction
from whet.passes.quantization.algorithms.adaround import Schedule
from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.passes.quantization.learned_rounding import learn
from whet.passes.quantization.quantize_static import QuantizeStatic
from whet.passes.quantization.quantize_weights import QuantizeWeights
from whet.passes.workbench import Context, Workbench

TEXT = """(float[N,16] x) => (float[N,8] y) { a = MatMul(x, u) b = Relu(a) c = MatMul(b, w) d = Relu(c)
y = MatMul(d, v) }"""
CONSTANTS = weights(u=(16, 24), w=(24, 24), v=(24, 8))


def batches(count: int = 4, seed: int = 0) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).standard_normal((16, 16))
    return tuple(
        {"x": (rng.standard_normal((64, 16)) @ mix).astype(np.float32)} for _ in range(count)
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reconstruction.adaround

    def short(*args, **kwargs):
        return whole(*args, **{**kwargs, "schedule": Schedule(steps=150, rate=0.05)})

    monkeypatch.setattr(reconstruction, "adaround", short)


def compiled(step: Pass) -> tuple[Coverage, float]:
    """Return what the pass did and the error of the outputs on fresh data."""
    model = build(TEXT, CONSTANTS, opset=21)
    feeds = batches(1, 5)[0]
    (old,) = Executor(onnx_ir.to_proto(model)).run(feeds)
    work = Workbench(model, step, Context(bindings=BINDINGS, calibration=batches()))
    step.apply(work)
    (new,) = Executor(onnx_ir.to_proto(model)).run(feeds)
    return work.coverage, float(np.linalg.norm(new - old) / np.linalg.norm(old))


def test_static_integers_come_nearer_than_by_rounding_to_the_nearest() -> None:
    def step(method: str) -> QuantizeStatic:
        return QuantizeStatic(
            prefer="size", weight_bits=3, ends="same", weights="int7", method=method
        )

    coverage, learned = compiled(step("adaround"))
    assert coverage.changed == compiled(step("nearest"))[0].changed
    assert learned < 0.9 * compiled(step("nearest"))[1]


def test_blocks_are_learned_where_that_is_better() -> None:
    coverage, learned = compiled(QuantizeWeights(bits="2", minimum=1, method="adaround"))
    assert any("adaround" in row.format for row in coverage.damage)
    assert learned < compiled(QuantizeWeights(bits="2", minimum=1, method="nearest"))[1]


def test_obstacles_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(TEXT, CONSTANTS)
    name = next(iter(model.graph)).name or ""
    start = {name: lambda matrix: round_to_nearest(Layer(matrix), 4)}
    with pytest.raises(Mismatch, match="needs calibration data"):
        learn(model, start, Context())
    context = Context(calibration=batches())
    assert list(learn(model, {**start, "elsewhere": start[name]}, context)) == [name]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else find(n))
    with pytest.raises(Mismatch, match="needs torch, which is not installed"):
        learn(model, start, context)
    step = QuantizeWeights(bits="4", minimum=1, method="adaround")
    work = Workbench(model, step, Context(bindings=BINDINGS, calibration=batches()))
    step.apply(work)
    assert set(work.coverage.declined.values()) == {"AdaRound needs torch, which is not installed"}
