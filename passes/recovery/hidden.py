"""Values inside a model that have a counterpart in the original."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir

from whet.ir.values import dimensions, is_constant, is_op

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["hidden_pairs"]

_MOST = 16
_ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Gelu", "HardSwish", "Sigmoid", "Tanh", "Clip", "Elu",
                "Swish", "Mish", "QuickGelu")  # fmt: skip


def hidden_pairs(
    model: onnx_ir.Model, original: onnx_ir.Model, context: "Context"
) -> list[tuple[str, str]]:
    """Return names (now, originally) of sums of branches that have equal shapes in both; of activations without any.

    A value that a pass put in another's place stands for that one. At most sixteen, evenly spaced.
    """
    old = {v.name: v for node in original.graph for v in node.outputs if v.name}
    for candidates in (_sums(model.graph), _activations(model.graph)):
        pairs = [
            (value.name or "", name)
            for value in candidates
            if (name := context.lineage.get(value.name or "", value.name or "")) in old
            and _alike(value, old[name])
        ]
        if pairs:
            return _spread(pairs)
    return []


def _sums(graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    """Return additions of two computed values."""
    return [
        node.outputs[0]
        for node in graph
        if is_op(node, "Add") and not any(is_constant(v) for v in node.inputs)
    ]


def _activations(graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    return [node.outputs[0] for node in graph if is_op(node, *_ACTIVATIONS)]


def _alike(new: onnx_ir.Value, old: onnx_ir.Value) -> bool:
    """Tell whether two values are real numbers of one known shape, and no outputs of the model."""
    if new.is_graph_output() or new.dtype is None or not new.dtype.is_floating_point():
        return False
    shape = dimensions(new)
    return shape is not None and shape == dimensions(old)


def _spread(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return some of the pairs, evenly spaced, the last one among them."""
    step = max(1, -(-len(pairs) // _MOST))
    return list(pairs[::-1][::step])[::-1]
