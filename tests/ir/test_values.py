import onnx
import onnx_ir

from whet.ir.values import captured, subgraphs

TEXT = """<ir_version: 10, opset_import: ["" : 18]>
g (bool t, float[N] x, float[N] z) => (float[N] y) {
    a = Relu(x)
    y = If (t) <
        then_branch = one () => (float[N] u) {
            b = Neg(a)
            u = If (t) <
                then_branch = two () => (float[N] p) { p = Add(b, z) },
                else_branch = three () => (float[N] q) { q = Neg(b) }
            >
        },
        else_branch = four () => (float[N] v) { v = Neg(x) }
    >
}"""


def test_what_subgraphs_read_from_outside() -> None:
    """Also from graphs inside graphs, and nothing of what these make themselves."""
    model = onnx_ir.from_proto(onnx.parser.parse_model(TEXT))
    relu, outer = model.graph
    assert [graph.name for graph in subgraphs(outer)] == ["one", "four"]
    assert {value.name for value in captured(outer)} == {"t", "a", "z", "x"}
    assert not list(captured(relu))
    (inner,) = [node for node in next(subgraphs(outer)) if node.op_type == "If"]
    assert {value.name for value in captured(inner)} == {"b", "z"}
