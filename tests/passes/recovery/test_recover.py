import dataclasses
import importlib.util
import itertools
from typing import ClassVar, Literal

import numpy as np
import onnx_ir
import pytest
from folding import BINDINGS, build, ops, weights

from whet.errors import NothingChanged, UsageError
from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.base import Change, Coverage, Fidelity, Pass
from whet.passes.pipeline import Pipeline
from whet.passes.recovery import recover, training
from whet.passes.recovery.recover import Recover
from whet.passes.registry import make_pass
from whet.passes.workbench import Context, Workbench

pytest.importorskip("torch")

MLP = """(float[N,12] x) => (float[N,5] y) { a = MatMul(x, w1) b = Add(a, c1) d = Relu(b) e = MatMul(d, w2)
f = Add(e, c2) g = Relu(f) h = Add(g, d) y = Gemm(h, w3, c3) }"""
MLP_WEIGHTS = weights(w1=(12, 24), c1=(24,), w2=(24, 24), c2=(24,), w3=(24, 5), c3=(5,))
CNN = """(float[N,3,8,8] x) => (float[N,4] y) { a = Conv<pads=[1,1,1,1]>(x, w1, c1) b = Relu(a)
d = Conv<pads=[1,1,1,1]>(b, w2, c2) e = Add(d, b) f = Relu(e) g = GlobalAveragePool(f) h = Flatten(g)
y = Gemm(h, m, c) }"""
CNN_WEIGHTS = weights(w1=(8, 3, 3, 3), c1=(8,), w2=(8, 8, 3, 3), c2=(8,), m=(8, 4), c=(4,))
TIED = """(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = Relu(a) d = MatMul(b, w) e = Add(d, c)
f = Relu(e) y = Add(f, c) }"""
QUICK = Recover(steps=150, rate=0.01, batch=32, precision="float32")


@dataclasses.dataclass(frozen=True)
class Zero(Pass):
    """Zero the smallest weights of products and convolutions."""

    changes: ClassVar[Change] = Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY

    share: float = 0.4

    def apply(self, work: Workbench) -> None:
        for value in work.graph.initializers.values():
            assert value.const_value is not None
            array = value.const_value.numpy().copy()
            if array.ndim < 2:
                continue
            array[np.abs(array) < np.quantile(np.abs(array), self.share)] = 0
            value.const_value = onnx_ir.tensor(array, name=value.name)
            work.changed_by_hand(1, "a test")


def feeds(shape: tuple[int, ...], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)}


def run(
    step: Pass, text: str = MLP, constants: dict | None = None, *, damage: Pass | None = None, **kw
) -> tuple[onnx_ir.Model, Coverage, Context]:
    """Damage a model, recover it."""
    model = build(text, MLP_WEIGHTS if constants is None else constants, opset=21)
    shape = _shape(model)
    context = Context(
        bindings=BINDINGS,
        calibration=[feeds(shape, 64, k) for k in range(6)],
        held_out=[feeds(shape, 64, 99)],
        threads=1,
    )
    context = dataclasses.replace(context, **kw)
    model, steps = Pipeline((damage or Zero(), step)).run(model, context)
    verify(model)
    return model, steps[-1].coverage, context


def _shape(model: onnx_ir.Model) -> tuple[int, ...]:
    dims = model.graph.inputs[0].shape
    assert dims is not None
    return tuple(int(d) for d in dims[1:] if isinstance(d, int))


def arrays(model: onnx_ir.Model) -> dict[str, np.ndarray]:
    return {
        n: v.const_value.numpy()
        for n, v in model.graph.initializers.items()
        if v.const_value is not None
    }


def outputs(model: onnx_ir.Model, data: dict[str, np.ndarray]) -> np.ndarray:
    return Executor(onnx_ir.to_proto(model)).run(data)[0]


@pytest.mark.parametrize(("what", "factor"), [("perp", 2), ("all", 2.2)])
@pytest.mark.parametrize("loss", ["outputs", "features"])
def test_a_damaged_network_comes_back(what: str, factor: float, loss: str) -> None:
    step = dataclasses.replace(QUICK, what=what, rank=4, loss=loss)
    model, coverage, context = run(step)
    (tuning,) = coverage.tunings
    assert tuning.before is not None
    assert tuning.after is not None
    assert tuning.after < tuning.before / factor
    assert tuning.curve[0][0] == 0
    original = context.original
    assert original is not None
    wanted, found = (outputs(m, feeds((12,), 64, 99)) for m in (original, model))
    truth = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
    assert truth == pytest.approx(tuning.after, rel=1e-3)
    (proof,) = coverage.proofs
    assert f"{tuning.before:.4g}, {tuning.after:.4g}" in proof


