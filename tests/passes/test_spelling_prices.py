import numpy as np
import pytest
from choosing import FASTER, chooses, keeps
from folding import BINDINGS, build, weights

from whet.errors import Mismatch
from whet.passes import spelling_prices
from whet.passes.onnxruntime.choose_product import ChooseProduct
from whet.passes.onnxruntime.choose_quick_gelu import ChooseQuickGelu
from whet.passes.onnxruntime.choose_skip_norm import ChooseSkipNorm
from whet.passes.spelling_prices import SeenShapes
from whet.passes.workbench import Context, Workbench

PICKED = """(float[N,8] x, bool[N] c) => (float[K,8] y)
{ k = Compress<axis=0>(x, c) g = Sigmoid(k) y = Mul(k, g) }"""
SKIP = """(float[N,8] x, float[N,8] k) => (float[N,8] y)
{ h = Add(x, c) s = Add(h, k) y = LayerNormalization(s, w, b) }"""
CONSTANTS = weights(w=(8,), b=(8,), c=(8,))


def test_shapes_are_seen_at_every_binding() -> None:
    model = build(SKIP, CONSTANTS)
    shapes = SeenShapes(Workbench(model, ChooseSkipNorm(), Context(bindings=BINDINGS)))
    assert shapes.every(model.graph.inputs[0]) == ((2, 8), (3, 8))
    assert shapes.first(model.graph.initializers["w"]) == (8,)


def test_a_shape_that_depends_on_data_is_seen_in_a_run() -> None:
    model = build(PICKED)
    work = Workbench(model, ChooseQuickGelu(), Context(bindings=BINDINGS))
    assert SeenShapes(work).first(model.graph[0].outputs[0])[1] == 8


def test_a_shape_that_nothing_tells_is_a_reason() -> None:
    model = build("(float[N,8] x) => (float[N,8] y) { y = Neg(x) }")
    model.graph.inputs[0].shape = None
    work = Workbench(model, ChooseQuickGelu(), Context(bindings=BINDINGS))
    with pytest.raises(Mismatch, match="the shape of 'x' is not known"):
        SeenShapes(work).every(model.graph.inputs[0])


def test_what_is_measured_says_shapes_types_and_attributes() -> None:
    asked = chooses(build(SKIP, CONSTANTS), ChooseSkipNorm(), ["SkipLayerNormalization"])
    plain, other = asked[0].split(" | ")
    assert plain == ("Add(x0[2,8], w[8]) Add(%0, x1[2,8]) LayerNormalization(%1, w[8], w[8]) -> %2")
    assert other.startswith("SkipLayerNormalization(x0[2,8], x1[2,8], w[8], w[8], w[8], epsilon=")


def test_one_number_is_told_because_the_runtime_may_look_at_it() -> None:
    text = "(float[N,2,M] a, float[N,M,3] b) => (float[N,2,3] y) { p = MatMul(a, b) y = Mul(p, s) }"
    asked = chooses(build(text, {"s": np.float32(0.5)}), ChooseProduct(), ["FusedMatMul"])
    assert asked[0].startswith("MatMul(x0[2,2,3], x1[2,3,3]) Mul(%0, 0.5) -> %1 | FusedMatMul(")


def test_huge_weights_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling_prices, "_LIMIT", 32)
    keeps(build(SKIP, CONSTANTS), ChooseSkipNorm(), "too many to measure", FASTER)
