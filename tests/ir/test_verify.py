"""Each structural rule is broken once, on purpose, and the verifier says which one and where."""

import textwrap

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from strategies import models

from whet.errors import InvalidModel
from whet.ir.text import parse_model
from whet.ir.verify import verify

FLOAT = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)


def model_of(text: str, opset: str = '"": 20') -> onnx_ir.Model:
    return parse_model(f"model {{ir_version=10, opset={{{opset}}}}}\n" + textwrap.dedent(text))


def chain() -> onnx_ir.Model:
    """Return ``x -> Relu a -> Add b (with a weight) -> Neg c -> y``."""
    return model_of("""
        graph main(x: float32[2]) -> (y: float32[2]) {
          w = float32[2] {1.0, 2.0}
          a = Relu(x) @"a"
          b = Add(a, w) @"b"
          y = Neg(b) @"c"
        }
    """)


def branches() -> onnx_ir.Model:
    """Return an If whose branches capture ``h`` and the weight ``w``."""
    return model_of("""
        graph main(c: bool[], x: float32[2]) -> (y: float32[2]) {
          w = float32[2] {1.0, 2.0}
          h = Relu(x) @"h"
          y = If(c) {then_branch=graph then() -> (p) {
            p0 = Mul(h, w) @"p0"
            p = Neg(p0) @"p"
          }, else_branch=graph other() -> (q) {
            q = Add(h, w) @"q"
          }} @"if"
        }
    """)


def branch(model: onnx_ir.Model, name: str) -> onnx_ir.Graph:
    return model.graph.node("if").attributes[name].as_graph()


def rejects(model: onnx_ir.Model, message: str) -> str:
    with pytest.raises(InvalidModel, match=message) as error:
        verify(model)
    return str(error.value)


# --- what is accepted ----------------------------------------------------------------------------


def test_backend_node_models_are_accepted(backend_protos):
    assert len(backend_protos) > 1000
    for proto in backend_protos:
        verify(onnx_ir.from_proto(proto))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(models())
def test_random_models_are_accepted(model):
    verify(model)


@pytest.mark.parametrize("build", [chain, branches])
def test_well_formed_models_are_accepted_again_and_again(build):
    model = build()
    verify(model)
    verify(model)


def test_sibling_branches_may_use_the_same_names():
    verify(
        model_of("""
            graph g(c: bool[], x: float32) -> (y) {
              y = If(c) {then_branch=graph () -> (t) { t = Neg(x) },
                         else_branch=graph () -> (t) { t = Abs(x) }}
            }
        """)
    )


@pytest.mark.parametrize(
    ("statement", "opset"),
    [
        ("y = com.example::Anything(x, _, x) {a=1, b=[0.5]}", '"": 20, com.example: 1'),
        ("y = NobodyKnowsThis(x) {a=1}", '"": 20'),
        ("y = LayerNormalization(x, x)", '"": 12'),
        ("y, _ = Dropout(x)", '"": 20'),
        ("y = Clip(x, _, x)", '"": 20'),
        ("y = Neg(x)", "ai.onnx: 20"),
    ],
)
def test_opaque_and_optional_parts_are_accepted(statement, opset):
    verify(model_of(f"graph g(x: float32) -> (y) {{ {statement} }}", opset))


def test_function_calls_are_accepted_without_an_import():
    verify(
        model_of("""
            graph g(x: float32) -> (y) { y = fn::Scaled(x) {factor=2.0} }
            function fn::Scaled(a) -> (b) with {opset={"": 20}, attributes={factor=undefined}} {
              f = Constant() {value_float=ref factor: FLOAT}
              b = Mul(a, f)
            }
        """)
    )


# --- where values come from ----------------------------------------------------------------------


def test_input_from_nowhere_is_rejected():
    model = chain()
    model.graph.node("b").replace_input_with(0, onnx_ir.Value(name="ghost"))
    text = rejects(model, "input 0 'ghost' is no input, initializer or output of a node")
    assert "at Add 'b' in the graph" in text


