import math

import numpy as np
import onnx_ir
import pytest
from folding import build, declines, folds, run
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.ir.values import Array, attribute_string
from whet.passes.fusion.lift_gelu import LiftGelu

STEP = LiftGelu()


def constants(dtype: str = "float32") -> dict[str, Array]:
    linear = math.sqrt(2 / math.pi)
    numbers = {
        "one": 1,
        "half": 0.5,
        "two": 2,
        "three": 3,
        "root": math.sqrt(2),
        "short_root": 1.4142,
        "inverse": math.sqrt(0.5),
        "linear": linear,
        "cubic": 0.044715,
        "both": 0.044715 * linear,
        "doubled": 2 * linear,
    }
    return {name: np.asarray(value, dtype) for name, value in numbers.items()}


def model_of(body: str, opset: int = 20, kind: str = "float", **more: object) -> onnx_ir.Model:
    dtype = {"float": "float32"}.get(kind, kind)
    known = constants(dtype) | {k: np.asarray(v, dtype) for k, v in more.items()}
    text = f"({kind}[N,M,6] x) => ({kind}[N,M,6] y) {{ {body} }}"
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return build(text, {k: v for k, v in known.items() if k in read}, opset=opset)


ARGUMENTS = {
    "div": "u = Div(x, root)",
    "mul": "u = Mul(x, inverse)",
    "mul-left": "u = Mul(inverse, x)",
    "short": "u = Div(x, short_root)",
}
PRODUCTS = {
    "x(1+f)/2": "g = Add({f}, one) p = Mul(x, g) y = Mul(p, half)",
    "(x/2)(1+f)": "g = Add(one, {f}) p = Mul(half, x) y = Mul(p, g)",
    "x((1+f)/2)": "g = Add({f}, one) p = Mul(g, half) y = Mul(x, p)",
    "x(f/2+1/2)": "h = Mul({f}, half) g = Add(h, half) y = Mul(g, x)",
    "x/2+x/2f": "p = Mul(x, half) q = Mul(p, {f}) y = Add(p, q)",
    "x(1+f)div2": "g = Add({f}, one) p = Mul(g, x) y = Div(p, two)",
}
CUBICS = {
    "pow": "c = Pow(x, three) d = Mul(cubic, c) e = Add(x, d) u = Mul(e, linear)",
    "mul": "a = Mul(x, x) c = Mul(a, x) d = Mul(c, cubic) e = Add(d, x) u = Mul(linear, e)",
    "factored": "a = Mul(x, x) b = Mul(cubic, a) c = Add(one, b) d = Mul(x, linear) u = Mul(d, c)",
    "square": "a = Pow(x, two) b = Mul(a, cubic) c = Add(b, one) d = Mul(x, c) u = Mul(d, linear)",
    "spread": "a = Mul(x, x) b = Mul(a, both) c = Add(b, linear) u = Mul(c, x)",
    "chained": "a = Mul(x, cubic) b = Mul(a, x) c = Mul(b, x) d = Add(x, c) u = Mul(linear, d)",
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_error_function(argument: str, product: str) -> None:
    body = f"{ARGUMENTS[argument]} f = Erf(u) {PRODUCTS[product].format(f='f')}"
    model = model_of(body)
    coverage = folds(model, STEP, ["Gelu"])
    assert coverage.proofs == {"float64": 1}
    assert attribute_string(model.graph[0], "approximate", "") == "none"


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("cubic", CUBICS)
def test_hyperbolic_tangent(cubic: str, product: str) -> None:
    model = model_of(f"{CUBICS[cubic]} f = Tanh(u) {PRODUCTS[product].format(f='f')}")
    coverage = folds(model, STEP, ["Gelu"])
    assert coverage.proofs == {"float64": 1}
    assert attribute_string(model.graph[0], "approximate", "") == "tanh"


@pytest.mark.parametrize("cubic", CUBICS)
def test_sigmoid(cubic: str) -> None:
    body = f"{CUBICS[cubic]} v = Mul(u, two) f = Sigmoid(v) y = Mul(x, f)"
    model = model_of(body)
    folds(model, STEP, ["Gelu"])
    assert attribute_string(model.graph[0], "approximate", "") == "tanh"


@settings(deadline=None, max_examples=30)
@given(
    argument=st.sampled_from([*ARGUMENTS, *CUBICS]),
    product=st.sampled_from(sorted(PRODUCTS)),
    factor=st.sampled_from([1.0, 2.0, -0.7, 5.0]),
    shape=st.sampled_from([(), (1,), (6,), (3, 6)]),
)
def test_other_factors_stay_behind(
    argument: str, product: str, factor: float, shape: tuple[int, ...]
) -> None:
    """A weight may have taken the half already, or a scale may have been folded in."""
    first = ARGUMENTS.get(argument) or CUBICS[argument]
    function = "Erf" if argument in ARGUMENTS else "Tanh"
    rest = PRODUCTS[product].format(f="f").replace("half", "k").replace("two", "k")
    body = f"{first} f = {function}(u) {rest}"
    if "f/2+1/2" in product or argument == "square":
        return
    k = np.full(shape, 0.5 * factor, "float32")
    text = f"(float[N,3,6] x) => (float[N,3,6] y) {{ {body} }}"
    read = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    known = {name: v for name, v in (constants() | {"k": k}).items() if name in read}
    coverage = run(model := build(text, known, opset=20), STEP)
    assert coverage.changed == 1, coverage
    assert not coverage.failures
    assert model.graph[0].op_type == "Gelu"
    assert run(model, STEP).changed == 0


def test_bias_is_part_of_the_input() -> None:
    body = (
        "z = Add(x, b) u = Div(z, root) f = Erf(u) g = Add(f, one) p = Mul(z, g) y = Mul(p, half)"
    )
    folds(model_of(body, b=np.arange(6)), STEP, ["Add", "Gelu"])


def test_gate_stays_behind() -> None:
    text = """(float[N,6] x, float[N,6] gate) => (float[N,6] y) { u = Div(x, root) f = Erf(u)
      g = Add(f, one) h = Mul(x, half) p = Mul(h, gate) y = Mul(p, g) }"""
    known = {k: constants()[k] for k in ("root", "one", "half")}
    folds(build(text, known, opset=20), STEP, ["Gelu", "Mul"])


def test_what_others_read_stays() -> None:
    text = """(float[N,6] x) => (float[N,6] y, float[N,6] f) { u = Div(x, root) f = Erf(u)
      g = Add(f, one) h = Mul(x, half) y = Mul(h, g) }"""
    known = {k: constants()[k] for k in ("root", "one", "half")}
    folds(build(text, known, opset=20), STEP, ["Div", "Erf", "Gelu"])


def test_casts() -> None:
    text = """(float16[N,6] h) => (float16[N,6] y) { x = Cast<to=1>(h) a = Mul(x, x)
      b = Mul(cubic, a) c = Add(one, b) d = Mul(x, linear) u = Mul(d, c) f = Tanh(u)
      g = Add(f, one) e = Mul(g, half) p = Mul(x, e) y = Cast<to=10>(p) }"""
    known = {k: constants()[k] for k in ("cubic", "one", "linear", "half")}
    model = build(text, known, opset=20)
    coverage = run(model, STEP)
    assert coverage.proofs == {"float64": 1}
    assert [n.op_type for n in model.graph] == ["Cast", "Gelu", "Cast"]


DECLINED = {
    "other-root": (
        "u = Div(x, two) f = Erf(u) g = Add(f, one) p = Mul(x, g) y = Mul(p, half)",
        "Erf of something other than x / sqrt 2",
    ),
    "nearly": (
        "u = Mul(x, near) f = Erf(u) g = Add(f, one) p = Mul(x, g) y = Mul(p, half)",
        "Erf of 0.7075 x**1, where 0.707107 x**1 was expected",
    ),
    "not-one": (
        "u = Div(x, root) f = Erf(u) g = Add(f, two) p = Mul(x, g) y = Mul(p, half)",
        "not used as x (1 + erf)",
    ),
    "other-input": (
        "z = Relu(x) u = Div(x, root) f = Erf(u) g = Add(f, one) p = Mul(z, g) y = Mul(p, half)",
        "not used as x (1 + erf)",
    ),
    "other-cubic": (
        "a = Mul(x, x) b = Mul(a, half) c = Add(one, b) d = Mul(x, linear) u = Mul(d, c) "
        "f = Tanh(u) g = Add(f, one) p = Mul(x, g) y = Mul(p, half)",
        "Tanh of 0.797885 x**1 + 0.398942 x**3, where",
    ),
    "sigmoid": (
        "a = Mul(x, x) b = Mul(a, cubic) c = Add(one, b) d = Mul(x, doubled) u = Mul(d, c) "
        "f = Sigmoid(u) y = Add(x, f)",
        "not used as x",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declines(name: str) -> None:
    body, reason = DECLINED[name]
    declines(model_of(body, near=0.7075), STEP, reason)


def test_declines_old_opsets() -> None:
    body = f"{ARGUMENTS['div']} f = Erf(u) {PRODUCTS['x(1+f)/2'].format(f='f')}"
    declines(model_of(body, opset=19), STEP, "opset 19 has no Gelu")


@pytest.mark.parametrize("body", ["y = Tanh(x)", "s = Sigmoid(x) y = Mul(x, s)"])
def test_other_activations_are_no_match(body: str) -> None:
    coverage = run(model_of(body), STEP)
    assert (coverage.matched, coverage.near_misses) == (0, {})
