"""Remove what nobody reads."""

import dataclasses
from typing import ClassVar

import onnx
import onnx_ir

from whet.passes.base import Change, Fidelity, Pass
from whet.passes.proposal import remove_unread
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes and initializers that nobody reads, and the names of optional outputs that nobody reads.

    Inputs of the graph always stay, those that have a default value too. What a subgraph captures is read.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Remove nodes from the end to the front, then what became unread."""
        count = remove_unread(reversed(work.graph))
        count += sum(_drop_outputs(node, work.opset) for node in work.graph)
        count += _remove_initializers(work.graph)
        work.changed_by_hand(count, "nobody reads it")


def _remove_initializers(graph: onnx_ir.Graph) -> int:
    unread = [
        name
        for name, value in graph.initializers.items()
        if not (value.uses() or value.is_graph_output() or value.is_graph_input())
    ]
    for name in unread:
        del graph.initializers[name]
    return len(unread)


def _drop_outputs(node: onnx_ir.Node, opset: int) -> int:
    """Cut unread optional outputs off the end; empty the names of those in front of a read one."""
    if len(node.outputs) < 2 or node.domain not in ("", "ai.onnx"):
        return 0
    optional = _optional_outputs(node, opset)
    unread = [
        value
        for value, may_go in zip(node.outputs, optional, strict=False)
        if may_go and value.name and not (value.uses() or value.is_graph_output())
    ]
    for value in unread:
        value.name = ""
    last = max(k for k, value in enumerate(node.outputs) if value.name or k == 0)
    surplus = len(node.outputs) - (last + 1)
    if surplus:
        node.resize_outputs(last + 1)
    return max(len(unread), surplus)


def _optional_outputs(node: onnx_ir.Node, opset: int) -> list[bool]:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return []
    kind = onnx.defs.OpSchema.FormalParameterOption.Optional
    return [output.option == kind for output in schema.outputs]