def test_input_from_a_removed_node_is_rejected():
    model = chain()
    model.graph.remove(model.graph.node("a"))
    rejects(model, "input 0 'a' is produced by Relu 'a', which is in no graph, at Add 'b'")


def test_input_from_a_removed_initializer_is_rejected():
    model = chain()
    del model.graph.initializers["w"]
    rejects(model, "input 1 'w' is no input, initializer or output")


def test_input_produced_later_is_rejected():
    model = chain()
    node = model.graph.node("a")
    model.graph.remove(node)
    model.graph.append(node)
    rejects(model, r"input 0 'a' is produced later, by Relu 'a' \(order or cycle\), at Add 'b'")


def test_cycle_is_rejected():
    model = chain()
    model.graph.node("a").replace_input_with(0, model.graph.node("b").outputs[0])
    rejects(model, r"input 0 'b' is produced later, by Add 'b' \(order or cycle\), at Relu 'a'")


def test_node_using_itself_is_rejected():
    model = chain()
    model.graph.node("b").replace_input_with(0, model.graph.node("b").outputs[0])
    rejects(model, "input 0 'b' is produced later, by Add 'b'")


def test_value_of_a_sibling_graph_is_rejected():
    model = branches()
    sibling = branch(model, "then_branch").node("p0").outputs[0]
    branch(model, "else_branch").node("q").replace_input_with(0, sibling)
    text = rejects(model, "input 0 'p0' is produced by Mul 'p0' in a graph that is not open here")
    assert "in graph 'else_branch' of If 'if' in the graph" in text


def test_value_of_an_inner_graph_is_rejected_outside():
    model = branches()
    inner = branch(model, "then_branch").node("p0").outputs[0]
    model.graph.append(onnx_ir.node("Neg", [inner], name="late"))
    rejects(model, "input 0 'p0' is produced by Mul 'p0' in a graph that is not open here")


def test_value_of_another_model_is_rejected():
    model = chain()
    model.graph.node("c").replace_input_with(0, chain().graph.node("b").outputs[0])
    rejects(model, "input 0 'b' is produced by Add 'b' in a graph that is not open here")


def test_capture_of_a_later_value_is_rejected():
    model = branches()
    node = model.graph.node("h")
    model.graph.remove(node)
    model.graph.append(node)
    rejects(model, "input 0 'h' is produced by Relu 'h'")


def test_function_does_not_see_the_graph():
    model = model_of("""
        graph g(x: float32) -> (y) { h = Neg(x) y = fn::F(h) }
        function fn::F(a) -> (b) with {opset={"": 20}} { b = Relu(a) }
    """)
    function = model.functions["fn", "F", ""]
    function.graph.node(0).replace_input_with(0, model.graph.node(0).outputs[0])
    rejects(model, "input 0 'h' .* in function 'fn::F'")


# --- names ---------------------------------------------------------------------------------------


def test_two_outputs_of_one_name_are_rejected():
    model = chain()
    model.graph.node("b").outputs[0].name = "a"
    rejects(model, "output 'a' has the name of another value of this graph, at Add 'b'")


def test_output_named_as_an_initializer_is_rejected():
    model = chain()
    model.graph.node("b").outputs[0].name = "w"
    rejects(model, "output 'w' has the name of another value")


def test_two_inputs_of_one_name_are_rejected():
    model = chain()
    model.graph.inputs.append(onnx_ir.Value(name="x", type=FLOAT))
    rejects(model, "input 'x' has the name of another value")


def test_used_value_without_a_name_is_rejected():
    model = chain()
    model.graph.node("a").outputs[0].name = ""
    rejects(model, "has no name, at Relu 'a'")


def test_unnamed_input_is_rejected():
    model = chain()
    model.graph.inputs[0].name = None
    rejects(model, "has no name, in the graph")


