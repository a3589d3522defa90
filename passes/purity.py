"""Tell which nodes always give the same result for the same inputs."""

import onnx_ir

from whet.ir.values import attribute_int, constant

__all__ = ["has_subgraph", "is_deterministic", "is_random", "is_standard", "may_train"]

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_GRAPHS = frozenset({onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS})


def is_standard(node: onnx_ir.Node) -> bool:
    """Tell whether ONNX itself defines the operator; everything else is an opaque barrier."""
    return node.domain in _STANDARD


def has_subgraph(node: onnx_ir.Node) -> bool:
    """Tell whether the node holds graphs (If, Loop, Scan, SequenceMap)."""
    return any(attribute.type in _GRAPHS for attribute in node.attributes.values())


def is_deterministic(node: onnx_ir.Node) -> bool:
    """Tell whether equal inputs give equal outputs, as far as the standard says so.

    False for random operators, for Dropout and BatchNormalization in training form, for operators of other domains and
    for operators with subgraphs.
    """
    if not is_standard(node) or has_subgraph(node) or node.op_type in _RANDOM:
        return False
    if node.op_type == "Dropout":
        return not may_train(node)
    return node.op_type != "BatchNormalization" or attribute_int(node, "training_mode", 0) == 0


def is_random(node: onnx_ir.Node) -> bool:
    """Tell whether the node draws random numbers."""
    if not is_standard(node):
        return False
    return node.op_type in _RANDOM or (node.op_type == "Dropout" and may_train(node))


def may_train(node: onnx_ir.Node) -> bool:
    """Tell whether a Dropout may drop anything: it is in training mode, or the mode is computed."""
    if "is_test" in node.attributes:
        return attribute_int(node, "is_test", 0) == 0
    if _opset(node) < 7:
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = constant(node.inputs[2])
    return mode is None or bool(mode.any())


def _opset(node: onnx_ir.Node) -> int:
    graph = node.graph
    return 23 if graph is None else graph.opset_imports.get("", 23)
