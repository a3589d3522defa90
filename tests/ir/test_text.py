"""The text form: what is printed reads back as the same model and prints the same again."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import models

from whet.errors import InvalidModel
from whet.ir.text import assert_same_text, parse_model, print_model, print_node, same_structure
from whet.ir.text_tensor import ELIDED_KEY, stand_in_tensor, tensor_digest

SHARED = Path(os.environ.get("WHET_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
EVERYTHING = 10**9
DANGLING = {
    "icm-31000000518082.onnx": "value 'Addcst' is not defined",
    "ort_github_issue_11536.onnx": "output 'one' is not produced in this graph",
}
DTYPE = onnx_ir.DataType


def plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Bring equal tensors to equal protos, and drop what the text form does not carry."""
    for graph in graphs_in(proto):
        for tensor in graph.initializer:
            flatten_tensor(tensor, keep_name=True)
    for node in nodes_in(proto):
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for tensor in (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])):
                flatten_tensor(tensor, keep_name=False)
    return proto


def flatten_tensor(tensor: onnx.TensorProto, *, keep_name: bool) -> None:
    name = tensor.name
    if tensor.data_type != onnx.TensorProto.STRING:
        raw = onnx_ir.serde.deserialize_tensor(tensor).tobytes()
        fresh = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)
        tensor.CopyFrom(fresh)
    tensor.ClearField("name")
    tensor.ClearField("doc_string")
    if keep_name:
        tensor.name = name


def graphs_in(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in nodes_in(proto):
        for attribute in node.attribute:
            yield from attribute.graphs
            if attribute.HasField("g"):
                yield attribute.g


def nodes_in(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    stack = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            stack.extend(node for graph in attribute.graphs for node in graph.node)
            stack.extend(attribute.g.node)


def check_round_trip(model: onnx_ir.Model) -> None:
    text = print_model(model)
    assert print_model(parse_model(text)) == text
    structure = print_model(model, renumber=True)
    assert print_model(parse_model(structure), renumber=True) == structure


def check_lossless(model: onnx_ir.Model) -> None:
    again = parse_model(print_model(model, elide=EVERYTHING))
    assert plain(onnx_ir.to_proto(again)) == plain(onnx_ir.to_proto(model))


def model_of(text: str) -> onnx_ir.Model:
    return parse_model('model {ir_version=10, opset={"": 20}}\n' + textwrap.dedent(text))


def with_tensor(tensor: onnx_ir.TensorProtocol) -> onnx_ir.Model:
    node = onnx_ir.node("Constant", [], {"value": tensor})
    graph = onnx_ir.Graph([], node.outputs, nodes=[node], opset_imports={"": 23}, name="g")
    return onnx_ir.Model(graph, ir_version=10)


def with_attributes(*attributes: onnx_ir.Attr) -> onnx_ir.Model:
    node = onnx_ir.Node("test", "Op", [], attributes, outputs=[onnx_ir.Value(name="y")], name="n")
    graph = onnx_ir.Graph([], node.outputs, nodes=[node], opset_imports={"test": 1}, name="g")
    return onnx_ir.Model(graph, ir_version=10)


# --- round trips over many models ---------------------------------------------------------------


def test_backend_node_models_round_trip(backend_protos):
    assert len(backend_protos) > 1000
    for proto in backend_protos:
        model = onnx_ir.from_proto(proto)
        text = print_model(model, elide=EVERYTHING)
        again = parse_model(text)
        assert plain(onnx_ir.to_proto(again)) == plain(onnx_ir.to_proto(model)), text
        assert print_model(again, elide=EVERYTHING) == text


def test_asset_models_round_trip(caplog):
    caplog.set_level("CRITICAL")
    paths = sorted((SHARED / "assets").rglob("*.onnx"))
    if not paths:
        pytest.skip("no asset models here")
    seen = 0
    for path in paths:
        try:
            model = onnx_ir.load(path)
            text = print_model(model)
        except (onnx_ir.serde.SerdeError, FileNotFoundError):
            continue  # not a model, or its external data is not here
        if path.name in DANGLING:
            with pytest.raises(InvalidModel, match=DANGLING[path.name]):
                parse_model(text)
            continue
        assert print_model(parse_model(text)) == text, path
        seen += 1
    assert seen > 0.9 * len(paths)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(models())
def test_random_models_round_trip(model):
    check_round_trip(model)
    check_lossless(model)


# --- single constructs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a",
            "a.b",
            "/blk/0/MatMul_output_0",
            "onnx::Conv_12",
            "12",
            "with space",
            "_",
            "ünï",
            "%0",
        ),
        *('quo"te', "back\\slash", "new\nline", "graph", "inf", "#x", "a-b", "\u2028"),
    ],
)
def test_any_name_round_trips(name):
    x = onnx_ir.Value(name=name, type=onnx_ir.TensorType(DTYPE.FLOAT), shape=onnx_ir.Shape([name]))
    node = onnx_ir.node("Relu", [x], name=name, doc_string=name, metadata_props={name: name})
    node.outputs[0].name = f"{name}!"
    node.outputs[0].metadata_props[name] = name
    graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name=name)
    model = onnx_ir.Model(graph, ir_version=10, producer_name=name, metadata_props={name: name})
    check_round_trip(model)
    check_lossless(model)


