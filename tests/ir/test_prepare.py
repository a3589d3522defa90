"""The normal form: functions inlined, constants lifted, names unique, shapes known."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from whet.errors import UnsupportedModel
from whet.ir.prepare import normalize
from whet.ir.shapes import infer_shapes


def load(text: str) -> onnx_ir.Model:
    return onnx_ir.from_proto(parser.parse_model(text))


def run(model: onnx_ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = onnx_ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def all_values(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    values: dict[onnx_ir.Value, None] = {}
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            values[value] = None
        for node in graph:
            values.update(dict.fromkeys(node.outputs))
    return list(values)


def assert_names_unique(model: onnx_ir.Model) -> None:
    names = [value.name for value in all_values(model)]
    assert all(names)
    assert len(set(names)) == len(names)
    nodes = [n.name for n in onnx_ir.traversal.RecursiveGraphIterator(model.graph)]
    assert all(nodes)
    assert len(set(nodes)) == len(nodes)


FUNCTIONS = """
<ir_version: 10, opset_import: ["" : 23, "local" : 1]>
g (float[n, 4] x) => (float[n, 4] z) {
    y = local.twice <factor: float = 2.0> (x)
    z = local.twice <factor: float = 3.0> (y)
}
<domain: "local", opset_import: ["" : 23]>
twice <factor> (x) => (y) {
    f = Constant <value_float: float = @factor> ()
    y = Mul (x, f)
}
<domain: "local", opset_import: ["" : 23]>
never (x) => (y) { y = Neg (x) }
"""


def test_an_extension_domain_in_use_is_imported():
    model = load("""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }
    """)
    assert "com.microsoft" not in model.graph.opset_imports
    normalize(model)
    assert dict(model.graph.opset_imports) == {"": 17, "com.microsoft": 1}
    (y,) = run(model, x=np.asarray([0.0, 1.0], np.float32))
    np.testing.assert_allclose(y, [0.0, 0.8413447], rtol=1e-6)


def test_functions_are_inlined():
    model = load(FUNCTIONS)
    x = np.ones((2, 4), np.float32)
    want = run(load(FUNCTIONS), x=x)
    assert normalize(model) is model
    assert not model.functions
    assert [n.op_type for n in model.graph] == ["Mul", "Mul"]
    assert_names_unique(model)
    np.testing.assert_array_equal(run(model, x=x)[0], want[0])
    np.testing.assert_array_equal(want[0], x * 6)


def test_functions_of_another_opset_are_refused():
    model = load(FUNCTIONS)
    next(iter(model.functions.values())).opset_imports[""] = 17
    with pytest.raises(UnsupportedModel, match="cannot be inlined"):
        normalize(model)


@pytest.mark.parametrize(
    ("attribute", "value", "want"),
    [
        ("value_int", 3, np.array(3, np.int64)),
        ("value_ints", [3, 4], np.array([3, 4], np.int64)),
        ("value_float", 0.5, np.array(0.5, np.float32)),
        ("value_floats", [0.5, 1.5], np.array([0.5, 1.5], np.float32)),
        ("value_string", "ä", np.array("ä".encode(), object)),
        ("value_strings", ["a", "ß"], np.array([b"a", "ß".encode()], object)),
        (
            "value",
            numpy_helper.from_array(np.eye(2, dtype=np.float16)),
            np.eye(2, dtype=np.float16),
        ),
    ],
)
def test_constants_are_lifted(attribute: str, value: object, want: np.ndarray):
    constant = helper.make_node("Constant", [], ["c"], **{attribute: value})
    use = helper.make_node("Identity", ["c"], ["y"])
    kind = helper.np_dtype_to_tensor_dtype(want.dtype)
    output = helper.make_tensor_value_info("y", kind, want.shape)
    graph = helper.make_graph([constant, use], "g", [], [output])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    before = run(onnx_ir.from_proto(proto))
    model = normalize(onnx_ir.from_proto(proto))
    assert [n.op_type for n in model.graph] == ["Identity"]
    tensor = model.graph.initializers["c"].const_value
    assert tensor.shape == want.shape
    np.testing.assert_array_equal(tensor.numpy(), want)
    np.testing.assert_array_equal(run(model)[0], before[0])


def test_a_constant_that_is_an_output_stays():
    model = load("""<ir_version: 10, opset_import: ["" : 23]> g () => (int64 c) {
        c = Constant <value_int: int = 3> ()
    }""")
    normalize(model)
    assert [n.op_type for n in model.graph] == ["Constant"]
    assert run(model)[0] == 3


SUBGRAPHS = """
<ir_version: 10, opset_import: ["" : 23]>
g (bool cond, float[4] x) => (float[4] y) {
    c = Constant <value_float: float = 2.0> ()
    y = If (cond) <
        then_branch: graph = then () => (float[4] r) { d = Constant <value_float: float = 3.0> ()
            t = Mul (x, d)
            r = Mul (t, c) },
        else_branch: graph = other () => (float[4] r) { d = Constant <value_float: float = 5.0> ()
            t = Add (x, d)
            r = Add (t, c) }
    >
}
"""


def test_subgraphs_get_names_of_their_own():
    model = load(SUBGRAPHS)
    feeds = {"x": np.arange(4, dtype=np.float32)}
    normalize(model)
    assert_names_unique(model)
    ops = [n.op_type for n in onnx_ir.traversal.RecursiveGraphIterator(model.graph)]
    assert sorted(ops) == ["Add", "Add", "If", "Mul", "Mul"]
    for cond, want in ((True, feeds["x"] * 6), (False, feeds["x"] + 7)):
        np.testing.assert_array_equal(run(model, cond=np.array(cond), **feeds)[0], want)
    inner = [n for n in onnx_ir.traversal.RecursiveGraphIterator(model.graph) if n.op_type == "Mul"]
    assert [n.outputs[0].shape for n in inner] == [onnx_ir.Shape([4])] * 2


def test_names_of_the_interface_and_of_weights_stay():
    model = load("""<ir_version: 10, opset_import: ["" : 23]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            t = Add (x, w)
            y = Relu (t)
        }""")
    for node in model.graph:
        node.name = "same"
    model.graph[0].outputs[0].name = "w"
    normalize(model)
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert list(model.graph.initializers) == ["w"]
    assert model.graph[0].outputs[0].name == "w_1"
    assert [n.name for n in model.graph] == ["same", "same_1"]


def test_subgraph_inputs_of_a_foreign_operator_keep_their_names():
    search = helper.make_node("Search", ["x"], ["y"], domain="com.microsoft")
    for key in ("encoder", "decoder"):
        body = helper.make_graph(
            [helper.make_node("Neg", ["ids"], ["hidden"])],
            key,
            [helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["n"])],
            [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n"])],
        )
        search.attribute.append(helper.make_attribute(key, body))
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    model = onnx_ir.from_proto(helper.make_model(helper.make_graph([search], "g", *zip(info))))
    normalize(model)
    for key in ("encoder", "decoder"):
        body = model.graph[0].attributes[key].as_graph()
        assert ([v.name for v in body.inputs], body.outputs[0].name) == (["ids"], "hidden")


def test_old_models_get_their_weights_out_of_the_inputs():
    text = """<ir_version: {}, opset_import: ["" : 23]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}"""
    model = load(text.format(3))
    normalize(model)
    assert [v.name for v in model.graph.inputs] == ["x"]
    newer = load(text.format(4))
    normalize(newer)
    assert [v.name for v in newer.graph.inputs] == ["x", "w"]


def test_absent_trailing_inputs_are_gone():
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "", ""], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = onnx_ir.from_proto(helper.make_model(graph))
    normalize(model)
    assert len(model.graph[0].inputs) == 1


SHAPES = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[n, 6] x) => (float[a, b] y) <int64[2] target = {-1, 3}, float[6, 6] w = {WEIGHTS}> {
    p = MatMul (x, w)
    r = Reshape (p, target)
    y = Relu (r)
}
""".replace("WEIGHTS", ", ".join(["1"] * 36))


