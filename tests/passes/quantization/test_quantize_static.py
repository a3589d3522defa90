from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from fake_prices import FakePrices
from folding import build, ops, weights

from whet.backends.onnxruntime import runtime_fusions
from whet.errors import NothingChanged, UsageError
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.files import save_model
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.pipeline import Pipeline
from whet.passes.quantization.quantize_static import QuantizeStatic
from whet.passes.workbench import Context, Workbench

BLOCK = """(float[N,8,12,12] x) => (float[N,8,1,1] y) {
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    c = Conv<pads=[1,1,1,1]>(r, v)
    s = Add(c, r)
    t = Relu(s)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t)
    d = Conv(p, u)
    y = GlobalAveragePool(d)
}"""
SHAPES = {"w": (8, 8, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "u": (8, 8, 1, 1)}
BINDINGS = Bindings(({"N": 2}, {"N": 3}))
FAST = FakePrices(lambda _work, name: {"float32": 2.0, "integer": 1.0}.get(name, 0.1))


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, 8, 12, 12)).astype(np.float32)


def context(prices: FakePrices | None = FAST, *, calibrated: bool = True) -> Context:
    batches = ({"x": images()[:3]}, {"x": images()[3:]}) if calibrated else ()
    return Context(bindings=BINDINGS, prices=prices, calibration=batches)


def block() -> onnx_ir.Model:
    numbers = weights(**SHAPES)
    return build(BLOCK, {k: (a * np.float32(0.2)) for k, a in numbers.items()})


def apply(model: onnx_ir.Model, step: QuantizeStatic, settings: Context) -> Coverage:
    work = Workbench(model, step, settings)
    step.apply(work)
    verify(model)
    return work.coverage


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_a_residual_block_runs_on_integers(activations: str, tmp_path: Path) -> None:
    model = block()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    coverage = apply(model, QuantizeStatic(activations=activations, weights="int7"), context())
    assert coverage.changed == 6
    assert len(coverage.damage) == 6
    after = Executor(onnx_ir.to_proto(model), optimization="all").run({"x": images()})[0]
    assert 0 < np.linalg.norm(after - before) / np.linalg.norm(before) < 0.1
    save_model(model, tmp_path / "m.onnx")
    if activations == "uint8":  # ONNX Runtime fuses signed activations on some machines only.
        assert runtime_fusions(tmp_path / "m.onnx")["QLinearConv"] == 3


def test_neighbours_share_a_grid_and_relu_disappears() -> None:
    model = block()
    apply(model, QuantizeStatic(), context())
    assert "Relu" not in ops(model)
    assert ops(model).count("QuantizeLinear") == 6  # the pool hands on what it gets
    for node in model.graph:
        producer = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        repeated = node.op_type == "QuantizeLinear" and producer is not None
        assert not (repeated and producer.op_type == "DequantizeLinear")


def test_max_pooling_keeps_the_grid() -> None:
    model = block()
    apply(model, QuantizeStatic(), context())
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    assert pool.inputs[0] is not None
    assert pool.inputs[0].dtype == onnx_ir.DataType.UINT8
    before = pool.inputs[0].producer()
    after = next(iter(pool.outputs[0].consumers()))
    assert before is not None
    for k in (1, 2):
        left, right = before.inputs[k], after.inputs[k]
        assert left is not None
        assert right is not None
        assert left.const_value is not None
        assert right.const_value is not None
        assert np.array_equal(left.const_value.numpy(), right.const_value.numpy())


def test_without_calibration_every_place_says_so() -> None:
    coverage = apply(block(), QuantizeStatic(), context(calibrated=False))
    assert coverage.changed == 0
    assert set(coverage.declined.values()) == {"needs calibration data"}
    pipeline = Pipeline((QuantizeStatic(),), frozenset({"quantize-static"}))
    with pytest.raises(NothingChanged, match="needs calibration data"):
        pipeline.run(block(), context(calibrated=False))


