from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from whet.compiler import compile
from whet.ir.sites import find_enclosed


def branching() -> onnx.ModelProto:
    """Return a product in one branch, and two in the other, one of them in an If inside it."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "abcd"]
    plain = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"], "first")], "t", [], out[:1]
    )
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["b", "v"], ["c"], "third")], "i", [], out[2:3]
    )
    inner.initializer.append(numpy_helper.from_array(np.ones((4, 4), np.float32), "v"))
    same = helper.make_graph([helper.make_node("Neg", ["b"], ["d"], "neg")], "s", [], out[3:])
    deep = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["b"], "second"),
            helper.make_node("If", ["which"], ["e"], "choose", then_branch=inner, else_branch=same),
        ],
        "e",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N", 4])],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["which"], ["y"], "outer", then_branch=plain, else_branch=deep)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
            helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_layers_in_bodies_are_named_with_what_they_read() -> None:
    found = find_enclosed(onnx_ir.from_proto(branching()))
    assert [(e.owner, e.body, e.layers, e.bytes) for e in found] == [
        ("If 'outer'", "else_branch", ("MatMul second", "MatMul third"), 128),
        ("If 'outer'", "then_branch", ("MatMul first",), 64),
    ]
    assert str(found[0]) == (
        "inside If 'outer', body 'else_branch': left alone, MatMul x2, 128 bytes of constants"
    )


def test_the_report_says_what_no_pass_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(branching(), path)
    artifact = compile(path, measure=False, output=tmp_path / "out")
    assert artifact.report is not None
    text = " ".join(str(artifact.report).split())
    assert "not looked into inside If 'outer', body 'else_branch'" in text
    assert "MatMul second, MatMul third" in text
    exact = compile(path, recipe="exact", measure=False, output=tmp_path / "exact")
    assert "not looked into" not in str(exact.report)
    assert exact.report is not None
    assert len(exact.report.to_json()["enclosed"]) == 2
