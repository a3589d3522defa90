import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.ir.values import Array, attribute_float, attribute_int
from whet.passes.canonical.eliminate_dead_code import EliminateDeadCode
from whet.passes.fusion.lift_layer_normalization import LiftLayerNormalization

STEP = LiftLayerNormalization()

MEAN = "m = ReduceMean(x, last)"
CENTERS = {
    "shared": (f"{MEAN} d = Sub(x, m) e = Sub(x, m)", "d"),
    "twice": (f"{MEAN} m2 = ReduceMean(x, last) d = Sub(x, m) e = Sub(x, m2)", "e"),
    "summed": ("t = ReduceSum(x, last) m = Div(t, n) d = Sub(x, m)", "d"),
    "summed-mul": ("t = ReduceSum(x, last) m = Mul(one_nth, t) d = Sub(x, m)", "d"),
    "reversed": (f"{MEAN} d = Sub(m, x) e = Sub(x, m)", "e"),
}
VARIANCES = {
    "pow": "q = Pow(d, two) v = ReduceMean(q, last)",
    "mul": "q = Mul(d, d) v = ReduceMean(q, last)",
    "sum": "q = Mul(d, d) t2 = ReduceSum(q, last) v = Div(t2, n)",
    "sum-square": "t2 = ReduceSumSquare(d, last) v = Div(t2, n)",
    "difference": "q = Mul(x, x) w = ReduceMean(q, last) mm = Pow(m, two) v = Sub(w, mm)",
    "clamped": "q = Mul(x, x) w = ReduceMean(q, last) mm = Mul(m, m) u = Sub(w, mm) v = Relu(u)",
}
ROOTS = {
    "div": "a = Add(v, eps) s = Sqrt(a) z = Div({d}, s)",
    "eps-first": "a = Add(eps, v) s = Sqrt(a) z = Div({d}, s)",
    "rsqrt": "a = Add(v, eps) s = Sqrt(a) r = Reciprocal(s) z = Mul(r, {d})",
    "one-over": "a = Add(v, eps) s = Sqrt(a) r = Div(one, s) z = Mul({d}, r)",
    "pow": "a = Add(v, eps) r = Pow(a, minus_half) z = Mul({d}, r)",
    "pow-div": "a = Add(v, eps) s = Pow(a, half) z = Div({d}, s)",
    "inside": "a = Add(v, eps) i = Reciprocal(a) r = Sqrt(i) z = Mul({d}, r)",
    "no-eps": "s = Sqrt(v) z = Div({d}, s)",
    "scaled-first": "a = Add(v, eps) s = Sqrt(a) g1 = Mul(g, {d}) z = Div(g1, s)",
    "batch-norm": (
        "a = Add(v, eps) s = Sqrt(a) r = Reciprocal(s) k = Mul(r, g) "
        "xk = Mul(x, k) mk = Mul(m, k) h = Sub(b, mk) z = Add(xk, h)"
    ),
    "batch-norm-plain": (
        "a = Add(v, eps) r = Pow(a, minus_half) xk = Mul(r, x) mk = Mul(m, r) z = Sub(xk, mk)"
    ),
}


def scalars(size: int, dtype: str = "float32") -> dict[str, Array]:
    numbers = {"n": size, "one_nth": 1 / size, "two": 2, "one": 1, "half": 0.5, "minus_half": -0.5}
    found = {name: np.asarray(value, dtype) for name, value in numbers.items()}
    return {**found, "eps": np.asarray(1e-3, dtype), "last": np.asarray([-1])}


def spelled(center: str, variance: str, root: str, size: int = 6) -> onnx_ir.Model:
    nodes, d = CENTERS[center]
    body = f"{nodes} {VARIANCES[variance]} {ROOTS[root].format(d=d)} y = Identity(z)"
    text = f"(float[N,M,{size}] x) => (float[N,M,{size}] y) {{ {body} }}"
    constants = {**scalars(size), **weights(g=(size,), b=(size,))}
    used = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return build(text, {k: v for k, v in constants.items() if k in used})


def node_of(model: onnx_ir.Model) -> onnx_ir.Node:
    (node,) = [n for n in model.graph if n.op_type == "LayerNormalization"]
    return node


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("center", CENTERS)
def test_spellings(center: str, variance: str, root: str) -> None:
    model = spelled(center, variance, root)
    coverage = run(model, STEP)
    assert coverage.changed == 1, coverage
    assert coverage.proofs == {"float64": 1}
    run(model, EliminateDeadCode())
    assert [n.op_type for n in model.graph] == ["LayerNormalization", "Identity"]
    node = node_of(model)
    assert attribute_int(node, "axis", 0) == -1
    expected = 0.0 if root == "no-eps" else 1e-3
    assert attribute_float(node, "epsilon", -1.0) == pytest.approx(expected)
    assert (len(node.inputs) == 3) is (root == "batch-norm")
    assert run(model, STEP).changed == 0


