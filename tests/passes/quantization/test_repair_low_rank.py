import dataclasses

import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, ops, weights

from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.base import Coverage, Pass
from whet.passes.pipeline import Pipeline
from whet.passes.quantization.quantize_codebooks import QuantizeCodebooks
from whet.passes.quantization.quantize_dynamic import QuantizeDynamic
from whet.passes.quantization.quantize_static import QuantizeStatic
from whet.passes.quantization.quantize_weights import QuantizeWeights
from whet.passes.quantization.repair_low_rank import RepairLowRank
from whet.passes.workbench import Context

CONSTANTS = weights(w=(64, 48), b=(48,), v=(48, 40))
TEXT = """(float[N,64] x) => (float[N,40] y) { a = MatMul(x, w) c = Add(a, b) r = Relu(c) y = MatMul(r, v) }"""
GEMM = """(float[N,64] x) => (float[N,40] y) { c = Gemm(x, w, b) r = Relu(c) y = Gemm(r, v) }"""
MIX = np.random.default_rng(5).standard_normal((64, 64)) * np.linspace(2, 0.02, 64) ** 2
EVERY = RepairLowRank(rank=8, worth="error")
LOSSY = {
    "weights": QuantizeWeights(bits="2", minimum=1),
    "GPTQ": QuantizeWeights(bits="4", minimum=1, method="gptq"),
    "packed": QuantizeWeights(bits="4", minimum=1, block="16", prefer="size"),
    "codebooks": QuantizeCodebooks(bits=2, minimum=1),
    "static": QuantizeStatic(prefer="size", weights="int7"),
    "static, three bits": QuantizeStatic(prefer="size", weight_bits=3, ends="same", weights="int7"),
    "dynamic": QuantizeDynamic(minimum=1, prefer="size"),
}
PACKED = FakePrices(lambda _, name: 0.1 if name.startswith("packed") else 1.0)


def batches(count: int, seed: int) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        {"x": (rng.standard_normal((64, 64)) @ MIX).astype(np.float32)} for _ in range(count)
    )


CONTEXT = Context(bindings=BINDINGS, calibration=batches(6, 0), held_out=batches(2, 1))


def compiled(
    *stages: Pass, text: str = TEXT, context: Context = CONTEXT
) -> tuple[onnx_ir.Model, Coverage, float]:
    """Return the model, what the last stage did, and the error of the outputs on fresh data."""
    model = build(text, CONSTANTS, opset=21)
    before = Executor(onnx_ir.to_proto(model))
    used = dataclasses.replace(context, lineage={}, original=None, proven={})
    model, steps = Pipeline(stages).run(model, used)
    verify(model)
    feeds = batches(4, 2)[-1]
    (old,), (new,) = before.run(feeds), Executor(onnx_ir.to_proto(model)).run(feeds)
    return model, steps[-1].coverage, float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("text", [TEXT, GEMM], ids=["MatMul", "Gemm"])
@pytest.mark.parametrize("name", LOSSY)
def test_whatever_the_format_outputs_come_nearer(name: str, text: str) -> None:
    prices = PACKED if name == "packed" else None
    context = dataclasses.replace(CONTEXT, prices=prices)
    plain, _, before = compiled(LOSSY[name], text=text, context=context)
    step = dataclasses.replace(EVERY, slowdown=1e9)
    model, coverage, after = compiled(LOSSY[name], step, text=text, context=context)
    assert coverage.matched == 2, coverage
    assert coverage.changed >= (1 if name in ("static", "dynamic") else 2), coverage.declined
    assert coverage.proofs == {"error on data held out": coverage.changed}
    assert after < before
    assert len(ops(model)) > len(ops(plain))
    assert {row.measured_on for row in coverage.damage} == {"held-out data"}


def test_a_decoded_weight_takes_the_path_in() -> None:
    model, coverage, _ = compiled(LOSSY["codebooks"], EVERY)
    assert {row.format for row in coverage.damage} == {"rank 8 in the weight"}
    readers = [n for n in model.graph if any(v is model.graph.inputs[0] for v in n.inputs)]
    assert len(readers) == 1


def test_a_path_beside_integers_is_multiplied_at_run_time() -> None:
    model, coverage, _ = compiled(LOSSY["static, three bits"], EVERY)
    assert {row.format for row in coverage.damage} == {"rank 8 beside it"}
    shapes = [n.inputs[1].shape for n in model.graph if n.op_type == "MatMul" and n.inputs[1]]
    assert sum(8 in tuple(s) for s in shapes if s is not None) == 4


def test_bytes_must_pay() -> None:
    """Eight bits leave an error that no path of this size is worth."""
    _, coverage, _ = compiled(LOSSY["dynamic"], RepairLowRank())
    assert coverage.changed == 0
    assert all("not worth" in reason for reason in coverage.declined.values())


def test_milliseconds_are_limited() -> None:
    slow = FakePrices(lambda work, _: 0.2 if work.startswith("path") else 1.0)
    context = dataclasses.replace(CONTEXT, prices=slow)
    lossy = LOSSY["static, three bits"]
    assert (
        compiled(lossy, dataclasses.replace(EVERY, slowdown=0.25), context=context)[1].changed == 1
    )
    _, coverage, _ = compiled(lossy, EVERY, context=context)
    assert coverage.changed == 0
    assert "a path of rank 8 takes 0.2 ms, 0.05 ms are left of the 5%" in str(coverage.declined)
    assert compiled(LOSSY["codebooks"], EVERY, context=context)[1].changed == 2


def test_nothing_to_repair() -> None:
    _, coverage, error = compiled(EVERY)
    assert (coverage.matched, coverage.changed, error) == (0, 0, 0.0)
    context = Context(bindings=BINDINGS)
    _, coverage, _ = compiled(QuantizeWeights(bits="2", minimum=1), EVERY, context=context)
    assert set(coverage.declined.values()) == {"needs calibration data"}


@pytest.mark.parametrize("name", ["codebooks", "static, three bits"])
def test_a_second_run_changes_nothing(name: str) -> None:
    again = dataclasses.replace(EVERY, rank=7)
    _, coverage, _ = compiled(LOSSY[name], EVERY, again)
    assert coverage.changed == 0, coverage
