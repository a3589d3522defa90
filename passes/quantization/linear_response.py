"""Find what computes a linear layer of another model, in whatever format, and which matrix it multiplies with.

The matrix is read off by running the product on the unit vectors, so nobody needs to know how it is stored.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir
from onnx import helper

from whet.errors import Mismatch
from whet.ir.execute import CannotRun, Executor, newest_ir_version
from whet.ir.values import attribute_float, constant, is_constant, is_op
from whet.passes.quantization.algorithms.approximation import Floats

__all__ = ["Product", "find_product", "response"]

_CONTRIB = "com.microsoft"
_SEEN_THROUGH = (
    "QuantizeLinear", "DequantizeLinear", "Relu", "LeakyRelu", "Clip", "Identity", "Add",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """Nodes that multiply a value with a matrix that depends on constants only."""

    node: onnx_ir.Node
    """The last of them."""
    reader: onnx_ir.Node
    """The first: what it reads is multiplied."""
    step: float = 1.0
    """A number that the product's own rounding of its input leaves exactly as it is."""

    @property
    def x(self) -> onnx_ir.Value:
        """Return what is multiplied."""
        value = self.reader.inputs[0]
        assert value is not None
        return value

    @property
    def y(self) -> onnx_ir.Value:
        """Return the product."""
        return self.node.outputs[0]

    @property
    def decoded(self) -> bool:
        """Tell whether the runtime decodes the matrix to float32 when it loads, and multiplies with that."""
        maker = self.node.inputs[1].producer() if self.node.inputs[1] is not None else None
        plain = is_op(self.node, "MatMul", "Gemm")
        plain = plain and attribute_float(self.node, "alpha", 1.0) == 1.0
        return plain and maker is not None and not is_op(maker, "DequantizeLinear")


def find_product(value: onnx_ir.Value) -> Product:
    """Return the product upstream of a value, behind a bias, an activation or a grid; raises Mismatch without one."""
    node = value.producer()
    while node is not None and is_op(node, *_SEEN_THROUGH):
        node = _data(node).producer()
    if node is None:
        raise Mismatch("no product stands for it any more")
    if is_op(node, "MatMul", "Gemm") or is_op(node, "MatMulNBits", domain=_CONTRIB):
        return Product(node, node)
    total = _integer_total(node)
    if total is None:
        raise Mismatch(f"what stands for it is made by {node.op_type}, no product")
    rounding = None if total.inputs[0] is None else total.inputs[0].producer()
    if rounding is None or not is_op(rounding, "DynamicQuantizeLinear", "QuantizeLinear"):
        raise Mismatch("the integers that it multiplies are computed")
    return Product(node, rounding, _step(rounding))


def _data(node: onnx_ir.Node) -> onnx_ir.Value:
    """Return the operand that is no number; raises Mismatch where a sum has two."""
    if not is_op(node, "Add"):
        assert node.inputs[0] is not None
        return node.inputs[0]
    found = [v for v in node.inputs if v is not None and not _is_fixed(v)]
    if len(found) != 1:
        raise Mismatch("what stands for it is a sum of two values")
    return found[0]


def _is_fixed(value: onnx_ir.Value) -> bool:
    node = value.producer()
    coded = node is not None and is_op(node, "DequantizeLinear") and is_constant(node.inputs[0])
    return coded or is_constant(value)


def _integer_total(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """Return the MatMulInteger in front of a Cast and the scales."""
    for value in node.inputs if is_op(node, "Mul") else ():
        cast = None if value is None else value.producer()
        if cast is None or not is_op(cast, "Cast") or cast.inputs[0] is None:
            continue
        total = cast.inputs[0].producer()
        if is_op(total, "MatMulInteger"):
            return total
    return None


def _step(rounding: onnx_ir.Node) -> float:
    """Return the largest point of a fixed grid; a grid that follows its input has 1."""
    scale, zero = (constant(v) for v in (*rounding.inputs, None, None)[1:3])
    if not is_op(rounding, "QuantizeLinear") or scale is None:
        return 1.0
    limits = np.iinfo(zero.dtype.name if zero is not None else "uint8")
    middle = 0 if zero is None else int(zero.reshape(-1)[0])
    ends = float(scale.max()) * (limits.max - middle), float(scale.max()) * (limits.min - middle)
    return max(ends, key=abs)


def response(model: onnx_ir.Model, product: Product, inputs: int) -> tuple[Floats, Floats]:
    """Return the matrix ``[outputs, inputs]`` that the product multiplies with, and what it adds ``[outputs]``.

    Raises Mismatch where it does not run alone.
    """
    probe = np.zeros((inputs + 1, inputs), np.float32)
    np.fill_diagonal(probe[1:], np.float32(product.step))
    try:
        (found,) = Executor(_alone(model, product)).run({product.x.name or "": probe})
    except CannotRun as error:
        raise Mismatch(f"the product does not run alone: {error}") from error
    rows: Floats = np.asarray(found, np.float32).reshape(inputs + 1, -1)
    matrix = np.divide(rows[1:] - rows[0], np.float32(product.step), dtype=np.float32)
    return np.ascontiguousarray(matrix.T), rows[0]


def _alone(model: onnx_ir.Model, product: Product) -> onnx.ModelProto:
    """Return a model of the product and everything that decodes its matrix."""
    nodes = set(_upstream(product))
    ordered = [node for node in model.graph if node in nodes]
    weights = {v.name or "": v for node in ordered for v in node.inputs if is_constant(v) and v}
    graph = helper.make_graph(
        [onnx_ir.serde.serialize_node(node) for node in ordered],
        "product",
        [helper.make_tensor_value_info(product.x.name or "", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(product.y.name or "", onnx.TensorProto.FLOAT, None)],
        [_tensor(name, value) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items()]
    version = min(model.ir_version or newest_ir_version(), newest_ir_version())
    return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def _tensor(name: str, value: onnx_ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = onnx_ir.serde.serialize_tensor(value.const_value)
    proto.name = name
    return proto


def _upstream(product: Product) -> Iterator[onnx_ir.Node]:
    """Yield the nodes between what is multiplied and the product; raises Mismatch where another value comes in."""
    waiting, seen = [product.node], set[onnx_ir.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        for value in node.inputs:
            if value is None or is_constant(value) or value is product.x:
                continue
            maker = value.producer()
            if maker is None:
                raise Mismatch(f"the product also reads '{value.name}', which is no constant")
            waiting.append(maker)