def test_shapes_are_inferred_through_data():
    model = normalize(load(SHAPES))
    product, reshape, relu = (node.outputs[0] for node in model.graph)
    assert product.shape == onnx_ir.Shape(["n", 6])
    assert product.dtype == onnx_ir.DataType.FLOAT
    assert reshape.shape is not None
    assert reshape.shape[1] == 3
    assert relu.shape[1] == 3


def test_what_is_known_stays_when_it_says_more():
    model = load(SHAPES)
    model.graph[1].outputs[0].shape = onnx_ir.Shape(["2*n", None])
    model.graph[1].outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    infer_shapes(model)
    assert model.graph[1].outputs[0].shape == onnx_ir.Shape(["2*n", 3])


def test_wrong_annotations_are_corrected_once():
    model = load(SHAPES)
    wrong = model.graph[0].outputs[0]
    wrong.shape, wrong.type = onnx_ir.Shape([7, 8]), onnx_ir.TensorType(onnx_ir.DataType.INT8)
    normalize(model)
    assert wrong.shape == onnx_ir.Shape([7, 6])
    assert wrong.dtype == onnx_ir.DataType.FLOAT


def test_a_model_without_inference_stays():
    model = load("""<ir_version: 10, opset_import: ["" : 23, "own" : 1]>
        g (float[2] x) => (float[2] y) { t = own.op (x)
            y = Relu (t) }""")
    model.graph[0].outputs[0].shape = onnx_ir.Shape([2])
    model.graph[0].outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    normalize(model)
    assert model.graph[0].outputs[0].shape == onnx_ir.Shape([2])
    model.graph[1].replace_input_with(0, None)
    infer_shapes(model)
    assert model.graph[0].outputs[0].shape == onnx_ir.Shape([2])