@pytest.mark.parametrize("dtype", [d for d in DTYPE if d not in (DTYPE.UNDEFINED, DTYPE.STRING)])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 5), (40,)])
def test_every_element_type_round_trips_bit_by_bit(dtype, shape):
    tensor = stand_in_tensor(dtype, shape, "5eed")
    del tensor.metadata_props[ELIDED_KEY]
    model = with_tensor(tensor)
    check_round_trip(model)
    again = parse_model(print_model(model, elide=EVERYTHING))
    value = again.graph.node(0).attributes["value"].as_tensor()
    assert value.dtype == dtype
    assert value.shape.numpy() == shape
    assert value.tobytes() == tensor.tobytes()


def test_special_floats_keep_their_bits():
    specials = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38, 0.1, 1 / 3, 16777216.0]
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            array = np.array(specials).astype(dtype)
        text = print_model(with_tensor(onnx_ir.tensor(array)))
        again = parse_model(text).graph.node(0).attributes["value"].as_tensor()
        assert again.tobytes() == array.tobytes()


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32))
def test_random_float32_bits_survive(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 2000, dtype=np.uint32)
    array = bits.view(np.float32)
    array = array[np.isfinite(array)]
    again = parse_model(print_model(with_tensor(onnx_ir.tensor(array)), elide=EVERYTHING))
    assert again.graph.node(0).attributes["value"].as_tensor().tobytes() == array.tobytes()


def test_string_tensors_round_trip():
    texts = ["", "a b", 'q"', "ü", "\n"]
    data = [*(text.encode() for text in texts), b"\xff\x00"]
    model = with_tensor(onnx_ir.StringTensor(data, shape=onnx_ir.Shape([6])))
    check_round_trip(model)
    tensor = parse_model(print_model(model)).graph.node(0).attributes["value"].as_tensor()
    assert list(tensor.string_data()) == data


def test_every_attribute_kind_round_trips():
    kind = onnx_ir.AttributeType
    tensor = onnx_ir.tensor(np.array([1, 2], dtype=np.int64))
    type_ = onnx_ir.TypeAndShape(onnx_ir.TensorType(DTYPE.FLOAT), onnx_ir.Shape(["N", None, 2]))
    inner = onnx_ir.Graph([], [], nodes=[], name="inner")
    model = with_attributes(
        onnx_ir.Attr("i", kind.INT, -3),
        onnx_ir.Attr("f", kind.FLOAT, 2.0),
        onnx_ir.Attr("inf", kind.FLOAT, -np.inf),
        onnx_ir.Attr("nan", kind.FLOATS, [np.nan, np.inf, 0.1]),
        onnx_ir.Attr("s", kind.STRING, "a\nb"),
        onnx_ir.Attr("raw", kind.STRING, b"\xff\xfe"),
        onnx_ir.Attr("ss", kind.STRINGS, ["a", ""]),
        onnx_ir.Attr("ii", kind.INTS, [1, -2]),
        *(onnx_ir.Attr(k.name.lower(), k, []) for k in (kind.INTS, kind.FLOATS, kind.STRINGS)),
        *(onnx_ir.Attr(k.name, k, []) for k in (kind.TENSORS, kind.GRAPHS, kind.TYPE_PROTOS)),
        onnx_ir.Attr("t", kind.TENSOR, tensor),
        onnx_ir.Attr("tt", kind.TENSORS, [tensor, tensor]),
        onnx_ir.Attr("g", kind.GRAPH, inner),
        onnx_ir.Attr("tp", kind.TYPE_PROTO, type_),
        onnx_ir.Attr("tps", kind.TYPE_PROTOS, [type_, type_]),
    )
    check_round_trip(model)
    before, after = (m.graph.node(0).attributes for m in (model, parse_model(print_model(model))))
    assert [(a.name, a.type) for a in after.values()] == [(a.name, a.type) for a in before.values()]
    assert after["raw"].value == b"\xff\xfe"
    assert after["nan"].as_floats()[1:] == (np.inf, pytest.approx(0.1, rel=1e-7))