def test_hidden_capture_is_rejected():
    model = branches()
    branch(model, "then_branch").node("p").outputs[0].name = "h"
    rejects(model, "captured value 'h' is hidden by one of the same name")


def test_capture_hidden_two_levels_down_is_rejected():
    model = model_of("""
        graph g(c: bool[], x: float32) -> (y) {
          h = Relu(x)
          y = If(c) {then_branch=graph () -> (p) {
            k = Neg(x)
            p = If(c) {then_branch=graph () -> (t) { t = Add(h, k) },
                       else_branch=graph () -> (u) { u = Neg(k) }}
          }, else_branch=graph () -> (q) { q = Neg(x) }}
        }
    """)
    verify(model)
    model.graph.node(1).attributes["then_branch"].as_graph().node(0).outputs[0].name = "h"
    rejects(model, "captured value 'h' is hidden")


# --- graph inputs, outputs, initializers ---------------------------------------------------------


def test_output_that_is_not_produced_is_rejected():
    model = chain()
    model.graph.outputs.append(onnx_ir.Value(name="extra"))
    rejects(model, "output 'extra' is not produced in this graph, in the graph")


def test_output_of_a_removed_node_is_rejected():
    model = chain()
    model.graph.remove(model.graph.node("c"))
    rejects(model, "output 'y' is not produced in this graph")


def test_captured_value_as_output_is_rejected():
    model = branches()
    inner = branch(model, "else_branch")
    inner.outputs[0] = model.graph.node("h").outputs[0]
    rejects(model, "output 'h' is not produced in this graph, in graph 'else_branch'")


@pytest.mark.parametrize(("role", "name"), [("input", "x"), ("initializer", "w")])
def test_produced_inputs_and_initializers_are_rejected(role, name):
    model = chain()
    value = model.graph.inputs[0] if role == "input" else model.graph.initializers[name]
    onnx_ir.Node("", "RandomNormal", [], outputs=[value], name="maker")
    rejects(model, f"{role} '{name}' is produced by RandomNormal 'maker', in the graph")


def test_initializer_without_data_is_rejected():
    model = chain()
    model.graph.initializers["w"].const_value = None
    rejects(model, "initializer 'w' has no data")


def test_initializer_of_another_dtype_is_rejected():
    model = chain()
    model.graph.initializers["w"].const_value = onnx_ir.tensor(np.zeros(2, dtype=np.float16))
    rejects(model, "initializer 'w' is FLOAT16, declared FLOAT")


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_initializer_of_another_shape_is_rejected(shape):
    model = chain()
    model.graph.initializers["w"].const_value = onnx_ir.tensor(np.zeros(shape, dtype=np.float32))
    rejects(model, "initializer 'w' has shape")


def test_initializer_may_be_declared_with_a_symbolic_shape():
    model = chain()
    model.graph.initializers["w"].shape = onnx_ir.Shape(["N"])
    verify(model)


# --- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "opset", "message"),
    [
        ("y = com.example::Op(x)", '"": 20', r"domain 'com.example' is not imported, only \[''\]"),
        ("y = Neg(x)", "com.example: 1", "domain '' is not imported"),
        ("y = Gelu(x)", '"": 17', "'Gelu' is defined from opset 20 on, but 17 is imported"),
        ("y = Add(x)", '"": 20', "1 inputs are given, but 2 to 2 are allowed, at Add"),
        ("y = Neg(x, x)", '"": 20', "2 inputs are given, but 1 to 1 are allowed"),
        ("y, z = Neg(x)", '"": 20', "2 outputs are given, but 1 to 1 are allowed"),
        ("y = Concat() {axis=0}", '"": 20', "0 inputs are given, but 1 to"),
        ("y = Add(_, x)", '"": 20', r"required input 0 \('A'\) is missing"),
        ("y = Cast(x)", '"": 20', "required attribute 'to' is missing"),
        ("y = Softmax(x) {axis=1.0}", '"": 20', "attribute 'axis' is FLOAT, but must be INT"),
        (
            "y = Softmax(x) {axes=1}",
            '"": 20',
            r"attribute 'axes' is unknown, not one of \['axis'\]",
        ),
        ("y = ReduceSum(x) {axes=[1]}", '"": 13', "attribute 'axes' is unknown"),
        ("y = Softmax(x) {axis=ref a: INT}", '"": 20', "refers to 'a', but not in a function"),
    ],
)
def test_broken_calls_are_rejected(statement, opset, message):
    rejects(model_of(f"graph g(x: float32) -> (y) {{ {statement} }}", opset), message)