def test_convolutions_and_divergence() -> None:
    step = dataclasses.replace(QUICK, what="all", loss="divergence", steps=120)
    _, coverage, _ = run(step, CNN, CNN_WEIGHTS)
    (tuning,) = coverage.tunings
    assert tuning.after is not None
    assert tuning.before is not None
    assert tuning.after < tuning.before / 2


@pytest.mark.parametrize("what", ["perp", "all"])
def test_zeros_of_matrices_stay(what: str) -> None:
    damaged, _, _ = run(dataclasses.replace(QUICK, steps=1, rate=1e-9), CNN, CNN_WEIGHTS)
    model, coverage, _ = run(dataclasses.replace(QUICK, what=what, rank=2), CNN, CNN_WEIGHTS)
    assert coverage.changed == 6
    old = {a.shape: a for a in arrays(damaged).values()}
    for array in arrays(model).values():
        if array.ndim > 1:
            zero = old[array.shape] == 0
            assert zero.mean() == pytest.approx(0.4, abs=0.05)
            np.testing.assert_array_equal(array == 0, zero)
            assert not np.array_equal(array, old[array.shape])


def test_names_are_fresh_and_nodes_stay() -> None:
    model, coverage, context = run(QUICK)
    assert context.original is not None
    assert ops(model) == ops(context.original)
    assert coverage.changed == 6
    assert not set(arrays(model)) & set(arrays(context.original))


def test_a_tied_weight_is_one_weight() -> None:
    used = weights(w=(6, 6), c=(6,))
    model, coverage, _ = run(dataclasses.replace(QUICK, what="all"), TIED, used)
    assert coverage.changed == 2
    assert sorted(a.shape for a in arrays(model).values()) == [(6,), (6, 6)]
    products = [node for node in model.graph if node.op_type == "MatMul"]
    assert products[0].inputs[1] is products[1].inputs[1]


def test_equal_seeds_give_equal_bits() -> None:
    step = dataclasses.replace(QUICK, steps=40, what="perp")
    one, other = (arrays(run(step)[0]) for _ in range(2))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    third = arrays(run(step, seed=1)[0])
    assert any(not np.array_equal(one[name], third[name]) for name in one)


def test_nothing_gained_changes_nothing() -> None:
    """Steps so large that every look is worse than the start: the start is what is left."""
    step = dataclasses.replace(QUICK, rate=1e20, steps=20)
    model, coverage, context = run(step)
    assert coverage.changed == 0
    (tuning,) = coverage.tunings
    assert f"{tuning.before:.4g}, {tuning.after:.4g}" in coverage.declined["model"]
    assert context.original is not None
    assert set(arrays(model)) == set(arrays(context.original))


def test_patience_ends_a_training_that_gains_nothing() -> None:
    _, coverage, _ = run(dataclasses.replace(QUICK, rate=1e20, steps=400, patience=3))
    assert coverage.tunings[0].stopped == "patience"
    assert coverage.tunings[0].steps <= 40


def test_nothing_lost_means_nothing_to_do() -> None:
    model = build(MLP, MLP_WEIGHTS, opset=21)
    context = Context(bindings=BINDINGS, calibration=[feeds((12,), 64)])
    with pytest.raises(NothingChanged, match="nothing to recover"):
        Pipeline((QUICK,), frozenset({"recover"})).run(model, context)


@pytest.mark.parametrize(
    ("kw", "reason"),
    [
        ({"calibration": (), "held_out": ()}, "needs calibration data"),
        ({"calibration": [feeds((12,), 1)], "held_out": ()}, "too few"),
    ],
)
def test_data_are_needed(kw: dict, reason: str) -> None:
    _, coverage, _ = run(QUICK, **kw)
    assert coverage.changed == 0
    assert reason in coverage.declined["model"]


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        recover.importlib.util, "find_spec", lambda n: None if n == "torch" else known(n)
    )
    _, coverage, _ = run(QUICK)
    assert coverage.declined["model"].startswith("needs torch")