def test_a_model_of_matrix_products_may_be_left_to_another_pass() -> None:
    step = QuantizeStatic(products="convolutions")
    assert apply(block(), step, context()).changed == 6
    text = "(float[N,16] x) => (float[N,16] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w) }"
    coverage = apply(build(text, weights(w=(16, 16))), step, context())
    assert coverage.changed == 0
    assert "matrix products hold 512 weights, convolutions 0" in set(coverage.declined.values())


def test_slower_kernels_stay_in_float() -> None:
    slow = FakePrices(lambda _work, name: {"float32": 0.28, "integer": 0.31}.get(name, 0.01))
    model = block()
    coverage = apply(model, QuantizeStatic(activations="uint8"), context(slow))
    assert coverage.changed == 0
    assert coverage.declined["Conv_0"] == "uint8 takes 0.31 ms, float32 0.28 ms"
    assert apply(model, QuantizeStatic(prefer="size"), context(slow)).changed >= 3


def test_a_gain_that_the_crossing_eats_is_declined() -> None:
    def rule(work: str, name: str) -> float:
        return -1.0 if work.startswith("model") else prices.get(name, 100.0)

    prices = {"float32": 2.0, "integer": 1.0}
    dear = FakePrices(rule)
    coverage = apply(block(), QuantizeStatic(activations="uint8"), context(dear))
    assert coverage.changed == 0
    assert "crossing" in coverage.declined["Conv_0"]


def test_the_faster_sign_is_taken() -> None:
    signed = FakePrices(lambda work, name: 0.5 if "int8" in work and "uint8" not in work else 1.0)
    coverage = apply(block(), QuantizeStatic(prefer="size"), context(signed))
    assert {row.format for row in coverage.damage if "x" in row.format} <= {
        "int7 x int8",
        "int8 x int8",
    }


def test_what_stays_in_float_reads_floats() -> None:
    def rule(work: str, name: str) -> float:
        if name == "integer":
            return 50.0 if work.startswith("Add") else 1.0
        return 2.0 if name == "float32" else 0.01

    model = block()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    coverage = apply(
        model, QuantizeStatic(activations="uint8", weights="int7"), context(FakePrices(rule))
    )
    assert coverage.changed == 5
    after = Executor(onnx_ir.to_proto(model), optimization="all").run({"x": images()})[0]
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.1


def test_a_bias_that_dwarfs_its_weights_still_fits() -> None:
    numbers = {"w": np.full((8, 8, 1, 1), 1e-9, np.float32), "b": np.full(8, 1e4, np.float32)}
    model = build("(float[N,8,12,12] x) => (float[N,8,12,12] y) { y = Conv(x, w, b) }", numbers)
    apply(model, QuantizeStatic(), context())
    after = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    np.testing.assert_allclose(after, 1e4, rtol=0.01)


def test_a_second_run_changes_nothing() -> None:
    model = block()
    apply(model, QuantizeStatic(), context())
    text = onnx.printer.to_text(onnx_ir.to_proto(model))
    apply(model, QuantizeStatic(), context())
    assert onnx.printer.to_text(onnx_ir.to_proto(model)) == text


def test_equal_runs_give_equal_models() -> None:
    def once() -> bytes:
        model = block()
        apply(model, QuantizeStatic(), context())
        return bytes(onnx_ir.to_proto(model).SerializeToString(deterministic=True))

    assert once() == once()


def test_slices_and_paddings_move_integers() -> None:
    text = """(float[N,8,12,12] x) => (float[N,12,6,6] y)
    <int64[2] s = {0, 0}, int64[2] e = {12, 12}, int64[2] a = {2, 3}, int64[2] t = {2, 2},
     int64[8] p = {0, 2, 0, 0, 0, 2, 0, 0}> {
        c = Conv<pads=[1,1,1,1]>(x, w)
        d = Slice(c, s, e, a, t)
        y = Pad(d, p)
    }"""
    model = build(text, weights(w=(8, 8, 3, 3)))
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    coverage = apply(model, QuantizeStatic(activations="uint8", weights="int7"), context())
    assert coverage.changed == 3
    after = Executor(onnx_ir.to_proto(model), optimization="all").run({"x": images()})[0]
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.05
    assert (after[:, :2] == 0).all()
    filled = build(
        text.replace("Pad(d, p)", "Pad(d, p, q)"), {**weights(w=(8, 8, 3, 3)), "q": np.float32(1)}
    )
    assert apply(filled, QuantizeStatic(activations="uint8"), context()).changed == 2


