import numpy as np
import onnx_ir
import pytest
from attending import (
    HEADS,
    Biased,
    Feeds,
    apply_pass,
    attend,
    feeds_of,
    relative,
    run,
    square_values,
)
from fake_prices import FakePrices
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.ir.values import Array
from whet.passes.attention.factor_bias import FactorBias

STEP = FactorBias(when="always")
SLOPES = np.array([0.5, 0.25, 0.125, 0.0625]).reshape(1, HEADS, 1, 1)
ODD = np.array([0.63, 0.397, 0.25, 0.157]).reshape(1, HEADS, 1, 1)
MIXED = np.array([0.5, -0.3, 0.0, 1.5]).reshape(1, HEADS, 1, 1)
PER_HEAD = "s = Unsqueeze({0}, ends)"
MINUS = "ji = Sub(j, i) d = Cast<to=1>(ji)"
COORDINATES = ", float[B,N,3] x, float[B,M,3] z"
PAIRS = "x0 = Unsqueeze(x, two_) z0 = Unsqueeze(z, one_)"


def below(_: Feeds, i: Array, j: Array) -> Array:
    return np.where(j <= i, 0.0, -np.inf)


def distance(feeds: Feeds) -> Array:
    x, z = feeds["x"].astype(float), feeds["z"].astype(float)
    return ((x[:, :, None] - z[:, None]) ** 2).sum(-1)[:, None]


def seen(feeds: Feeds) -> Array:
    return np.where(feeds["mask"][:, None, None, :] > 0, 0.0, -np.inf)


