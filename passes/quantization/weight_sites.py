"""Find what reads a fixed matrix: products and lookups, and those that read the same one together."""

import dataclasses
from collections.abc import Iterable

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_int,
    attribute_ints,
    constant,
    dimensions,
    is_constant,
    is_op,
)
from whet.passes.quantization.linear import Linear, read_linear

__all__ = ["Reader", "Table", "read", "tables"]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A product x Wᵀ + b, or a lookup of rows of W; W is ``[outputs, inputs]``."""

    node: onnx_ir.Node
    operand: str
    """The name that x, or the indices, had when the reader was found."""
    weight: onnx_ir.Value
    turned: bool
    """Whether W is the transpose of the weight as it is in the model."""
    linear: Linear | None = None
    """None for a lookup."""
    between: onnx_ir.Node | None = None
    """A Transpose of the weight that the product reads."""

    @property
    def layout(self) -> tuple[bool, float]:
        """Return what tells apart the matrices that one weight stands for."""
        return self.turned, 1.0 if self.linear is None else self.linear.layout[1]

    @property
    def sizes(self) -> tuple[int, int]:
        """Return (outputs, inputs) of W."""
        assert self.weight.const_value is not None
        rows, columns = (int(d) for d in self.weight.const_value.shape.numpy())
        return (columns, rows) if self.turned else (rows, columns)

    def matrix(self) -> Array:
        """Return W in float32."""
        if self.linear is not None:
            return self.linear.matrix().T
        array = constant(self.weight)
        assert array is not None
        return array

    @property
    def current(self) -> onnx_ir.Value:
        """Return what the node reads now: an earlier rewrite may have replaced the operand."""
        value = self.node.inputs[0 if self.linear is not None else 1]
        assert value is not None
        return value


@dataclasses.dataclass(frozen=True)
class Table:
    """One weight and everything that reads it."""

    weight: onnx_ir.Value
    readers: tuple[Reader, ...]

    @property
    def is_tied(self) -> bool:
        """Tell whether products and lookups share it."""
        return len({reader.linear is None for reader in self.readers}) > 1

    def obstacle(self) -> str:
        """Return why the float weight would stay in the file all the same, or an empty string."""
        if self.weight.is_graph_output():
            return "the weight is an output of the model"
        known = {reader.node for reader in self.readers}
        between = {reader.between for reader in self.readers if reader.between is not None}
        for node in (
            *self.weight.consumers(),
            *(n for t in between for n in t.outputs[0].consumers()),
        ):
            if node not in known and node not in between:
                return f"the weight is also read by {node.op_type} '{node.name}'"
        for node in between:
            if node.outputs[0].is_graph_output():
                return "the transposed weight is an output of the model"
        return ""


def read(node: onnx_ir.Node) -> Reader:
    """Return the reader that a MatMul, Gemm or Gather is; raises Mismatch with what is not supported."""
    if node.op_type == "Gather":
        return _lookup(node)
    between = _transpose(node)
    if between is None:
        site = read_linear(node)
        turned = not site.layout[0]
        return Reader(node, site.x.name or "", site.weight, turned, site)
    x, weight = node.inputs[0], between.inputs[0]
    assert weight is not None
    if x is None or x.dtype != onnx_ir.DataType.FLOAT or weight.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the operands are {x and x.dtype} and {weight.dtype}, not float32")
    site = Linear(node, x, weight, (True, 1.0), None, 1.0)
    return Reader(node, x.name or "", weight, False, site, between)


def _transpose(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the Transpose of a fixed matrix that a MatMul reads."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Transpose") or not is_op(node, "MatMul"):
        return None
    source = producer.inputs[0]
    if not is_constant(source) or len(dimensions(source) or ()) != 2:
        return None
    return producer if attribute_ints(producer, "perm", (1, 0)) == (1, 0) else None


def _lookup(node: onnx_ir.Node) -> Reader:
    table, ids = node.inputs[0], node.inputs[1]
    if table is None or ids is None or constant(table) is None:
        raise Mismatch("the table is not a constant")
    if table.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the table is {table.dtype}, not float32")
    if len(dimensions(table) or ()) != 2:
        raise Mismatch(f"the table has {len(dimensions(table) or ())} dimensions, not 2")
    axis = attribute_int(node, "axis", 0)
    if axis not in (0, -2):
        raise Mismatch(f"it gathers along axis {axis}, not 0")
    return Reader(node, ids.name or "", table, False)


def tables(readers: Iterable[Reader]) -> list[Table]:
    """Return the weights in the order in which they are first read."""
    found: dict[onnx_ir.Value, list[Reader]] = {}
    for reader in readers:
        found.setdefault(reader.weight, []).append(reader)
    return [Table(weight, tuple(together)) for weight, together in found.items()]
