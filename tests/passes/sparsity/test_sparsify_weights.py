from collections.abc import Sequence

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops

from whet.errors import UsageError
from whet.ir.execute import Executor
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.base import Coverage
from whet.passes.canonical.fold_constants import FoldConstants
from whet.passes.registry import make_pass
from whet.passes.sparsity.sparsify_weights import SparsifyWeights
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(0)
TWO = """(float[N,32] x) => (float[N,16] y)
{ a = Gemm(x, u, b) h = Relu(a) y = MatMul(h, v) }"""
MIX = RNG.standard_normal((32, 32)) * 0.4 + np.diag(RNG.lognormal(0, 1, 32))
Feeds = dict[str, np.ndarray]


def model(seed: int = 0) -> onnx_ir.Model:
    rng = np.random.default_rng(seed)
    shapes = {"u": (32, 64), "b": (64,), "v": (64, 16)}
    drawn = {k: rng.standard_normal(s).astype(np.float32) * 0.2 for k, s in shapes.items()}
    return build(TWO, drawn)


def batches(count: int = 8, seed: int = 1) -> tuple[Feeds, ...]:
    rng = np.random.default_rng(seed)
    drawn = (rng.standard_normal((64, 32)) @ MIX for _ in range(count))
    return tuple({"x": x.astype(np.float32)} for x in drawn)


def apply(
    found: onnx_ir.Model, step: SparsifyWeights, data: Sequence[Feeds] | None = None
) -> Coverage:
    fit = batches() if data is None else data
    held = batches(2, seed=2) if fit else ()
    context = Context(bindings=BINDINGS, calibration=fit, held_out=held)
    work = Workbench(found, step, context)
    step.apply(work)
    verify(found)
    return work.coverage


def decoded(found: onnx_ir.Model) -> list[np.ndarray]:
    """Return what the products multiply with."""
    copy = found.clone()
    values = [
        n.inputs[1] for n in copy.graph if n.op_type in ("MatMul", "Gemm", "Conv") and n.inputs[1]
    ]
    weights = [v.const_value.numpy() for v in values if v.const_value is not None]
    made = [v for v in values if v.const_value is None]
    if made:
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(made)
        weights += Executor(onnx_ir.to_proto(copy)).run(batches(1)[0])
    return weights


def zeros(found: onnx_ir.Model) -> float:
    weights = decoded(found)
    return 1 - sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights)


def error(before: onnx_ir.Model, after: onnx_ir.Model) -> float:
    feeds = batches(1, seed=3)[0]
    old, new = (Executor(onnx_ir.to_proto(m)).run(feeds)[0] for m in (before, after))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


@pytest.mark.parametrize("budget", ["uniform", "global", "pq", "second-order"])
def test_budgets_reach_the_share(budget: str) -> None:
    found = model()
    coverage = apply(found, SparsifyWeights(sparsity=0.6, budget=budget))
    assert (coverage.matched, coverage.changed) == (2, 2), coverage
    assert zeros(found) == pytest.approx(0.6, abs=0.01)
    assert weight_bytes(found) < 0.5 * weight_bytes(model())


def test_second_order_beats_magnitude_and_updates_beat_none() -> None:
    lost: dict[str, float] = {}
    for name, step in {
        "magnitude": SparsifyWeights(method="magnitude", budget="uniform", update=False),
        "wanda": SparsifyWeights(method="wanda", budget="uniform", update=False),
        "updated": SparsifyWeights(method="magnitude", budget="uniform"),
        "gram": SparsifyWeights(method="gram", budget="uniform"),
        "exchange": SparsifyWeights(method="magnitude", budget="uniform", surgeon=True),
        "second-order": SparsifyWeights(method="gram"),
    }.items():
        found = model()
        coverage = apply(found, step)
        assert coverage.changed == 2, coverage
        lost[name] = error(model(), found)
    assert lost["updated"] < lost["magnitude"]
    assert lost["wanda"] < lost["magnitude"]
    assert lost["gram"] < lost["updated"]
    assert lost["exchange"] < lost["updated"]
    assert lost["second-order"] < lost["updated"]


@pytest.mark.parametrize("method", ["fisher", "mfac"])
def test_gradients_beat_magnitudes(method: str) -> None:
    pytest.importorskip("torch")
    plain, found = model(), model()
    apply(plain, SparsifyWeights(sparsity=0.6, method="magnitude", update=False))
    step = SparsifyWeights(sparsity=0.6, method=method, gradients=256)
    coverage = apply(found, step)
    assert coverage.changed == 2, coverage
    assert zeros(found) == pytest.approx(0.6, abs=0.01)
    assert error(model(), found) < error(model(), plain)
    names = {"fisher": "Fisher blocks with", "mfac": "M-FAC, damping"}
    assert names[method] in coverage.damage[0].format