SQUARES = """x0 = Unsqueeze(x, ax2) z0 = Unsqueeze(z, ax1) d0 = Sub(x0, z0)"""
CASES = {
    "alibi": Biased(
        f"{PER_HEAD.format('slopes')} {MINUS} bias = Mul(s, d)",
        lambda f, i, j: SLOPES * (j - i),
        1,
    ),
    "alibi of keys": Biased(
        f"{PER_HEAD.format('odd')} c = Cast<to=1>(j) b0 = Mul(c, s)"
        " e = Concat<axis=0>(ax1, ax1, n, ax1) bias = Expand(b0, e)",
        lambda f, i, j: ODD * j + 0 * i,
        1,
    ),
    "slopes of both signs": Biased(
        f"{PER_HEAD.format('mixed')} {MINUS} bias = Mul(s, d)",
        lambda f, i, j: MIXED * (j - i),
        2,
    ),
    "squared distance": Biased(
        f"{SQUARES} d1 = Mul(d0, d0) d2 = ReduceSum<keepdims=0>(d1, last)"
        f" d3 = Unsqueeze(d2, ax1) {PER_HEAD.format('odd')} d4 = Mul(s, d3) bias = Neg(d4)",
        lambda f, i, j: -ODD * distance(f),
        5,
        COORDINATES,
    ),
    "squared distance as a power": Biased(
        f"{SQUARES} d1 = Pow(d0, two) d2 = ReduceSum<keepdims=0>(d1, last)"
        " bias = Unsqueeze(d2, ax1)",
        lambda f, i, j: distance(f),
        5,
        COORDINATES,
    ),
    "expanded distance": Biased(
        """zt = Transpose<perm=[0,2,1]>(z) p = MatMul(x, zt) p2 = Mul(p, two)
        xx = Mul(x, x) x2 = ReduceSum<keepdims=1>(xx, last) zz = Mul(z, z) z2 = ReduceSum<keepdims=0>(zz, last)
        z3 = Unsqueeze(z2, ax1) t = Add(x2, z3) u = Sub(t, p2)
        v1 = Unsqueeze(u, ax1) bias = Neg(v1)""",
        lambda f, i, j: -distance(f),
        5,
        COORDINATES,
    ),
    "inner product": Biased(
        """zt = Transpose<perm=[0,2,1]>(z) p = MatMul(x, zt)
        bias = Unsqueeze(p, ax1)""",
        lambda f, i, j: (f["x"].astype(float) @ f["z"].astype(float).swapaxes(-1, -2))[:, None],
        3,
        COORDINATES,
    ),
    "cosine": Biased(
        f"{MINUS} {PER_HEAD.format('odd')} a = Mul(d, s) bias = Cos(a)",
        lambda f, i, j: np.cos(ODD * (j - i)),
        2,
    ),
    "sine and slope": Biased(
        f"{MINUS} {PER_HEAD.format('slopes')} a = Mul(d, half) w = Sin(a) r = Mul(d, s) bias = Add(r, w)",
        lambda f, i, j: np.sin(0.5 * (j - i)) + SLOPES * (j - i),
        3,
    ),
    "padding": Biased(
        """b0 = Cast<to=9>(mask) b1 = Unsqueeze(b0, ax12)
        e = Concat<axis=0>(ax1, ax1, n, ax1) bias = Expand(b1, e)""",
        lambda f, i, j: seen(f) + 0 * i,
        1,
        ", int64[B,M] mask",
    ),
    "padding in numbers": Biased(
        """c = Cast<to=1>(mask)
        h = Sub(unit, c) g = Mul(h, least) b1 = Unsqueeze(g, ax12)
        e = Concat<axis=0>(ax1, ax1, n, ax1) bias = Expand(b1, e)""",
        lambda f, i, j: seen(f) + 0 * i,
        1,
        ", int64[B,M] mask",
    ),
    "padding and slope": Biased(
        f"""b0 = Cast<to=9>(mask) b1 = Unsqueeze(b0, ax12)
        {MINUS} {PER_HEAD.format("slopes")} r = Mul(d, s) bias = Where(b1, r, least)""",
        lambda f, i, j: seen(f) + SLOPES * (j - i),
        2,
        ", int64[B,M] mask",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_becomes_factors(name: str) -> None:
    case = CASES[name]
    model = case.model()
    coverage = apply_pass(model, STEP)
    assert coverage.changed == 1, coverage
    assert square_values(model) == []
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.inputs[0] is not None
    assert node.inputs[0].shape is not None
    assert node.inputs[0].shape[-1] == 8 + case.rank
    assert apply_pass(model, STEP).changed == 0


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 70),
    keys=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_against_float64(name: str, batch: int, queries: int, keys: int, seed: int) -> None:
    case = CASES[name]
    model = case.model()
    apply_pass(model, STEP)
    feeds = feeds_of(model, batch, queries, keys, seed)
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    wanted = attend(feeds, case.value(feeds, i, j))
    assert relative(run(model, feeds), wanted) <= 1e-5


CAUSAL = {
    "alibi": (
        f"{PER_HEAD.format('slopes')} {MINUS} r = Mul(s, d)",
        lambda i, j: SLOPES * (j - i),
        2,
    ),
    "alibi of other slopes": (
        f"{PER_HEAD.format('odd')} c = Cast<to=1>(j) r = Mul(s, c)",
        lambda i, j: ODD * j + 0.0 * i,
        4,
    ),
    "symmetric alibi": (
        f"{PER_HEAD.format('slopes')} {MINUS} a = Abs(d) o = Neg(s) r = Mul(o, a)",
        lambda i, j: -SLOPES * abs(j - i),
        2,
    ),
}
HIDES = {
    "where": "c0 = LessOrEqual(j, i) bias = Where(c0, r, least)",
    "not": "c0 = Greater(j, i) bias = Where(c0, least, r)",
    "added": "c0 = GreaterOrEqual(i, j) c1 = Where(c0, shift, least) bias = Add(c1, r)",
}


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str, hides: str) -> None:
    nodes, value, rank = CAUSAL[name]
    case = Biased(f"{nodes} {HIDES[hides]}", lambda f, i, j: value(i, j), rank)
    model = case.model()
    assert apply_pass(model, STEP).changed == 1
    assert square_values(model) == []
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes["is_causal"].as_int() == 1
    assert node.inputs[0] is not None
    assert node.inputs[0].shape is not None
    assert node.inputs[0].shape[-1] == 8 + rank


