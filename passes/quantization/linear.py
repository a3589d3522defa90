"""Read MatMul and Gemm with a fixed weight as one thing: y = x W + b."""

import dataclasses
import math

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_float, attribute_int, constant, dimensions
from whet.passes.workbench import Workbench

__all__ = ["Linear", "linear_sites", "read_linear"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """y = x W + b with a fixed W of shape [inputs, outputs]."""

    node: onnx_ir.Node
    x: onnx_ir.Value
    weight: onnx_ir.Value
    """As it is in the model."""
    layout: tuple[bool, float]
    """Whether W is the weight transposed, and what it is multiplied by."""
    bias: onnx_ir.Value | None
    beta: float

    @property
    def sizes(self) -> tuple[int, int]:
        """Return (inputs, outputs)."""
        assert self.weight.const_value is not None
        rows, columns = (int(d) for d in self.weight.const_value.shape.numpy())
        return (columns, rows) if self.layout[0] else (rows, columns)

    def matrix(self) -> Array:
        """Return W in float32."""
        array = constant(self.weight)
        assert array is not None
        transposed, alpha = self.layout
        matrix = array.T if transposed else array
        return matrix if alpha == 1 else np.multiply(matrix, alpha, dtype=np.float32)


def read_linear(node: onnx_ir.Node) -> Linear:
    """Return the parts of a MatMul or Gemm; raises Mismatch with what is not supported."""
    x, weight = node.inputs[0], node.inputs[1]
    if weight is None or constant(weight) is None:
        raise Mismatch("the second operand is not a constant")
    if x is None or x.dtype != onnx_ir.DataType.FLOAT or weight.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the operands are {x and x.dtype} and {weight.dtype}, not float32")
    if len(dimensions(weight) or ()) != 2:
        raise Mismatch(f"the weight has {len(dimensions(weight) or ())} dimensions, not 2")
    if node.op_type == "MatMul":
        return Linear(node, x, weight, (False, 1.0), None, 1.0)
    if attribute_int(node, "transA", 0):
        raise Mismatch("the activation is transposed")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    beta = attribute_float(node, "beta", 1.0)
    layout = (bool(attribute_int(node, "transB", 0)), attribute_float(node, "alpha", 1.0))
    return Linear(node, x, weight, layout, None if beta == 0 else bias, beta)


def linear_sites(work: Workbench, minimum: int) -> list[Linear]:
    """Return every MatMul and Gemm with a fixed weight of ``minimum`` elements; count all, and decline the others."""
    found: list[Linear] = []
    for node in work.nodes("MatMul", "Gemm"):
        work.coverage.matched += 1
        try:
            site = read_linear(node)
            if math.prod(site.sizes) < minimum:
                raise Mismatch(f"{math.prod(site.sizes)} weights, fewer than {minimum}")
        except Mismatch as reason:
            work.decline(node, str(reason))
            continue
        found.append(site)
    return found
