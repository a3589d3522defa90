import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.ir.values import attribute_float, attribute_int
from whet.passes.fusion.lift_layer_normalization import LiftLayerNormalization
from whet.passes.fusion.lift_rms_normalization import LiftRmsNormalization

STEP = LiftRmsNormalization()

CONSTANTS = {
    "last": np.asarray([-1]),
    "eps": np.float32(1e-3),
    "two": np.float32(2),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "minus_half": np.asarray([-0.5], "float32"),
    "n": np.float32(6),
}
SQUARES = {
    "pow": "q = Pow(x, two) v = ReduceMean(q, last) a = Add(v, eps)",
    "mul": "q = Mul(x, x) v = ReduceMean(q, last) a = Add(eps, v)",
    "sum": "q = Mul(x, x) t = ReduceSum(q, last) v = Div(t, n) a = Add(v, eps)",
    "sum-square": "t = ReduceSumSquare(x, last) v = Div(t, n) a = Add(v, eps)",
}
PRODUCTS = {
    "div": "s = Sqrt(a) y = Div(x, s)",
    "rsqrt": "s = Sqrt(a) r = Reciprocal(s) y = Mul(x, r)",
    "one-over": "s = Sqrt(a) r = Div(one, s) y = Mul(r, x)",
    "pow": "r = Pow(a, minus_half) y = Mul(x, r)",
    "pow-div": "s = Pow(a, half) y = Div(x, s)",
    "scale-on-input": "r = Pow(a, minus_half) xg = Mul(x, g) y = Mul(xg, r)",
    "scale-on-root": "r = Pow(a, minus_half) rg = Mul(r, g) y = Mul(rg, x)",
    "scale-under": "s = Sqrt(a) gs = Div(g, s) y = Mul(x, gs)",
}


def model_of(
    body: str, size: int = 6, shape: str = "N,M", opset: int = 23, **more: object
) -> onnx_ir.Model:
    text = f"(float[{shape},{size}] x) => (float[{shape},{size}] y) {{ {body} }}"
    constants = CONSTANTS | weights(g=(size,)) | {k: np.asarray(v) for k, v in more.items()}
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return build(text, {k: v for k, v in constants.items() if k in read}, opset=opset)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("square", SQUARES)
def test_spellings(square: str, product: str) -> None:
    model = model_of(f"{SQUARES[square]} {PRODUCTS[product]}")
    coverage = folds(model, STEP, ["RMSNormalization"])
    assert coverage.proofs == {"float64": 1}
    node = model.graph[0]
    assert attribute_int(node, "axis", 0) == -1
    assert attribute_float(node, "epsilon", 0.0) == pytest.approx(1e-3)


@settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    eps=st.sampled_from([0.0, 1e-12, 1e-6, 0.1]),
    square=st.sampled_from(["pow", "mul", "sum"]),
    product=st.sampled_from(sorted(PRODUCTS)),
)
def test_shapes_and_axes(sizes: list[int], eps: float, square: str, product: str) -> None:
    count = len(sizes)
    shape = ",".join(["N", *map(str, sizes[:-1])])
    model = model_of(
        f"{SQUARES[square]} {PRODUCTS[product]}",
        sizes[-1],
        shape,
        last=list(range(-count, 0)),
        eps=np.float32(eps),
        n=np.float32(np.prod(sizes)),
    )
    folds(model, STEP, ["RMSNormalization"])
    assert attribute_int(model.graph[0], "axis", 0) == -count


def test_computed_factor_stays_behind() -> None:
    text = """(float[N,6] x, float[N,1] g) => (float[N,6] y)
    { q = Mul(x, x) v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) e = Div(x, g)
      y = Div(e, s) }"""
    constants = {k: CONSTANTS[k] for k in ("last", "eps")}
    folds(build(text, constants, opset=23), STEP, ["RMSNormalization", "Div"])


def test_input_that_is_a_product_itself() -> None:
    text = """(float[N,6] u, float[N,6] w) => (float[N,6] y)
    { x = Mul(u, w) q = Mul(x, x) v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a)
      y = Div(x, s) }"""
    constants = {k: CONSTANTS[k] for k in ("last", "eps")}
    folds(build(text, constants, opset=23), STEP, ["Mul", "RMSNormalization"])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_casts_around(kind: str) -> None:
    number = {"float16": 10, "bfloat16": 16}[kind]
    text = f"""({kind}[N,6] h) => ({kind}[N,6] y)
    {{ x = Cast<to=1>(h) q = Pow(x, two) v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a)
      r = Reciprocal(s) z = Mul(x, r) y = Cast<to={number}>(z) }}"""
    constants = {k: CONSTANTS[k] for k in ("last", "eps", "two")}
    model = build(text, constants, opset=23)
    coverage = run(model, STEP)
    assert coverage.proofs == {"float64": 1}
    assert [n.op_type for n in model.graph] == ["Cast", "RMSNormalization", "Cast"]


def test_centered_input_is_a_layer_normalization() -> None:
    body = "m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last) "
    body += "a = Add(v, eps) s = Sqrt(a) y = Div(d, s)"
    model = model_of(body)
    assert run(model, STEP).matched == 0
    folds(model, LiftLayerNormalization(), ["LayerNormalization"])


DECLINED = {
    "axis": ("v = ReduceMean(q, first) a = Add(v, eps) s = Sqrt(a) y = Div(x, s)", "last ones"),
    "count": (
        "t = ReduceSum(q, last) v = Div(t, five) a = Add(v, eps) s = Sqrt(a) y = Div(x, s)",
        "a sum of 6 elements is divided by 5",
    ),
    "epsilon-outside": (
        "v = ReduceMean(q, last) s = Sqrt(v) a = Add(s, eps) y = Div(x, a)",
        "epsilon is added to the root",
    ),
    "clipped": (
        "v = ReduceMean(q, last) a = Clip(v, eps) s = Sqrt(a) y = Div(x, s)",
        "clipped",
    ),
    "other-input": (
        "v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) z = Relu(x) y = Div(z, s)",
        "nothing behind the root is the input divided by it",
    ),
    "not-divided": (
        "v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) y = Mul(x, s)",
        "nothing behind the root is the input divided by it",
    ),
    "scale-across": (
        "v = ReduceMean(q, last) a = Add(v, eps) s = Sqrt(a) z = Mul(x, across) y = Div(z, s)",
        "the scale of shape (4, 1) does not lie along",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declines(name: str) -> None:
    body, reason = DECLINED[name]
    across = np.arange(1, 5, dtype="float32").reshape(4, 1)
    model = model_of(
        f"q = Mul(x, x) {body}", shape="N,4", first=[1], five=np.float32(5), across=across
    )
    declines(model, STEP, reason)


def test_declines_old_opsets() -> None:
    body = f"{SQUARES['mul']} {PRODUCTS['div']}"
    declines(model_of(body, opset=22), STEP, "opset 22 has no RMSNormalization")


def test_other_roots_are_no_match() -> None:
    model = model_of("q = Abs(x) v = ReduceMean(q, last) s = Sqrt(v) y = Div(x, s)")
    coverage = run(model, STEP)
    assert (coverage.matched, coverage.near_misses) == (0, {})