@pytest.mark.parametrize(
    "spelling",
    [
        *("float32", "float32[]", "float32[2, N, ?]", 'bfloat16["a + 1"]', "sequence(int64[?])"),
        *("optional(sequence(string))", "sparse(float64[3])", "?", "?[2]", "undefined", "int4[1]"),
        "float32[1~DATA_BATCH, N]~IMAGE",
    ],
)
def test_every_type_round_trips(spelling):
    model = model_of(f"graph g(x: {spelling}) -> (x) {{}}")
    value = model.graph.inputs[0]
    assert print_model(model).count(f"x: {spelling}") == (spelling != "?")
    assert (value.type is None) == spelling.startswith("?")


def test_missing_inputs_and_outputs_keep_their_places():
    model = model_of("graph g(x: float32) -> (y) { _, y, _ = Op(_, x, _) }")
    node = model.graph.node(0)
    assert [value and value.name for value in node.inputs] == [None, "x", None]
    assert [value.name for value in node.outputs] == ["", "y", ""]
    assert "_, y, _ = Op(_, x, _)" in print_model(model)


def test_initializer_that_is_an_input_is_one_value():
    model = model_of("graph g(w: float32[2]) -> (y) { w = float32[2] {1.0, 2.0} y = Relu(w) }")
    assert model.graph.initializers["w"] is model.graph.inputs[0]
    check_round_trip(model)


def test_captures_refer_to_the_enclosing_value():
    model = model_of("""
        graph g(c: bool[], x: float32) -> (y) {
          h = Relu(x)
          y = If(c) {then_branch=graph () -> (a) { a = Neg(h) }, else_branch=graph () -> (b) {
            b = Identity(x)
          }}
        }
    """)
    branch = model.graph.node(1).attributes["then_branch"].as_graph()
    assert branch.node(0).inputs[0] is model.graph.node(0).outputs[0]


def test_nodes_may_come_in_any_order():
    model = model_of("graph g(x: float32) -> (y) { y = Neg(h) h = Relu(x) }")
    first, second = model.graph
    assert first.inputs[0] is second.outputs[0]
    check_round_trip(model)


def test_node_line_reads_well():
    model = model_of("""
        graph g(x: float32[N, 3]) -> (y) {
          y: float32[N, 3] = com.x::Op:v2(x, _) {axis=-1, alpha=0.1} @"/blk/op" @{"k": "v"}
        }
    """)
    expected = 'y: float32[N, 3] = com.x::Op:v2(x, _) {axis=-1, alpha=0.1} @"/blk/op"'
    assert print_node(model.graph.node(0)).splitlines() == [expected, '    @{"k": "v"}']


# --- elided weights ------------------------------------------------------------------------------


def test_long_weights_are_elided_by_content():
    first = with_tensor(onnx_ir.tensor(np.arange(100, dtype=np.float32)))
    second = with_tensor(onnx_ir.tensor(np.arange(100, dtype=np.float32) + 1))
    digest = tensor_digest(first.graph.node(0).attributes["value"].as_tensor())
    assert f"float32[100] <sha256:{digest}>" in print_model(first)
    assert not same_structure(first, second)
    assert print_model(parse_model(print_model(first))) == print_model(first)


def test_a_stand_in_is_forgotten_when_its_weight_is_replaced():
    text = "graph g() -> (y) { w = float32[4, 8] <sha256:0123abcd> y = Relu(w) }"
    model = model_of(text)
    assert "<sha256:0123abcd>" in print_model(model)
    weight = model.graph.initializers["w"]
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 2)
    assert "<sha256:0123abcd>" not in print_model(model)


@pytest.mark.parametrize("dtype", [DTYPE.FLOAT, DTYPE.INT64, DTYPE.BOOL, DTYPE.INT4, DTYPE.STRING])
def test_stand_ins_are_deterministic(dtype):
    first, second, other = (stand_in_tensor(dtype, (8, 64), d) for d in ("aa", "aa", "ab"))
    assert first.dtype == dtype
    assert (first.numpy() == second.numpy()).all()
    assert not (first.numpy() == other.numpy()).all()