@pytest.mark.parametrize(
    ("pattern", "share"), [("2:4", 0.5), ("1:4", 0.75), ("4x1", 0.5), ("1x4", 0.5), ("4x4", 0.5)]
)
def test_patterns(pattern: str, share: float) -> None:
    found = model()
    coverage = apply(found, SparsifyWeights(pattern=pattern, store=False))
    assert coverage.changed == 2
    assert all("stored densely" in d.format for d in coverage.damage)
    assert zeros(found) == pytest.approx(share, abs=0.01)
    for stored in decoded(found):
        matrix = (stored.T if stored.shape[0] in (32, 64) else stored) != 0
        if ":" in pattern:
            assert (matrix.reshape(-1, 4).sum(1) <= round(4 * (1 - share))).all()
        else:
            high, wide = (int(n) for n in pattern.split("x"))
            units = matrix.reshape(len(matrix) // high, high, -1, wide).sum((1, 3))
            assert set(np.unique(units)) <= {0, high * wide}


def test_a_convolution_with_groups_and_a_bias() -> None:
    text = """(float[N,8,6,6] x) => (float[N,8,6,6] y)
    { y = Conv<group=2, pads=[1,1,1,1]>(x, w) }"""
    weights = {"w": RNG.standard_normal((8, 4, 3, 3)).astype(np.float32)}
    found = build(text, weights)
    data = [{"x": RNG.standard_normal((32, 8, 6, 6)).astype(np.float32) + 1} for _ in range(3)]
    context = Context(bindings=BINDINGS, calibration=data[:2], held_out=data[2:])
    step = SparsifyWeights(store=False, minimum=1)
    work = Workbench(found, step, context)
    step.apply(work)
    verify(found)
    assert work.coverage.changed == 1
    (node,) = (n for n in found.graph if n.op_type == "Conv")
    assert len(node.inputs) == 3
    assert zeros(found) == pytest.approx(0.5, abs=0.01)
    assert "updated" in work.coverage.damage[0].format


def test_cfsp_asks_for_residual_blocks() -> None:
    coverage = apply(model(), SparsifyWeights(budget="cfsp"))
    assert set(coverage.declined.values()) == {
        "budget=cfsp needs residual blocks, the model has none around its weights"
    }
    text = """(float[N,32] x) => (float[N,32] y)
    { a = MatMul(x, u) b = Relu(a) c = Add(x, b) d = MatMul(c, v) e = Relu(d) y = Add(c, e) }"""
    drawn = {k: RNG.standard_normal((32, 32)).astype(np.float32) for k in "uv"}
    drawn["v"] *= 0.05
    found = build(text, drawn)
    assert apply(found, SparsifyWeights(budget="cfsp", store=False)).changed == 2
    counts = [np.count_nonzero(w) for w in decoded(found)]
    assert zeros(found) == pytest.approx(0.5, abs=0.01)
    assert counts[0] > counts[1]


def test_fewer_bits_are_stored_with_the_places() -> None:
    plain, found = model(), model()
    apply(plain, SparsifyWeights(sparsity=0.7))
    coverage = apply(found, SparsifyWeights(sparsity=0.7, bits=8))
    assert coverage.changed == 2
    assert "8 bits" in coverage.damage[0].format
    assert weight_bytes(found) < 0.85 * weight_bytes(plain)
    assert error(model(), found) < 1.1 * error(model(), plain)
    kinds = ops(found)
    work = Workbench(found, FoldConstants(), Context(bindings=BINDINGS))
    FoldConstants().apply(work)
    assert ops(found) == kinds


def test_a_second_run_changes_nothing() -> None:
    found = model()
    step = SparsifyWeights(store=False)
    assert apply(found, step).changed == 2
    again = apply(found, step)
    assert again.changed == 0
    assert sorted(again.declined.values()) == [
        "'u.1' has lost its share already",
        "'v.1' has lost its share already",
    ]


def test_a_model_that_came_sparse_is_left() -> None:
    rng = np.random.default_rng(0)
    drawn = {k: rng.standard_normal(s) for k, s in {"u": (32, 64), "v": (64, 16)}.items()}
    sparse = {k: (a * (rng.random(a.shape) < 0.4)).astype(np.float32) for k, a in drawn.items()}
    found = build(TWO, {**sparse, "b": np.zeros(64, np.float32)})
    coverage = apply(found, SparsifyWeights())
    assert coverage.changed == 0
    for reason in coverage.declined.values():
        assert "of these weights are zeros already, 50.0% are wanted" in reason


def test_without_data() -> None:
    found = model()
    coverage = apply(found, SparsifyWeights(), data=())
    assert coverage.changed == 2
    assert coverage.damage[0].format.endswith("zeros, magnitude")
    for method in ("gram", "wanda", "fisher", "mfac"):
        coverage = apply(model(), SparsifyWeights(method=method), data=())
        assert set(coverage.declined.values()) == {f"method={method} needs calibration data"}


def test_what_does_not_fit_is_left() -> None:
    text = "(float[N,27] x) => (float[N,16] y) { y = MatMul(x, w) }"
    weights = {"w": RNG.standard_normal((27, 16)).astype(np.float32)}
    coverage = apply(build(text, weights), SparsifyWeights(pattern="2:4", minimum=1), data=())
    assert coverage.declined["MatMul_0"] == (
        "'w': 27 inputs are no multiple of 4, 3 would fit (pattern 2:4)"
    )
    coverage = apply(model(), SparsifyWeights(minimum=1025))
    assert coverage.declined["MatMul_2"] == "'v' has 1024 weights, fewer than 1025"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "half"}, "is 'half', expected unstructured, N:M"),
        ({"pattern": "4:4"}, "is '4:4', expected unstructured, N:M of fewer than M"),
        ({"sparsity": 1.2}, "is 1.2, expected more than 0 to less than 1"),
        ({"bits": 9}, "is 9, expected 2 to 8 or 32"),
        ({"sparsity": 0.9, "floor": 0.2}, "'floor' .* is 0.2, expected at most 0.1: sparsity 0.9"),
        ({"pattern": "4x1", "surgeon": True}, "expected False with blocks of 4x1"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_pass("sparsify-weights", options)