@settings(deadline=None, max_examples=25)
@given(
    lead=st.integers(0, 2),
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=2),
    eps=st.sampled_from([1e-12, 1e-6, 1e-5, 0.1]),
    variance=st.sampled_from(["pow", "mul", "difference", "sum"]),
    root=st.sampled_from([name for name in ROOTS if "batch" not in name and name != "no-eps"]),
    negative=st.booleans(),
)
def test_shapes_and_axes(
    lead: int, sizes: list[int], eps: float, variance: str, root: str, negative: bool
) -> None:
    size, count = lead + len(sizes), len(sizes)
    shape = ",".join([*["N", "M"][:lead], *map(str, sizes)])
    nodes, d = CENTERS["shared"]
    body = f"{nodes} {VARIANCES[variance]} {ROOTS[root].format(d=d)} y = Identity(z)"
    axes = range(-count, 0) if negative else range(lead, size)
    constants = scalars(int(np.prod(sizes))) | {"last": np.asarray(list(axes))}
    constants |= {"eps": np.asarray([eps], "float32"), **weights(g=tuple(sizes))}
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ {body} }}"
    used = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    model = build(text, {k: v for k, v in constants.items() if k in used})
    coverage = run(model, STEP)
    assert coverage.changed == 1, coverage
    node = node_of(model)
    assert attribute_int(node, "axis", 0) == -count
    assert tuple(node.inputs[1].const_value.shape) == tuple(sizes)


def test_axes_as_attribute() -> None:
    text = """(float[N,6] x) => (float[N,6] y) {
        m = ReduceMean<axes=[1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
        a = Add(v, eps) s = Sqrt(a) y = Div(d, s) }"""
    folds(build(text, {"eps": np.float32(1e-5)}, opset=17), STEP, ["LayerNormalization"])


def test_computed_scale_stays_behind() -> None:
    text = """(float[N,M,6] x, float[N,1,6] g, float[N,1,6] b) => (float[N,M,6] y) {
        m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
        a = Add(v, eps) r = Pow(a, minus_half) k = Mul(r, g) xk = Mul(x, k) mk = Mul(m, k)
        h = Sub(b, mk) y = Add(xk, h) }"""
    keep = ("last", "eps", "minus_half")
    model = build(text, {k: scalars(6)[k] for k in keep})
    folds(model, STEP, ["LayerNormalization", "Mul", "Add"])


def test_size_is_told_by_the_scale() -> None:
    text = """(float[N,M] x) => (float[N,M] y) {
        m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
        a = Add(v, eps) r = Pow(a, minus_half) k = Mul(r, d) y = Identity(k) }"""
    constants = {k: scalars(6)[k] for k in ("last", "eps", "minus_half")}
    declines(build(text, constants), STEP, "the size of the normalized axes is not known")


def test_what_others_read_stays() -> None:
    text = """(float[N,6] x) => (float[N,6] y, float[N,1] v) {
        m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
        a = Add(v, eps) s = Sqrt(a) y = Div(d, s) }"""
    constants = {k: scalars(6)[k] for k in ("last", "eps")}
    kept = ["ReduceMean", "Sub", "Mul", "ReduceMean", "LayerNormalization"]
    folds(build(text, constants), STEP, kept)


def test_two_products_of_one_root() -> None:
    text = """(float[N,6] x) => (float[N,6] y, float[N,6] z) {
        m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
        a = Add(v, eps) r = Pow(a, minus_half) e = Mul(d, g) y = Mul(e, r) z = Mul(r, d) }"""
    constants = {k: scalars(6)[k] for k in ("last", "eps", "minus_half")}
    model = build(text, {**constants, **weights(g=(6,))})
    coverage = folds(model, STEP, ["LayerNormalization", "LayerNormalization"])
    assert coverage.changed == 2