def test_stand_in_floats_keep_activations_in_range():
    weight = stand_in_tensor(DTYPE.FLOAT, (64, 32, 3, 3), "1").numpy()
    assert weight.std() == pytest.approx(1 / np.sqrt(32 * 9), rel=0.05)
    vector = stand_in_tensor(DTYPE.FLOAT, (64,), "1").numpy()
    assert vector.min() >= 0.5
    assert vector.max() < 1.5


# --- structure without names ---------------------------------------------------------------------


def test_same_structure_ignores_names_and_notes():
    first = model_of("""
        graph a(x: float32[2]) -> (y: float32[2]) {
          w = float32[2] {1.0, 2.0}
          v = float32[1] {3.0}
          h: float32[2] = Mul(x, v) @"mul"
          y = Add(h, w)
        }
    """)
    second = model_of("""
        graph b(in: float32[2]) -> (out: float32[2]) {
          p = float32[1] {3.0}
          q = float32[2] {1.0, 2.0}
          t = Mul(in, p) @{"origin": "elsewhere"}
          out = Add(t, q) @doc "sum"
        }
    """)
    assert same_structure(first, second)
    assert_same_text(first, second)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mul(x, w)", "Mul(w, x)"),
        ("Mul", "Div"),
        ("{1.0, 2.0}", "{1.0, 3.0}"),
        ("axis=1", "axis=0"),
        ("x: float32[2]", "x: float32[3]"),
    ],
)
def test_same_structure_sees_every_difference(old, new):
    text = """
        graph a(x: float32[2]) -> (y: float32[2]) {
          w = float32[2] {1.0, 2.0}
          h = Mul(x, w)
          y = Softmax(h) {axis=1}
        }
    """
    before, after = model_of(text), model_of(text.replace(old, new))
    assert not same_structure(before, after)
    with pytest.raises(AssertionError, match="the models differ") as error:
        assert_same_text(before, after)
    assert "--- expected" in str(error.value)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Relu(q)", "value 'q' is not defined"),
        ("z = Relu(x)", "output 'y' is not produced in this graph"),
        ("y = Relu(x) y = Neg(x)", "value 'y' is defined twice"),
        ("y = Relu(x", "expected ',', found '}'"),
        ("y = Relu(x) {axis=}", "expected an element type"),
        ("y = Relu(x) {axis=[1, 2.0]}", "one kind of int, float or string"),
        ("y = Relu(x) {a=ref b: FLOOT}", "unknown attribute type 'FLOOT'"),
        ("y = float33[2] {1.0}", "unknown element type 'float33'"),
        ("y = float32[2] {1.0}", r"needs 2 elements, found 1"),
        ("y = int8[1] {300}", "300 is not a value of int8"),
        ("y = int8[1] {1.5}", "1.5 is not a value of int8"),
        ('y = float32[1] {"a"}', "holds no strings"),
        ("y = float32[-1] {}", "negative or too large"),
        ("y, z = float32[1] {1.0}", "a tensor is assigned to one name"),
        ("y: sequence(?) = Relu(x)", "'sequence' needs an element type"),
        ("y = Relu(x) @3", "expected a quoted name"),
        ("y = Relu(x) ~ ;", "unexpected character ';'"),
        ('y = Relu(x) @"\\q"', "bad string"),
        ("x = float32[2] {1.0, 2.0} x = float32[2] {1.0, 2.0} y = Relu(x)", "defined twice"),
    ],
)
def test_errors_name_the_rule(body, message):
    with pytest.raises(InvalidModel, match=message):
        model_of(f"graph g(x: float32) -> (y) {{ {body} }}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'model', found the end of the text"),
        ("model {color=3}", "unknown field 'color'"),
        ("model {ir_version=1.5}", "expected an integer, found '1.5'"),
        ("model {} graph g() -> () {} rest", "expected 'function' or the end of the text"),
    ],
)
def test_header_errors_name_the_rule(text, message):
    with pytest.raises(InvalidModel, match=message):
        parse_model(text)


def test_errors_show_the_place():
    with pytest.raises(InvalidModel) as error:
        parse_model("model {}\ngraph g(x: float32) -> (y) {\n  y = Add(x, nothing)\n}\n")
    assert str(error.value).splitlines() == [
        "line 3, column 14: value 'nothing' is not defined",
        "    3 |   y = Add(x, nothing)",
        "                     ^",
    ]