def chain(nodes: int) -> onnx_ir.Model:
    data = np.zeros((64, 64), np.float32)
    body, weights, last = [], [], "x"
    for i in range(nodes // 4):
        weights.append(numpy_helper.from_array(data, f"w{i}"))
        body += [
            helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"w{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
            helper.make_node("Add", [f"r{i}", f"m{i}"], [f"o{i}"]),
        ]
        last = f"o{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 64, 64])
    y = onnx.ValueInfoProto(name=last)
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    return onnx_ir.from_proto(helper.make_model(helper.make_graph(body, "g", [x], [y], weights)))


def test_two_thousand_nodes_get_their_shapes():
    model = normalize(chain(2000))
    assert model.graph[-1].outputs[0].shape == onnx_ir.Shape(["b", 64, 64])


def test_normalizing_twice_changes_nothing():
    model = normalize(load(SUBGRAPHS))
    first = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    again = onnx_ir.to_proto(normalize(model)).SerializeToString(deterministic=True)
    assert again == first


def test_names_that_an_earlier_inference_made_up_are_not_kept():
    """They begin anew at 0 in every inference, and would soon name two sizes alike."""
    model = load("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N, 4] x, int64[1] k) => (float[A, B] y, float[C, D] z)
        { u = Slice(x, k, k) v = Slice(x, k, k) y = Relu(u) z = Relu(v) }
    """)
    u, v = (node.outputs[0] for node in list(model.graph)[:2])
    u.shape, v.shape = onnx_ir.Shape(["unk__7", 4]), onnx_ir.Shape(["unk__7", "M"])
    infer_shapes(model, trust=False)
    assert u.shape is not None
    assert v.shape is not None
    assert u.shape[0] != v.shape[0]
    assert v.shape[1] == onnx_ir.SymbolicDim("M")