def test_a_good_call_does_not_excuse_a_bad_one():
    good = "graph g(x: float32) -> (y) { h = Softmax(x) {axis=1} y = Add(h, x) }"
    verify(model_of(good))
    rejects(model_of(good.replace("axis=1", "axis=1.0")), "must be INT")
    rejects(model_of(good.replace("Add(h, x)", "Add(h, _)")), "required input 1")


@pytest.mark.parametrize(
    ("call", "parameter", "message"),
    [
        ("fn::F(x, x) {k=1}", "k", "2 inputs are given, but 0 to 1 are allowed"),
        ("fn::F(x)", "k", "required attribute 'k' is missing"),
        ("fn::F(x) {k=1}", "other", r"refers to 'other', not one of \['k'\]"),
    ],
)
def test_broken_function_calls_are_rejected(call, parameter, message):
    model = model_of(f"""
        graph g(x: float32) -> (y) {{ y = {call} }}
        function fn::F(a) -> (b) with {{opset={{"": 20}}, attributes={{k=undefined}}}} {{
          b = Softmax(a) {{axis=ref {parameter}: INT}}
        }}
    """)
    rejects(model, message)


def test_function_body_is_checked_with_its_own_imports():
    model = model_of("""
        graph g(x: float32) -> (y) { y = fn::F(x) }
        function fn::F(a) -> (b) with {opset={"": 17}} { b = Gelu(a) }
    """)
    rejects(model, "'Gelu' is defined from opset 20 on, but 17 is imported, .* function 'fn::F'")


def test_subgraph_nodes_are_checked():
    model = branches()
    branch(model, "then_branch").node("p").domain = "com.example"
    rejects(model, "domain 'com.example' is not imported")


# --- the message and the time --------------------------------------------------------------------


def test_message_shows_the_neighbours():
    lines = [f'v{i} = Relu({f"v{i - 1}" if i else "x"}) @"n{i}"' for i in range(10)]
    model = model_of("graph g(x: float32) -> (v9) {\n" + "\n".join(lines) + "\n}")
    model.graph.node("n5").replace_input_with(0, onnx_ir.Value(name="ghost"))
    shown = rejects(model, "ghost").splitlines()[1:]
    assert shown == [
        "    " + lines[2],
        "    " + lines[3],
        "    " + lines[4],
        '  > v5 = Relu(ghost) @"n5"',
        "    " + lines[6],
        "    " + lines[7],
        "    " + lines[8],
    ]


def test_a_long_chain_is_verified_without_recursion():
    nodes, value = [], onnx_ir.Value(name="x", type=FLOAT)
    graph_input = value
    for _ in range(1000):
        nodes.append(onnx_ir.node("Softmax", [value], {"axis": -1}))
        nodes.append(onnx_ir.node("Relu", nodes[-1].outputs))
        value = nodes[-1].outputs[0]
    graph = onnx_ir.Graph([graph_input], [value], nodes=nodes, opset_imports={"": 20})
    model = onnx_ir.Model(graph, ir_version=10)
    verify(model)
    nodes[1500].replace_input_with(0, onnx_ir.Value(name="nowhere", type=FLOAT))
    with pytest.raises(InvalidModel, match="nowhere"):
        verify(model)
