"""Compute what is computed twice once."""

import dataclasses
import hashlib
from collections.abc import Hashable
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Proposal
from whet.passes.purity import is_deterministic
from whet.passes.workbench import Workbench

_Kind = onnx_ir.AttributeType


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
            first = seen.setdefault(_key(node), node)
            if first is not node:
                _merge(first, node, work)


def _merge(first: onnx_ir.Node, node: onnx_ir.Node, work: Workbench) -> None:
    work.coverage.matched += 1
    pairs = list(zip(node.outputs, first.outputs, strict=True))
    if node.op_type == "Identity" and all(o.is_graph_output() for pair in pairs for o in pair):
        work.decline(node, "both are outputs of the graph, each under its own name")
        return
    used = tuple((old, new) for old, new in pairs if old.uses() or old.is_graph_output())
    if used and all(new.name for _, new in used):
        work.propose(Proposal((node, first), used))


def _key(node: onnx_ir.Node) -> Hashable:
    attributes = node.attributes
    found = () if not attributes else tuple((k, _value(attributes[k])) for k in sorted(attributes))
    inputs = tuple(0 if value is None else id(value) for value in node.inputs)
    return node.op_type, node.domain, inputs, len(node.outputs), found


def _value(attribute: onnx_ir.Attr) -> Hashable:
    """Return something equal for equal bits: NaN equals NaN, 0.0 differs from -0.0."""
    if attribute.is_ref():
        return attribute.ref_attr_name
    if attribute.type == _Kind.FLOAT:
        return np.float32(attribute.as_float()).tobytes()
    if attribute.type == _Kind.FLOATS:
        return np.asarray(attribute.as_floats(), dtype=np.float32).tobytes()
    if attribute.type == _Kind.INTS:
        return tuple(attribute.as_ints())
    if attribute.type == _Kind.STRINGS:
        return tuple(attribute.as_strings())
    if attribute.type == _Kind.TENSOR:
        return _tensor(attribute.as_tensor())
    if attribute.type in {_Kind.INT, _Kind.STRING}:
        return attribute.as_int() if attribute.type == _Kind.INT else attribute.as_string()
    return id(attribute)


def _tensor(tensor: onnx_ir.TensorProtocol) -> Hashable:
    shape = tuple(tensor.shape.numpy())
    if tensor.dtype == onnx_ir.DataType.STRING:
        return id(tensor)
    data = tensor.tobytes()
    return tensor.dtype, shape, data if len(data) <= 64 else hashlib.sha256(data).digest()