MIXTURE = """(float[N,8,12,12] x) => (float[N,5] y)
<int64[2] f = {0, -1}, float[4] up = {1.0, 1.0, 2.0, 2.0}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    l = LeakyRelu<alpha=0.1>(a)
    g = Sigmoid(l)
    m = Mul(l, g)
    k = Mul(m, half)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(k)
    r = Resize<mode="linear">(p, , up)
    c = Concat<axis=1>(r, m)
    t = Transpose<perm=[0,2,3,1]>(c)
    s, u = Split<axis=3,num_outputs=2>(t)
    o = Add(s, u)
    e = Relu(o)
    q = Reshape(e, f)
    d = MatMul(q, v)
    b = Add(d, z)
    y = Gemm(b, h, i)
}"""


def mixture() -> onnx_ir.Model:
    shapes = {"w": (8, 8, 3, 3), "v": (1152, 6), "z": (6,), "h": (6, 5), "i": (5,)}
    numbers = {k: a * np.float32(0.1) for k, a in weights(**shapes).items()}
    return build(MIXTURE, {**numbers, "half": np.full((1, 8, 1, 1), 0.5, np.float32)})


def error_of(model: onnx_ir.Model, before: np.ndarray) -> float:
    after = Executor(onnx_ir.to_proto(model), optimization="all").run({"x": images()})[0]
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


def test_everything_between_products_runs_on_integers() -> None:
    model = mixture()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    coverage = apply(model, QuantizeStatic(activations="uint8", weights="int7"), context())
    assert not coverage.declined
    assert coverage.changed == 14  # a Relu belongs to the sum before it, a bias to its product
    assert 0 < error_of(model, before) < 0.1
    for node in model.graph:
        if node.op_type in ("MaxPool", "Resize", "Transpose", "Split", "Reshape", "Clip"):
            assert node.inputs[0] is not None
            assert node.inputs[0].dtype == onnx_ir.DataType.UINT8
    assert model.graph.outputs[0].producer() is not None
    assert model.graph.outputs[0].producer().op_type == "Gemm"  # the last product writes floats


@pytest.mark.parametrize(("bits", "limit"), [(4, 0.25), (3, 0.6)])
def test_few_bits_are_stored_in_few_bits(bits: int, limit: float, tmp_path: Path) -> None:
    model = build(BLOCK, {k: a * np.float32(0.2) for k, a in weights(**SHAPES).items()}, 21)
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    step = QuantizeStatic(activations="uint8", weights="int7", weight_bits=bits, ends="same")
    coverage = apply(model, step, context())
    assert coverage.changed == 6
    assert error_of(model, before) < limit
    stored = sum(v.const_value.nbytes for v in model.graph.initializers.values())
    count = sum(int(np.prod(shape)) for name, shape in SHAPES.items() if name != "b")
    assert stored < count * bits / 8 + 700
    save_model(model, tmp_path / "m.onnx")
    assert runtime_fusions(tmp_path / "m.onnx")["QLinearConv"] == 3


def test_the_first_and_the_last_product_keep_eight_bits() -> None:
    model = build(BLOCK, {k: a * np.float32(0.2) for k, a in weights(**SHAPES).items()}, 21)
    apply(model, QuantizeStatic(activations="uint8", weight_bits=4), context())
    kinds = [
        v.const_value.dtype for v in model.graph.initializers.values() if v.const_value.size > 60
    ]
    assert sorted(k.name for k in kinds) == ["INT4", "INT8", "INT8"]


