import numpy as np
import onnx
import onnx_ir
import pytest
from folding import ops, run, weights, worst_error
from onnx import numpy_helper

from whet.ir.values import Array
from whet.passes.fusion.expand_contrib import ExpandContrib

STEP = ExpandContrib()


def model_of(text: str, constants: dict[str, Array], opset: int = 23) -> onnx_ir.Model:
    """Parse a model with operators of com.microsoft, whose shapes nobody infers: outputs have the input's."""
    imports = f'"" : {opset}, "com.microsoft" : 1'
    proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]> g {text}")
    for name, array in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for k, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{k}"
    return onnx_ir.from_proto(proto)


def expands(call: str, expected: list[str], **shapes: tuple[int, ...]) -> onnx_ir.Model:
    text = f"(float[N,M,6] x, float[N,M,6] s) => (float[N,M,6] y) {{ y = {call} }}"
    model = model_of(text, weights(**shapes))
    before = onnx_ir.to_proto(model)
    coverage = run(model, STEP)
    assert not coverage.failures
    assert coverage.changed == 1, coverage
    assert coverage.proofs == {"float64": 1}
    assert ops(model) == expected
    assert all(node.domain == "" for node in model.graph)
    assert worst_error(before, model) <= 1e-5
    assert run(model, STEP).changed == 0
    return model


OWN = "com.microsoft"
ACTIVATIONS = {
    "gelu": (f"{OWN}.Gelu(x)", ["Gelu"], {}),
    "bias-gelu": (f"{OWN}.BiasGelu(x, b)", ["Add", "Gelu"], {"b": (6,)}),
    "fast-gelu": (f"{OWN}.FastGelu(x)", ["Gelu"], {}),
    "fast-gelu-bias": (f"{OWN}.FastGelu(x, b)", ["Add", "Gelu"], {"b": (6,)}),
    "quick-gelu": (f"{OWN}.QuickGelu(x)", ["Mul", "Sigmoid", "Mul"], {}),
    "silu": (f"{OWN}.QuickGelu<alpha=1.0>(x)", ["Sigmoid", "Mul"], {}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    call, expected, shapes = ACTIVATIONS[name]
    expands(call, expected, **shapes)


NORMS = {
    "skip": ("Skip{}(x, s, g)", ["Add", "{}"], {"g": (6,)}),
    "epsilon": ("Skip{}<epsilon=0.01>(x, s, g)", ["Add", "{}"], {"g": (6,)}),
}


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_skip_normalizations(name: str, rms: bool) -> None:
    call, expected, shapes = NORMS[name]
    kind = "SimplifiedLayerNormalization" if rms else "LayerNormalization"
    made = "RMSNormalization" if rms else "LayerNormalization"
    expands(f"{OWN}.{call.format(kind)}", [e.format(made) for e in expected], **shapes)


def test_skip_normalization_with_both_biases() -> None:
    call = f"{OWN}.SkipLayerNormalization(x, s, g, b, c)"
    model = expands(call, ["Add", "Add", "LayerNormalization"], g=(6,), b=(6,), c=(6,))
    assert len(model.graph[2].inputs) == 3
    call = f'{OWN}.SkipLayerNormalization(x, s, g, "", c)'
    model = expands(call, ["Add", "Add", "LayerNormalization"], g=(6,), c=(6,))
    assert len(model.graph[2].inputs) == 2
    call = f"{OWN}.SkipSimplifiedLayerNormalization(x, s, g, c)"
    expands(call, ["Add", "Add", "RMSNormalization"], g=(6,), c=(6,))


def test_simplified_layer_normalization() -> None:
    expands("SimplifiedLayerNormalization<axis=2>(x, g)", ["RMSNormalization"], g=(6,))


@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_sum_is_an_output_too(kind: str) -> None:
    text = f"""(float[N,M,6] x, float[N,M,6] s) => (float[N,M,6] y, float[N,M,6] t)
    {{ y, m, i, t = {OWN}.Skip{kind}(x, s, g) }}"""
    model = model_of(text, weights(g=(6,)))
    before = onnx_ir.to_proto(model)
    coverage = run(model, STEP)
    assert coverage.changed == 1, coverage
    assert ops(model)[0] == "Add"
    assert worst_error(before, model) <= 1e-5


def declines(text: str, constants: dict[str, Array], reason: str, opset: int = 23) -> None:
    model = model_of(text, constants, opset)
    before = ops(model)
    coverage = run(model, STEP)
    assert coverage.changed == 0
    assert ops(model) == before
    assert any(reason in said for said in coverage.declined.values()), coverage


def test_declines() -> None:
    text = f"""(float[N,6] x, float[N,6] s) => (float[N,6] y, float[N,1] i)
    {{ y, m, i = {OWN}.SkipLayerNormalization(x, s, g) }}"""
    declines(text, weights(g=(6,)), "output 2 of SkipLayerNormalization is read")
    text = "(float16[N,6] x) => (float[N,6] y) { y = SimplifiedLayerNormalization(x, g) }"
    declines(text, weights(g=(6,)), "the input is FLOAT16, the scale FLOAT")
    text = f"(float[N,6] x) => (float[N,6] y) {{ y = {OWN}.Gelu(x) }}"
    declines(text, {}, "opset 19 has no Gelu", opset=19)


def test_standard_operators_are_no_match() -> None:
    model = model_of("(float[N,6] x) => (float[N,6] y) { y = Gelu(x) }", {})
    assert run(model, STEP).matched == 0


def test_half_precision() -> None:
    text = f"""(float16[N,6] x, float16[N,6] s) => (float16[N,6] y)
    {{ y = {OWN}.SkipLayerNormalization(x, s, g) }}"""
    ones = {"g": np.ones(6, "float16")}
    declines(text, ones, "its kernel adds FLOAT16 in float32")
    text = f"(float16[N,6] x) => (float16[N,6] y) {{ y = {OWN}.Gelu(x) }}"
    model = model_of(text, {})
    assert run(model, STEP).proofs == {"float64": 1}
    assert ops(model) == ["Gelu"]
