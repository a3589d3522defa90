import numpy as np
import onnx
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, declines, ops

from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.structure.factor_linear import FactorLinear
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((64, 64)) * np.geomspace(1, 0.01, 64)
PRODUCT = "(float[N,64] x) => (float[N,48] y) { y = MatMul(x, w) }"


def thin(outputs: int, inputs: int, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    product = rng.standard_normal((outputs, 6)) @ rng.standard_normal((6, inputs))
    return (product + noise * rng.standard_normal((outputs, inputs))).astype(np.float32)


def batches(count: int, seed: int) -> tuple[dict[str, np.ndarray], ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        {"x": (rng.standard_normal((200, 64)) @ MIX).astype(np.float32)} for _ in range(count)
    )


def apply(model: onnx_ir.Model, step: FactorLinear, prices: FakePrices | None = None) -> Coverage:
    data = Context(BINDINGS, calibration=batches(3, 1), held_out=batches(1, 2), prices=prices)
    work = Workbench(model, step, data)
    step.apply(work)
    verify(model)
    return work.coverage


def error(before: onnx.ModelProto, model: onnx_ir.Model) -> float:
    (x,) = batches(1, 3)
    (old,) = Executor(before).run(x)
    (new,) = Executor(onnx_ir.to_proto(model)).run(x)
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def test_the_rank_follows_from_the_energy() -> None:
    model = build(PRODUCT, {"w": thin(64, 48)})
    before = onnx_ir.to_proto(model)
    step = FactorLinear(energy=0.999)
    coverage = apply(model, step)
    assert ops(model) == ["MatMul", "MatMul"]
    assert error(before, model) < 0.001**0.5
    (row,) = coverage.damage
    rank = int(row.format.rsplit(" ", 1)[1])
    assert rank <= 6
    assert row.measured_on == "held-out data"
    assert (row.bytes_before, row.bytes_after) == (4 * 64 * 48, 4 * rank * (64 + 48))
    assert weight_bytes(model) == row.bytes_after
    assert apply(model, step).changed == 0


def test_the_rank_follows_from_the_bytes() -> None:
    model = build(PRODUCT, {"w": thin(64, 48, 1.0)})
    (row,) = apply(model, FactorLinear(ratio=0.6)).damage
    assert row.format == "two products of rank 16"
    assert row.bytes_after <= 0.6 * row.bytes_before


@pytest.mark.parametrize("attributes", ["transB=1, alpha=0.5, beta=2.0", "transA=1"])
def test_what_a_gemm_adds_stays(attributes: str) -> None:
    turned = "transB" in attributes
    inputs = "float[64,48] x" if not turned else "float[48,64] x"
    text = f"({inputs}) => (float[48,40] y) {{ y = Gemm<{attributes}>(x, w, b) }}"
    w = thin(40, 64) if turned else thin(64, 40)
    model = build(text, {"w": w, "b": RNG.standard_normal(40).astype(np.float32)})
    before = onnx_ir.to_proto(model)
    x = {"x": RNG.standard_normal((48, 64) if turned else (64, 48)).astype(np.float32)}
    work = Workbench(model, FactorLinear(energy=0.9999), Context(BINDINGS, calibration=(x,)))
    work.running.apply(work)
    verify(model)
    assert ops(model) == ["Gemm", "Gemm"], work.coverage
    (old,), (new,) = Executor(before).run(x), Executor(onnx_ir.to_proto(model)).run(x)
    assert np.linalg.norm(new - old) < 0.02 * np.linalg.norm(old)


def test_a_shared_weight_is_factored_once() -> None:
    text = (
        """(float[N,64] x) => (float[N,64] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"""
    )
    model = build(text, {"w": thin(64, 64)})
    coverage = apply(model, FactorLinear(rank=8))
    assert coverage.changed == 2
    assert len(model.graph.initializers) == 2
    assert coverage.proofs["factored for an earlier reader"] == 1


def test_declines_what_is_not_smaller() -> None:
    full = {"w": RNG.standard_normal((64, 48)).astype(np.float32)}
    declines(
        build(PRODUCT, full),
        FactorLinear(),
        "rank 27, the largest that is smaller than the weight, keeps 0.8",
    )
    declines(
        build(PRODUCT, full), FactorLinear(rank=28), "rank 28 takes 12,544 bytes, the weight 12,288"
    )
    declines(build(PRODUCT, full), FactorLinear(minimum=4000), "3072 weights, fewer than 4000")


def test_declines_a_weight_that_stays() -> None:
    text = "(float[N,64] x) => (float[N,48] y) { a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b) }"
    step = FactorLinear(rank=4, skip=("MatMul_1",))
    declines(build(text, {"w": thin(64, 48)}), step, "MatMul 'MatMul_1' reads it too")
    tied = "(int64[N] i) => (float[N,64] y) { x = Gather(w, i) y = Gemm<transB=1>(x, v) z = Gemm<transB=1>(x, w) }"
    constants = {"w": thin(80, 64), "v": thin(64, 64)}
    model = build(
        tied.replace("z = Gemm<transB=1>(x, w)", "").replace("v)", "w)").replace("64] y", "80] y"),
        constants,
    )
    declines(model, FactorLinear(rank=4), "the weight stays in the file: Gather")


def test_slower_factors_are_declined_unless_bytes_count() -> None:
    prices = FakePrices(lambda _work, name: 1.0 if name == "plain" else 1.5)
    model = build(PRODUCT, {"w": thin(64, 48)})
    (reason,) = apply(model, FactorLinear(rank=8), prices).declined.values()
    assert reason.startswith("two products of rank 8 takes 1.5 ms, the weight 1 ms")
    (row,) = apply(model, FactorLinear(rank=8, prefer="size"), prices).damage
    assert (row.ms_before, row.ms_after) == (1.0, 1.5)


def test_options_are_checked() -> None:
    with pytest.raises(
        UsageError, match=r"option 'energy' of pass 'factor-linear' is 1.5, expected 0 to 1"
    ):
        FactorLinear(energy=1.5)