def test_real_data_reach_a_sum_of_a_float_and_an_integer() -> None:
    """What an earlier step rounded is not drawn at random for the proof of a later one."""

    def rule(work: str, name: str) -> float:
        if work.startswith("model"):
            return -1.0
        first = work.startswith("Conv [2, 8, 12, 12] * [8, 8, 3, 3] + bias")
        return {"float32": 2.0, "integer": 90.0 if first else 1.0}.get(name, 0.01)

    model = block()
    coverage = apply(model, QuantizeStatic(activations="uint8"), context(FakePrices(rule)))
    assert list(coverage.declined) == ["Conv_0"]
    assert coverage.max_error < 0.05


def test_whole_models_decide() -> None:
    """Alone, every integer kernel is twice as fast; the race says that the first convolution has to stay."""

    def rule(work: str, name: str) -> float:
        if work.startswith("model"):
            return 1.0 if not int(name, 16) & 1 else 2.0
        return {"float32": 2.0, "integer": 1.0}.get(name, 0.01)

    coverage = apply(block(), QuantizeStatic(activations="uint8"), context(FakePrices(rule)))
    assert "Conv_0" in coverage.declined
    assert "the whole model takes 2 ms with it" in coverage.declined["Conv_0"]


def test_ranges_are_chosen_value_by_value() -> None:
    model, plain = block(), block()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    for built, method in ((model, "auto"), (plain, "extremes")):
        step = QuantizeStatic(activations="uint8", weights="int7", ranges=method)
        assert apply(built, step, context()).changed == 6
    assert error_of(model, before) < 1.2 * error_of(plain, before)


def test_what_is_skipped_stays_and_the_race_knows() -> None:
    model = block()
    coverage = apply(model, QuantizeStatic(activations="uint8", skip=("Conv_2",)), context())
    assert coverage.changed == 5
    assert "Conv_2" in coverage.declined


def test_only_the_named_products_and_what_lies_between_change() -> None:
    model = block()
    step = QuantizeStatic(prefer="size", only=("Conv_0", "Conv_2"))
    apply(model, step, context(None))
    kept = [n for n in model.graph if n.op_type == "Conv" and n.inputs[1].const_value is not None]
    assert [node.name for node in kept] == ["Conv_6"]


def test_single_products_may_have_bits_of_their_own() -> None:
    model = build(BLOCK, {k: a * np.float32(0.2) for k, a in weights(**SHAPES).items()}, 21)
    step = QuantizeStatic(activations="uint8", ends="same", stored=("Conv_2:4",))
    apply(model, step, context())
    kinds = [
        v.const_value.dtype for v in model.graph.initializers.values() if v.const_value.size > 60
    ]
    assert sorted(k.name for k in kinds) == ["INT4", "INT8", "INT8"]


@pytest.mark.parametrize("entry", ["Conv_2", "Conv_2:5", ":4"])
def test_bits_of_single_products_are_checked(entry: str) -> None:
    with pytest.raises(UsageError, match=f"'stored' .* has '{entry}', expected NODE:BITS"):
        QuantizeStatic(stored=(entry,))


def test_a_limit_on_the_outputs_takes_steps_back() -> None:
    model, plain = block(), block()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    apply(plain, QuantizeStatic(activations="uint8", weights="int7"), context())
    limit = error_of(plain, before) / 4
    step = QuantizeStatic(activations="uint8", weights="int7", limit=limit)
    coverage = apply(model, step, context())
    assert 0 < coverage.changed < 6
    assert error_of(model, before) < limit * 1.1
    assert all("of their norm" in reason for reason in coverage.declined.values())
    assert {row.site for row in coverage.spared} == set(coverage.declined)
    assert all(row.limit == limit and row.error > 0 for row in coverage.spared)


def test_eight_bits_are_fitted_to_the_inputs_where_that_is_asked_for() -> None:
    model, plain = block(), block()
    before = Executor(onnx_ir.to_proto(model)).run({"x": images()})[0]
    for built, method in ((model, "gptq"), (plain, "nearest")):
        step = QuantizeStatic(activations="uint8", weights="int8", method=method)
        assert apply(built, step, context()).changed == 6
    assert error_of(model, before) < error_of(plain, before)
