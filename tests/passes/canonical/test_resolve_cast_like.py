import numpy as np
from folding import build, declines, folds, run, weights

from whet.passes.canonical.resolve_cast_like import ResolveCastLike

STEP = ResolveCastLike()


def test_becomes_a_cast() -> None:
    text = "(float[N,3] x, float16[M] r) => (float16[N,3] y) { y = CastLike(x, r) }"
    model = build(text)
    folds(model, STEP, ["Cast"])
    assert model.graph[0].attributes["to"].as_int() == 10
    assert len(model.graph.inputs[1].uses()) == 0


def test_vanishes_where_the_type_is_right() -> None:
    text = "(float[N,3] x, float[M] r) => (float[N,3] y) { a = CastLike(x, r) y = Relu(a) }"
    folds(build(text), STEP, ["Relu"])


def test_a_constant_no_longer_depends_on_the_input() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { a = CastLike(c, x) y = Add(x, a) }"
    folds(build(text, weights(c=(3,))), STEP, ["Add"])
    folds(build(text, {"c": np.arange(3)}), STEP, ["Cast", "Add"])


def test_an_output_that_is_an_input_stays_a_node() -> None:
    text = "(float[N,3] x, float[M] r) => (float[N,3] y) { y = CastLike(x, r) }"
    folds(build(text), STEP, ["Cast"])


def test_keeps_saturation() -> None:
    text = (
        "(float[N,3] x, float8e5m2[M] r) => (float8e5m2[N,3] y) { y = CastLike<saturate=0>(x, r) }"
    )
    model = build(text, opset=19)
    run(model, STEP)
    assert model.graph[0].attributes["saturate"].as_int() == 0


def test_declines_an_unknown_type() -> None:
    text = "(float[N,3] x, float[M] r) => (float[N,3] y) { y = CastLike(x, r) }"
    model = build(text)
    model.graph.inputs[1].type = None
    declines(model, STEP, "the type of 'r' is not known")
