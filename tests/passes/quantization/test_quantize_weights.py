import dataclasses

import numpy as np
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import BINDINGS, build, ops, weights

from whet.errors import NothingChanged
from whet.ir.execute import Executor
from whet.ir.values import initializers, weight_bytes
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.pipeline import Pipeline
from whet.passes.quantization.quantize_weights import QuantizeWeights
from whet.passes.recipes import read_recipe
from whet.passes.registry import make_pass
from whet.passes.workbench import Context, Workbench

LINEAR = "(float[N,64] x) => (float[N,32] y) { y = MatMul(x, w) }"
TIED = """(int64[N,3] i) => (float[N,3,64] y)
    { e = Gather(w, i) h = MatMul(e, v) t = Transpose<perm=[1,0]>(w) y = MatMul(h, t) }"""


def favouring(name: str) -> FakePrices:
    return FakePrices(lambda _work, form: 1.0 if form.startswith(name) else 2.0)


def apply(model: onnx_ir.Model, step: QuantizeWeights, context: Context | None = None) -> Coverage:
    work = Workbench(model, step, context or Context(bindings=BINDINGS))
    step.apply(work)
    verify(model)
    return work.coverage


def run(model: onnx_ir.Model, **feeds: np.ndarray) -> np.ndarray:
    return Executor(onnx_ir.to_proto(model), optimization="all").run(feeds)[0]


def distance(new: np.ndarray, old: np.ndarray) -> float:
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(
    ("form", "operator"),
    [("none", "MatMul"), ("packed", "MatMulNBits"), ("integers", "MatMulInteger")],
)
@pytest.mark.parametrize(("bits", "limit"), [("8", 0.02), ("4", 0.13), ("2", 0.6)])
def test_a_product_keeps_close_in_every_form(
    bits: str, limit: float, form: str, operator: str, opset: int
) -> None:
    model = build(LINEAR, weights(w=(64, 32)), opset)
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    before = run(model, x=x)
    context = Context(bindings=BINDINGS, prices=favouring(form))
    coverage = apply(model, QuantizeWeights(bits=bits), context)
    assert (coverage.matched, coverage.eligible, coverage.changed) == (1, 1, 1)
    assert operator in ops(model)
    assert 0 < distance(run(model, x=x), before) < limit
    assert coverage.damage[0].bytes_before == 4 * 64 * 32
    assert coverage.damage[0].bytes_after == weight_bytes(model)
    assert "w" not in {v.name for v in initializers(model)}
    assert apply(model, QuantizeWeights(bits=bits), context).changed == 0


@pytest.mark.parametrize(
    ("prefer", "operator"), [("speed", "Gather"), ("size", "GatherBlockQuantized")]
)
def test_an_embedding_is_stored_small(prefer: str, operator: str) -> None:
    text = "(int64[N,3] i) => (float[N,3,32] y) { e = Gather(w, i) y = MatMul(e, v) }"
    model = build(text, weights(w=(90, 64), v=(64, 32)))
    prices = FakePrices(
        lambda work, f: (0.01 if f != "float32" else 0.005) if "Gather" in work else 1.0
    )
    ids = np.array([[0, 89, 5], [-1, 7, 7]])
    before = run(model, i=ids)
    coverage = apply(
        model, make(prefer=prefer, bits="8"), Context(bindings=BINDINGS, prices=prices)
    )
    assert coverage.changed == 2
    assert operator in ops(model)
    assert distance(run(model, i=ids), before) < 0.02
    assert weight_bytes(model) < 0.4 * 4 * (90 * 64 + 64 * 32)


def make(**options: object) -> QuantizeWeights:
    step = make_pass("quantize-weights", options)
    assert isinstance(step, QuantizeWeights)
    return step


@pytest.mark.parametrize("form", ["none", "packed"])
def test_a_tied_table_is_stored_once(form: str) -> None:
    model = build(TIED, weights(w=(64, 64), v=(64, 64)))
    ids = np.array([[1, 2, 63]])
    before = run(model, i=ids)
    context = Context(bindings=BINDINGS, prices=favouring(form))
    coverage = apply(model, QuantizeWeights(bits="8"), context)
    assert coverage.changed == 3
    codes = [v for v in initializers(model) if v.const_value and v.const_value.nbytes >= 4096]
    assert len(codes) == 2
    assert distance(run(model, i=ids), before) < 0.03
    charged = [damage.bytes_before for damage in coverage.damage]
    assert sorted(charged) == [0, 4 * 64 * 64, 4 * 64 * 64]


def test_without_embeddings_a_tied_table_stays() -> None:
    coverage = apply(
        build(TIED, weights(w=(64, 64), v=(64, 64))), QuantizeWeights(embeddings=False)
    )
    assert coverage.changed == 1
    assert list(coverage.declined.values()) == ["the weight is also read by Gather 'Gather_0'"]


