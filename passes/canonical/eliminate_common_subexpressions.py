"""Compute what is computed twice once."""

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import onnx_ir

from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.purity import is_deterministic
from whet.passes.structural_key import attributes_key
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Replace a node by an earlier one with the same operator, attributes and inputs.

    Random operators, operators of other domains and operators with subgraphs are left alone.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Walk in graph order: inputs are merged before the nodes that read them are compared."""
        seen: dict[Hashable, onnx_ir.Node] = {}
        for node in work.nodes():
            if node.op_type == "Constant" or not is_deterministic(node):
                continue
            key = _key(node)
            if key is not None and seen.setdefault(key, node) is not node:
                _merge(seen[key], node, work)


def _merge(first: onnx_ir.Node, node: onnx_ir.Node, work: Workbench) -> None:
    work.coverage.matched += 1
    pairs = list(zip(node.outputs, first.outputs, strict=True))
    if node.op_type == "Identity" and all(o.is_graph_output() for pair in pairs for o in pair):
        work.decline(node, "both are outputs of the graph, each under its own name")
        return
    used = tuple((old, new) for old, new in pairs if old.uses() or old.is_graph_output())
    if used and all(new.name for _, new in used):
        work.propose(Proposal((node, first), used))


def _key(node: onnx_ir.Node) -> Hashable | None:
    attributes = attributes_key(node)
    if attributes is None:
        return None
    inputs = tuple(0 if value is None else id(value) for value in node.inputs)
    return node.op_type, node.domain, inputs, len(node.outputs), attributes
