import numpy as np
import onnx
import onnx_ir
import pytest
from rewriting import declines, model_of, op_types, run_pass

from whet.passes.canonical.constant_evaluation import evaluate
from whet.passes.canonical.fold_constants import FoldConstants
from whet.passes.workbench import Context, Workbench


def weighted(text: str, *shape: int, name: str = "w", opset: int = 21) -> onnx_ir.Model:
    """Return the model with a random weight in place of the graph input ``name``."""
    model = model_of(text, opset)
    value = next(v for v in model.graph.inputs if v.name == name)
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    model.graph.inputs.remove(value)
    value.const_value = onnx_ir.tensor(data, name=name)
    model.graph.register_initializer(value)
    return model


def test_a_tree_of_constants_becomes_one() -> None:
    model, coverage = run_pass(
        """(float[N, 2] x) => (float[N, 2] y) <float[2] a = {1, 2}> {
            c = Constant<value_float = 2.0>() b = Mul(a, c) d = Sqrt(b) e = Neg(b) f = Add(d, e) y = Add(x, f) }""",
        FoldConstants(),
    )
    assert op_types(model) == ["Add"]
    assert coverage.proofs["reference"] == 1


def test_both_of_two_results_are_kept() -> None:
    model, _ = run_pass(
        """(float[N, 2] x) => (float[N, 2] y) <float[4] a = {1, 2, 3, 4}> {
            b, c = Split<num_outputs = 2>(a) d = Add(x, b) y = Add(d, c) }""",
        FoldConstants(),
    )
    assert op_types(model) == ["Add", "Add"]


def test_a_transposed_weight_is_stored_transposed() -> None:
    model, _ = run_pass(
        weighted(
            "(float[N, 64] x, float[80, 64] w) => (float[N, 80] y) { t = Transpose(w) y = MatMul(x, t) }",
            80,
            64,
        ),
        FoldConstants(limit=0),
    )
    assert op_types(model) == ["MatMul"]


def test_declines_a_second_form_of_a_shared_weight() -> None:
    declines(
        weighted(
            """(float[N, 64] x, float[80, 64] w) => (float[N, 64] y) {
                t = Transpose(w) u = MatMul(x, t) y = MatMul(u, w) }""",
            80,
            64,
        ),
        FoldConstants(),
        "second form",
    )


def test_declines_results_above_the_limit() -> None:
    text = """(float[N] x) => (float[A, B] y) <int64[2] s = {100, 1}> {
        c = ConstantOfShape(s) y = Add(x, c) }"""
    declines(text, FoldConstants(limit=399), "400 bytes, the limit is 399")
    model, _ = run_pass(text, FoldConstants(limit=400))
    assert op_types(model) == ["Add"]


def test_declines_sizes_that_only_the_result_shows() -> None:
    model = model_of(
        """(float[N] x) => (float[A] y) <int64[1] s = {1}, int64[1] t = {2}, int64[1] n = {10}> {
            u = Add(s, t) v = Mul(u, n) c = ConstantOfShape(v) y = Add(x, c) }"""
    )
    for node in model.graph:
        for value in node.outputs[:1]:
            if not value.is_graph_output():
                value.shape = None
    work = Workbench(model, FoldConstants(), Context())
    work.graph.initializers["n"].shape = onnx_ir.Shape([1])
    FoldConstants().apply(work)
    assert "ConstantOfShape" not in op_types(model)


def test_sizes_are_read_from_operands_where_shapes_are_not_known() -> None:
    for body, folded in (
        ("c = Range(a, b, d)", True),
        ("c = Tile(v, r)", True),
        ("c = Expand(v, r)", True),
        ("c = OneHot(v, q, v)", False),
    ):
        model = model_of(
            f"""(int64[N] x) => (int64[A] y) <int64 a = {{0}}, int64 b = {{2}}, int64 d = {{1}},
                int64[2] v = {{0, 1}}, int64[1] r = {{2}}, int64 q = {{2}}> {{ {body} y = Add(x, c) }}"""
        )
        next(iter(model.graph)).outputs[0].shape = None
        work = Workbench(model, FoldConstants(), Context())
        FoldConstants().apply(work)
        assert (op_types(model) == ["Add"]) is folded


