"""Store equal weights once."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.ir.residency import release
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.workbench import Workbench

_HEAD = 4096
"""Bytes by which weights are told apart before they are read whole."""
_PIECE = 1 << 22


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
    """Let equal weights of one type and shape be one; only those whose first bytes are equal are read whole."""
    heads = [_head(value) for value in group]
    alike = Counter(heads)
    first: dict[bytes, onnx_ir.Value] = {}
    merged = 0
    for value, head in zip(group, heads, strict=True):
        if alike[head] == 1:
            continue
        kept = first.setdefault(_digest(value), value)
        if kept is value or value.name is None:
            continue
        value.replace_all_uses_with(kept)
        del graph.initializers[value.name]
        merged += 1
    return merged


def _head(value: onnx_ir.Value) -> bytes:
    """Return the first bytes of a weight as it lies in memory or on disk."""
    return _flat(value)[:_HEAD].tobytes()


def _digest(value: onnx_ir.Value) -> bytes:
    """Return the digest of a weight, read in pieces."""
    data = _flat(value)
    found = hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        found.update(data[start : start + _PIECE].data)
    release([value])
    return found.digest()


def _flat(value: onnx_ir.Value) -> NDArray[np.uint8]:
    """Return the elements of a weight as bytes, without a copy where they are contiguous."""
    assert value.const_value is not None
    return np.ascontiguousarray(value.const_value.numpy()).reshape(-1).view(np.uint8)