def test_an_interrupt_leaves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(MLP, MLP_WEIGHTS, opset=21)
    damaged = model.clone()
    Zero().apply(Workbench(damaged, Zero(), Context(prove=False)))
    before = arrays(damaged)
    told = itertools.count()

    def stop(_message: str) -> None:
        if next(told) == 1:
            raise KeyboardInterrupt

    ticks = itertools.count()
    whole = recover.Plan
    monkeypatch.setattr(
        recover,
        "Plan",
        lambda **kw: whole(**{**kw, "seconds": 1e9}, clock=lambda: next(ticks) * 1.0),
    )
    context = Context(bindings=BINDINGS, calibration=[feeds((12,), 64)], progress=stop)
    context.original = model
    work = Workbench(damaged, QUICK, context)
    with pytest.raises(KeyboardInterrupt):
        QUICK.apply(work)
    after = arrays(damaged)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert work.coverage.changed == 0


def test_skip_and_only() -> None:
    model, coverage, _ = run(dataclasses.replace(QUICK, only=("Gemm*",), steps=30))
    assert coverage.changed == 2
    assert "w1" in arrays(model)
    model, coverage, _ = run(dataclasses.replace(QUICK, skip=("Gemm*",), steps=30))
    assert coverage.changed == 4
    assert {"w3", "c3"} <= set(arrays(model))


def test_half_precision_weights_stay_half() -> None:
    text = (
        "(float16[N,12] x) => (float16[N,5] y) { a = MatMul(x, w1) b = Relu(a) y = MatMul(b, w3) }"
    )
    used = {n: a for n, a in weights(0, "float16", w1=(12, 24), w3=(24, 5)).items()}
    data = [{"x": feeds((12,), 64, k)["x"].astype(np.float16)} for k in range(4)]
    model, coverage, _ = run(QUICK, text, used, calibration=data, held_out=())
    assert coverage.changed == 2
    assert {a.dtype for a in arrays(model).values()} == {np.dtype(np.float16)}


def test_a_fixed_batch_is_added_up() -> None:
    text = MLP.replace("[N,", "[4,")
    data = [feeds((12,), 4, k) for k in range(40)]
    _, coverage, _ = run(dataclasses.replace(QUICK, steps=60), text, calibration=data, held_out=())
    (tuning,) = coverage.tunings
    assert tuning.after is not None
    assert tuning.before is not None
    assert tuning.after < 0.75 * tuning.before
    assert "put aside" in next(iter(coverage.proofs))


@pytest.mark.parametrize(
    "option", ["steps=0", "rank=0", "minutes=0", "rate=-1", "batch=-1", "patience=0"]
)
def test_options_that_mean_nothing(option: str) -> None:
    name, value = option.split("=")
    with pytest.raises(UsageError, match=name):
        make_pass("recover", {name: value})


def test_time_makes_fewer_steps_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks a second for each look at it: a hundred steps cannot fit into a minute."""
    ticks = itertools.count()
    whole = recover.Plan
    monkeypatch.setattr(recover, "Plan", lambda **kw: whole(**kw, clock=lambda: next(ticks) * 1.0))
    _, coverage, _ = run(dataclasses.replace(QUICK, steps=100, minutes=1.0))
    (tuning,) = coverage.tunings
    assert tuning.stopped == "minutes"
    assert 3 < tuning.steps < 60
    assert tuning.seconds <= 65


def test_training_leaves_torch_as_it_was() -> None:
    import torch

    before = torch.get_num_threads(), torch.initial_seed()
    with training.steady(3, 5):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 3
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.initial_seed()) == before


def test_a_rate_that_is_too_high_gives_way() -> None:
    _, coverage, _ = run(dataclasses.replace(QUICK, rate=3.0, steps=300, patience=99))
    (tuning,) = coverage.tunings
    start = tuning.curve[0][1]
    assert max(value for _, value in tuning.curve) > start
    assert min(value for _, value in tuning.curve[-5:]) < start / 2


@pytest.mark.parametrize(("precision", "asked"), [("bfloat16", False), ("float32", True)])
def test_new_pictures_are_answered_in_the_students_precision(
    precision: Literal["bfloat16", "float32"], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    whole = training.Teacher.run
    monkeypatch.setattr(
        training.Teacher, "run", lambda self, feeds: counts.append(1) or whole(self, feeds)
    )
    step = dataclasses.replace(
        QUICK, augment="shift", precision=precision, loss="features", steps=60
    )
    _, coverage, context = run(step, CNN, CNN_WEIGHTS)
    (tuning,) = coverage.tunings
    assert tuning.before is not None
    assert tuning.after is not None
    assert tuning.after < 0.7 * tuning.before
    rest = 2 * len(context.held_out) * 2 + 2  # judging twice, two models; the watched batches
    assert (len(counts) >= 60) == asked
    assert asked or len(counts) <= rest
