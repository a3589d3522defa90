"""Which weights of a model training may move, and why the others stay."""

import dataclasses
import enum
from collections.abc import Iterable

import numpy as np
import onnx_ir

from whet.ir.values import constant, is_op

__all__ = ["Kind", "Tunable", "find_tunable"]


class Kind(enum.Enum):
    """Say what a weight is to the operators that read it."""

    MATRIX = "matrix"
    """The weight of a product, a convolution, a recurrence."""
    VECTOR = "vector"
    """A bias, the scale or shift of a normalization, a slope: one number for each channel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tunable:
    """A weight that training may move; several operators may read it."""

    value: onnx_ir.Value
    kind: Kind

    @property
    def name(self) -> str:
        """Return its name."""
        return self.value.name or ""


_FLOATS = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16,
           onnx_ir.DataType.DOUBLE)  # fmt: skip
_MATRICES = {"Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1),
             "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}  # fmt: skip
_VECTORS = {
    "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LSTM": (3,), "GRU": (3,), "RNN": (3,),
    "LayerNormalization": (1, 2), "RMSNormalization": (1,), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "PRelu": (1,),
}  # fmt: skip
_PER_CHANNEL = ("Add", "Sub", "Mul")
_LARGEST = 1e4
"""Numbers beyond this are masks, not shifts."""


def find_tunable(
    graph: onnx_ir.Graph, chosen: Iterable[onnx_ir.Node]
) -> tuple[list[Tunable], dict[str, str]]:
    """Return the weights that only ``chosen`` nodes read, each in a role that is known, and why others are left out.

    A weight that several operators read is one weight. What decodes stored integers, codebooks and sparse weights
    (operators on constants alone) stays, and so do tables that are looked up: samples reach few of their rows.
    """
    reader = _Reader(graph, frozenset(chosen))
    found: list[Tunable] = []
    refused: dict[str, str] = {}
    for value in graph.initializers.values():
        if not _is_real(value):
            continue
        kind = reader.kind(value)
        if isinstance(kind, Kind):
            found.append(Tunable(value, kind))
        elif kind:
            refused[value.name or ""] = kind
    return found, refused


def _is_real(value: onnx_ir.Value) -> bool:
    """Tell whether it is a floating-point weight of at least two elements that no caller overrides."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or value.is_graph_output():
        return False
    return onnx_ir.DataType(tensor.dtype) in _FLOATS and tensor.size > 1


class _Reader:
    """Reads what weights are from who reads them."""

    def __init__(self, graph: onnx_ir.Graph, chosen: frozenset[onnx_ir.Node]) -> None:
        self._graph, self._chosen = graph, chosen
        self._fixed = _fixed(graph)

    def kind(self, value: onnx_ir.Value) -> Kind | str:
        """Return the kind, or why it is left alone; nothing to say of constants that are no weights."""
        kinds: set[Kind] = set()
        for node, index in value.uses():
            if node.graph is not self._graph:
                return "a subgraph reads it"
            kind = self._role(value, node, index)
            if kind is None:
                is_table = is_op(node, "Gather") or bool(kinds)
                return f"{node.op_type} '{node.name}' reads it" if is_table else ""
            if node not in self._chosen:
                return f"'{node.name}', which is to be left alone, reads it"
            kinds.add(kind)
        if not kinds:
            return ""
        return Kind.MATRIX if Kind.MATRIX in kinds else Kind.VECTOR

    def _role(self, value: onnx_ir.Value, node: onnx_ir.Node, index: int) -> Kind | None:
        if node.domain not in ("", "ai.onnx") or all(v in self._fixed for v in node.outputs):
            return None
        if index in _MATRICES.get(node.op_type, ()):
            return Kind.MATRIX
        if index in _VECTORS.get(node.op_type, ()):
            return Kind.VECTOR
        per_channel = node.op_type in _PER_CHANNEL and _is_vector(value)
        return Kind.VECTOR if per_channel else None


def _fixed(graph: onnx_ir.Graph) -> set[onnx_ir.Value]:
    """Return the values that depend on constants only."""
    found = {v for v in graph.initializers.values() if not v.is_graph_input()}
    for node in graph:
        if node.inputs and all(v is None or v in found for v in node.inputs):
            found.update(node.outputs)
    return found


def _is_vector(value: onnx_ir.Value) -> bool:
    """Tell whether one axis is longer than one, and the numbers are those of a shift or a scale."""
    array = constant(value)
    if array is None or sum(size > 1 for size in array.shape) != 1:
        return False
    return bool(np.max(np.abs(array.astype(np.float64)), initial=0.0) <= _LARGEST)