@pytest.mark.parametrize("name", CAUSAL)
def test_long_causal_biases_stay_exact(name: str) -> None:
    """Positions counted from 0 cost 1e-5 at this length; counted from the query, nothing."""
    nodes, value, rank = CAUSAL[name]
    length = 1500
    model = Biased(f"{nodes} {HIDES['where']}", lambda f, i, j: value(i, j), rank).model()
    apply_pass(model, STEP)
    feeds = feeds_of(model, 1, length, length)
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    wanted = attend(feeds, value(i, j) + below({}, i, j))
    assert relative(run(model, feeds), wanted) < 1e-6


DECLINED = {
    "symmetric": (f"{MINUS} a = Abs(d) bias = Neg(a)", "", "Abs of a query and a key together"),
    "root": (
        f"{SQUARES} d1 = Mul(d0, d0) d2 = ReduceSum<keepdims=0>(d1, last) r = Sqrt(d2)"
        " bias = Unsqueeze(r, ax1)",
        COORDINATES,
        "Sqrt of a query and a key together",
    ),
    "given": (
        "bias = Identity(given)",
        ", float[1,1,N,M] given",
        "'given', made outside the graph",
    ),
    "causal and padding": (
        """b0 = Cast<to=9>(mask) b1 = Unsqueeze(b0, ax12)
        c0 = LessOrEqual(j, i) bias = And(b1, c0)""",
        ", int64[B,M] mask",
        "no low-rank bias",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declines(name: str) -> None:
    nodes, inputs, reason = DECLINED[name]
    model = Biased(nodes, lambda f, i, j: i, 0, inputs).model()
    coverage = apply_pass(model, STEP)
    assert coverage.changed == 0
    assert reason in next(iter(coverage.declined.values()))


def test_what_is_no_product_stays_a_mask() -> None:
    nodes = f"{MINUS} a = Abs(d) {PER_HEAD.format('slopes')} r = Mul(d, s) bias = Add(a, r)"
    case = Biased(nodes, lambda f, i, j: abs(j - i) + SLOPES * (j - i), 1)
    model = case.model()
    assert apply_pass(model, STEP).changed == 1
    feeds = feeds_of(model, 2, 9, 11)
    i, j = np.arange(9)[:, None], np.arange(11)[None, :]
    assert relative(run(model, feeds), attend(feeds, case.value(feeds, i, j))) < 1e-5


def test_measured_prices_decide() -> None:
    case = CASES["alibi"]
    dear = FakePrices(lambda work, _: 2.0 if "rank" in work else 1.0)
    model = case.model()
    coverage = apply_pass(model, FactorBias(), prices=dear)
    assert coverage.changed == 0
    assert "they do not pay up to length 2048" in next(iter(coverage.declined.values()))
    cheap = FakePrices(lambda work, _: 0.5 if "rank" in work else 1.0)
    assert apply_pass(model, FactorBias(), prices=cheap).changed == 1


def test_says_from_which_length_on_it_pays() -> None:
    def rule(work: str, _: str) -> float:
        if not work.startswith("Attention"):
            return 0.01
        return 0.5 if "rank" in work and "1024x" in work else 1.0

    model = CASES["squared distance"].model()
    coverage = apply_pass(model, FactorBias(), prices=FakePrices(rule))
    (reason,) = coverage.declined.values()
    assert "they would pay from length 1024 on" in reason
    (curve,) = coverage.break_even.values()
    assert [point.pays for point in curve] == [False, False, False, True]
    assert [point.rank for point in curve] == [5, 8, 8, 8]


def test_nothing_is_measured_without_prices() -> None:
    coverage = apply_pass(CASES["alibi"].model(), FactorBias())
    assert "nothing may be measured" in next(iter(coverage.declined.values()))


def test_dynamic_sizes_stay_dynamic() -> None:
    model = CASES["alibi"].model()
    apply_pass(model, STEP)
    assert isinstance(model.graph.outputs[0].shape, onnx_ir.Shape)
    assert str(model.graph.outputs[0].shape[2]) == "N"


def test_a_sample_of_padding_alone_gives_zeros() -> None:
    model = CASES["padding"].model()
    feeds = feeds_of(model, 2, 5, 6)
    feeds["mask"][1] = 0
    before = run(model, feeds)
    assert apply_pass(model, STEP).changed == 1
    after = run(model, feeds)
    assert not before[1].any()
    assert not after[1].any()
    assert relative(after[0], before[0]) < 1e-6
