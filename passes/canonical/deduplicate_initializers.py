"""Store equal weights once."""

import dataclasses
import hashlib
from collections import defaultdict
from typing import ClassVar

import onnx_ir

from whet.passes.base import Change, Fidelity, Pass
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class DeduplicateInitializers(Pass):
    """Let the readers of a weight read an earlier one with the same type, shape and bytes.

    Only weights of equal type and shape are compared, by digest, each read once. Weights that a caller may override and
    weights that are outputs of the graph stay.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Group by type and shape, then by digest."""
        alike: dict[object, list[onnx_ir.Value]] = defaultdict(list)
        for value in work.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output():
                continue
            if tensor.dtype != onnx_ir.DataType.STRING:
                alike[tensor.dtype, tuple(tensor.shape.numpy())].append(value)
        for group in alike.values():
            if len(group) > 1:
                work.changed_by_hand(_merge(group, work.graph), "equal digests")


def _merge(group: list[onnx_ir.Value], graph: onnx_ir.Graph) -> int:
    first: dict[bytes, onnx_ir.Value] = {}
    merged = 0
    for value in group:
        kept = first.setdefault(_digest(value), value)
        if kept is value or value.name is None:
            continue
        value.replace_all_uses_with(kept)
        del graph.initializers[value.name]
        merged += 1
    return merged


def _digest(value: onnx_ir.Value) -> bytes:
    assert value.const_value is not None
    data = value.const_value.tobytes()
    return data if len(data) <= 64 else hashlib.sha256(data).digest()