CASTS = {
    "inside": (
        """c = Cast<to=1>(x) m = ReduceMean(c, last) d = Sub(c, m) q = Mul(d, d)
        v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) z = Div(d, s) y = Cast<to=10>(z)""",
        ["Cast", "LayerNormalization", "Cast"],
        "float32",
    ),
    "plain-half": (
        """m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
        a = Add(v, eps) s = Sqrt(a) y = Div(d, s)""",
        ["LayerNormalization"],
        "float16",
    ),
    "square-in-float": (
        """m = ReduceMean(x, last) d = Sub(x, m) c = Cast<to=1>(d) q = Mul(c, c)
        v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) z = Div(c, s) y = Cast<to=10>(z)""",
        ["Cast", "LayerNormalization", "Cast"],
        "float32",
    ),
    "narrow-deviation": (
        """c = Cast<to=1>(x) m = ReduceMean(c, last) d = Sub(c, m) q = Mul(d, d)
        v = ReduceMean(q, last) a = Add(v, eps) r = Pow(a, minus_half) h = Cast<to=10>(r)
        e = Cast<to=10>(d) y = Mul(e, h)""",
        ["LayerNormalization"],
        "float32",
    ),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts(name: str) -> None:
    body, expected, dtype = CASTS[name]
    keep = {k: v for k, v in scalars(6, dtype).items() if f"{k})" in body}
    keep["eps"] = np.asarray(1e-3, dtype)
    model = build(f"(float16[N,6] x) => (float16[N,6] y) {{ {body} }}", keep)
    coverage = run(model, STEP)
    assert coverage.changed == 1, coverage
    assert coverage.proofs == {"float64": 1}
    assert [n.op_type for n in model.graph] == expected


def test_rounded_input_stays_rounded() -> None:
    """A value that was rounded to float16 before it is normalized is not taken from before the rounding."""
    text = """(float[N,6] w) => (float[N,6] y) { x = Cast<to=10>(w)
        c = Cast<to=1>(x) m = ReduceMean(c, last) d = Sub(c, m) q = Mul(d, d)
        v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) y = Div(d, s) }"""
    constants = {k: scalars(6)[k] for k in ("last", "eps")}
    folds(build(text, constants), STEP, ["Cast", "Cast", "LayerNormalization"])


DECLINED = {
    "axis": (
        "m = ReduceMean(x, one) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, one) "
        "a = Add(v, eps) s = Sqrt(a) y = Div(d, s)",
        "not the last ones",
    ),
    "unbiased": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) t = ReduceSum(q, last) "
        "v = Div(t, five) a = Add(v, eps) s = Sqrt(a) y = Div(d, s)",
        "a sum of 6 elements is divided by 5",
    ),
    "unbiased-factor": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) w = ReduceMean(q, last) "
        "v = Mul(w, factor) a = Add(v, eps) s = Sqrt(a) y = Div(d, s)",
        "the mean of squares is scaled (Mul by 1.2",
    ),
    "epsilon-outside": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
        "s = Sqrt(v) a = Add(s, eps) y = Div(d, a)",
        "epsilon is added to the root",
    ),
    "clipped": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
        "a = Max(v, eps) s = Sqrt(a) y = Div(d, s)",
        "clipped",
    ),
    "other-axes": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, two_last) "
        "a = Add(v, eps) s = Sqrt(a) y = Div(d, s)",
        "the mean is over axes (2,), the variance over (1, 2)",
    ),
    "uncentered": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
        "a = Add(v, eps) s = Sqrt(a) y = Div(x, s)",
        "nothing behind the root is the centered input divided by it",
    ),
    "negative": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
        "a = Add(v, minus) s = Sqrt(a) y = Div(d, s)",
        "epsilon is -",
    ),
    "scale-across": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
        "a = Add(v, eps) s = Sqrt(a) e = Mul(d, across) y = Div(e, s)",
        "the scale of shape (4, 1) does not lie along",
    ),
    "keepdims": (
        "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<keepdims=0>(q, last) "
        "w = Unsqueeze(v, last) a = Add(v, eps) s = Sqrt(a) r = Unsqueeze(s, last) y = Div(d, r)",
        "drops the axes it reduces",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declines(name: str) -> None:
    body, reason = DECLINED[name]
    constants = {
        "last": np.asarray([-1]),
        "one": np.asarray([1]),
        "two_last": np.asarray([1, 2]),
        "eps": np.float32(1e-3),
        "minus": np.float32(-1e-9),
        "five": np.float32(5),
        "factor": np.float32(1.2),
        "across": np.arange(1, 5, dtype="float32").reshape(4, 1),
    }
    used = {k: v for k, v in constants.items() if f"{k})" in body}
    declines(build(f"(float[N,4,6] x) => (float[N,4,6] y) {{ {body} }}", used), STEP, reason)


def test_declines_old_opsets_and_doubles() -> None:
    body = """{ m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[-1]>(q)
        a = Add(v, eps) s = Sqrt(a) y = Div(d, s) }"""
    text = f"(float[N,6] x) => (float[N,6] y) {body}"
    old = build(text, {"eps": np.float32(1e-5)}, opset=16)
    declines(old, STEP, "opset 16 has no LayerNormalization")
    wide = build(text.replace("float", "double"), {"eps": np.float64(1e-5)}, opset=17)
    declines(wide, STEP, "computes in float")