@pytest.mark.parametrize(
    "text",
    [
        "(float[2] x) => (float[2] y) <float[2] a = {1, 2}> { r = RandomNormalLike(a) z = Sub(r, r) y = Add(x, z) }",
        "(float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}> { b = Neg(a) y = Add(x, b) }",
        """(float[2] x) => (float[2] y) <uint8[2] a = {1, 2}, float s = {0.5}> {
            b = DequantizeLinear(a, s) y = Add(x, b) }""",
        """(float[2] x) => (float[2] y) <bool c = {1}> {
            y = If (c) <
                then_branch = t () => (float[2] u) { u = Relu(x) },
                else_branch = e () => (float[2] v) { v = Neg(x) }>
        }""",
        "() => (float[2] y) <float[2] a = {1, 2}> { y = Identity(a) }",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    declines(text, FoldConstants())


def test_operators_of_other_domains_stay() -> None:
    model = model_of(
        "(float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = my.Secret(a) y = Add(x, b) }",
        domains=', "my" : 1',
    )
    work = Workbench(model, FoldConstants(), Context())
    FoldConstants().apply(work)
    assert op_types(model) == ["Secret", "Add"]


def test_an_output_that_is_constant_keeps_its_name() -> None:
    model, _ = run_pass(
        "(float[2] x) => (float[2] y, float[2] z) <float[2] a = {1, 2}> { y = Relu(x) z = Exp(a) }",
        FoldConstants(),
    )
    assert "Exp" not in op_types(model)


def test_a_result_that_a_subgraph_captures_is_folded() -> None:
    model, _ = run_pass(
        """(bool c, float[2] x) => (float[2] y) <float[2] a = {1, 2}> {
            b = Exp(a)
            y = If (c) <
                then_branch = t () => (float[2] u) { u = Add(x, b) },
                else_branch = e () => (float[2] v) { v = Neg(x) }>
        }""",
        FoldConstants(),
    )
    assert op_types(model) == ["If"]


def test_nodes_that_fail_do_not_take_others_with_them() -> None:
    model, coverage = run_pass(
        """(float[2] x) => (float[2] y) <float[2] a = {1, 2}, int64[1] i = {1}> {
            b = Exp(a) y = Add(x, b) }""",
        FoldConstants(),
    )
    assert coverage.changed == 1
    broken = model_of(
        """(float[2] x) => (float[2] y, float[1] z) <float[2] a = {1, 2}, int64[1] i = {7}> {
            b = Exp(a) y = Add(x, b) z = Gather(a, i) }"""
    )
    nodes = [node for node in broken.graph if node.op_type != "Add"]
    found = evaluate(broken, nodes, [node.outputs[0] for node in nodes], prove=True)
    by_name = {value.name: result for value, result in found.items()}
    assert by_name["z"].array is None
    assert "cannot compute" in by_name["z"].reason
    assert by_name["b"].oracle == "reference"
    assert model is not broken


def test_strings_stay() -> None:
    data = onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [1], [b"a"])
    model = model_of("(float[2] x) => (float[2] y, string[1] z) { y = Relu(x) z = Identity(x) }")
    node = list(model.graph)[1]
    value = onnx_ir.Value(
        name="s",
        type=onnx_ir.TensorType(onnx_ir.DataType.STRING),
        shape=onnx_ir.Shape([1]),
        const_value=onnx_ir.serde.deserialize_tensor(data),
    )
    model.graph.register_initializer(value)
    node.replace_input_with(0, value)
    node.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.STRING)
    declines(model, FoldConstants())