@pytest.mark.parametrize("attributes", ["transB=1", "alpha=0.5", "beta=2.0", "alpha=3.0, beta=0.0"])
def test_gemm_attributes_are_kept(attributes: str) -> None:
    text = f"(float[N,64] x) => (float[N,32] y) {{ y = Gemm<{attributes}>(x, w, b) }}"
    shape = (32, 64) if "transB" in attributes else (64, 32)
    model = build(text, weights(w=shape, b=(32,)))
    x = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    before = run(model, x=x)
    assert apply(model, QuantizeWeights(bits="8")).changed == 1
    assert distance(run(model, x=x), before) < 0.02


def correlated(rows: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    mixing = rng.standard_normal((8, 64))
    noise = 0.1 * rng.standard_normal((rows, 64))
    return (rng.standard_normal((rows, 8)) @ mixing + noise).astype(np.float32)


def test_gptq_loses_less_on_data_that_it_has_not_seen() -> None:
    x = correlated(2048)
    batches = tuple({"x": x[k : k + 256]} for k in range(0, 1792, 256))
    lost: dict[str, float] = {}
    for method in ("nearest", "auto"):
        model = build(LINEAR, weights(w=(64, 32)))
        before = run(model, x=x[1792:])
        context = Context(bindings=BINDINGS, calibration=batches)
        coverage = apply(model, make(method=method), context)
        lost[method] = distance(run(model, x=x[1792:]), before)
        assert ("gptq" in coverage.damage[0].format) == (method == "auto")
    assert lost["auto"] < 0.7 * lost["nearest"]


def test_in_sequence_later_weights_see_earlier_ones_quantized() -> None:
    text = "(float[N,64] x) => (float[N,32] y) { h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) }"
    x = correlated(512)
    batches = tuple({"x": x[k : k + 64]} for k in range(0, 512, 64))
    found: list[bytes] = []
    for sequential in (False, True):
        model = build(text, weights(v=(64, 64), w=(64, 32)))
        context = Context(bindings=BINDINGS, calibration=batches)
        assert apply(model, QuantizeWeights(sequential=sequential), context).changed == 2
        found.append(run(model, x=x[:4]).tobytes())
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        ("(float[64,64] x) => (float[64,64] y) { y = MatMul(w, x) }", {"w": (64, 64)}, "second operand"),
        ("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": (8, 8)}, "64 weights, fewer than 1024"),
        ("(float[64,N] x) => (float[N,64] y) { y = Gemm<transA=1>(x, w) }", {"w": (64, 64)}, "transposed"),
        (
            "(float[N,64] x) => (float[N,64] y, float[64,64] z) { y = MatMul(x, w) z = Relu(w) }",
            {"w": (64, 64)},
            "also read by Relu",
        ),
    ],
)  # fmt: skip
def test_declines_say_why(text: str, shapes: dict[str, tuple[int, ...]], reason: str) -> None:
    coverage = apply(build(text, weights(**shapes)), QuantizeWeights())
    assert coverage.changed == 0
    assert reason in coverage.nearest_miss


def test_weights_that_are_not_finite_are_declined() -> None:
    numbers = weights(w=(64, 32))
    numbers["w"][3, 3] = np.nan
    coverage = apply(build(LINEAR, numbers), QuantizeWeights())
    assert "cannot be quantized" in coverage.declined["MatMul_0"]


def test_an_output_that_changes_too_much_keeps_its_weight() -> None:
    numbers = weights(w=(64, 32))
    numbers["w"][:, 0] = 1e4
    numbers["w"][0] *= 1e4
    x = np.zeros((8, 64), np.float32)
    x[:, 1:] = np.random.default_rng(0).standard_normal((8, 63))
    x[:, 1:] -= x[:, 1:].mean(1, keepdims=True)
    context = Context(bindings=BINDINGS, calibration=({"x": x},))
    coverage = apply(build(LINEAR, numbers), make(bits="2", block="64", method="nearest"), context)
    assert coverage.changed == 0
    assert "its output changes by" in coverage.declined["MatMul_0"]


def test_a_pass_that_was_asked_for_and_finds_nothing_is_an_error() -> None:
    model = build("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }", weights(w=(8, 8)), 17)
    recipe = read_recipe("quantize-weights{bits=4}")
    with pytest.raises(NothingChanged, match="MatMul_0: 64 weights, fewer than 1024"):
        Pipeline(recipe.stages, recipe.asked_for).run(model, Context(bindings=BINDINGS))


def test_two_runs_give_the_same_bytes() -> None:
    found = []
    for _ in range(2):
        model = build(TIED, weights(w=(64, 64), v=(64, 64)))
        apply(model, dataclasses.replace(QuantizeWeights(), block="16"))
        found.append(onnx_ir.to_proto(model).SerializeToString(deterministic=True))
    assert found[0] == found[1]
