"""Fuse matrix products with the bias behind them and the transposes before them."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, attribute_ints, dimensions, rank
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Attribute, Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_FLOATS = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"}
_TURNED = op("Transpose", var("t"), name="transpose")


@dataclasses.dataclass(frozen=True)
class FuseGemm(Rewrite):
    """Merge two-dimensional products into Gemm, ``alpha A' B' + beta C`` with ``A'`` and ``B'`` maybe transposed.

    - ``MatMul(a, b) + c`` and ``Gemm(a, b) + c`` become ``Gemm(a, b, c)``;
    - a transposed operand of MatMul or Gemm becomes ``transA`` or ``transB``.

    The runtime packs a constant operand of either operator once, so the transposed copy and the separate addition are
    saved. Declines unless both operands surely have rank 2 and ``c`` broadcasts to the product without changing its
    shape.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op(
            "Add",
            op(("MatMul", "Gemm"), var("a"), var("b"), name="product", sole=True),
            var("c"),
            commutative=True,
        ),
        op(("MatMul", "Gemm"), _TURNED, var("b"), name="product", open=True),
        op(("MatMul", "Gemm"), var("a"), _TURNED, name="product", open=True),
    )

    def check(self, found: Match, work: Workbench) -> None:
        """Decline unless this is a product of two matrices of floats."""
        if work.opset < (7 if found.root.op_type == "Add" else 11):
            raise Mismatch(f"Gemm at opset {work.opset} has other rules for its bias")
        product = found.node("product")
        for value in product.inputs[:2]:
            if rank(value) != 2:
                known = "unknown" if rank(value) is None else rank(value)
                raise Mismatch(f"the rank of '{value.name if value else ''}' is {known}, not 2")
        dtype = product.inputs[0].dtype if product.inputs[0] is not None else None
        if dtype is None or dtype.name not in _FLOATS:
            raise Mismatch(f"the operands are {dtype.name if dtype else 'of unknown type'}")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return one Gemm."""
        product = found.node("product")
        if found.root is not product:
            return _with_bias(found, product, build)
        index = 0 if product.inputs[0] is found.node("transpose").outputs[0] else 1
        if attribute_ints(found.node("transpose"), "perm", (1, 0)) != (1, 0):
            raise Mismatch("the transpose keeps the order of the axes")
        flag = ("transA", "transB")[index]
        attributes: dict[str, Attribute] = dict(product.attributes)
        attributes[flag] = 1 - attribute_int(product, flag, 0)
        inputs = list(product.inputs)
        inputs[index] = found["t"]
        return build.op("Gemm", *inputs, attributes=attributes)


def _with_bias(found: Match, product: onnx_ir.Node, build: Builder) -> onnx_ir.Value:
    rows, columns = _sizes(product)
    bias = found["c"]
    sizes = dimensions(bias)
    if sizes is None or len(sizes) > 2:
        raise Mismatch(f"the rank of the bias '{bias.name}' is {rank(bias) or 'unknown'}")
    for size, wanted in zip(reversed(sizes), (columns, rows), strict=False):
        if size != 1 and (size is None or size != wanted):
            shape = f"({rows}, {columns})"
            raise Mismatch(f"the bias of shape {sizes} is not known to broadcast to {shape}")
    attributes: dict[str, Attribute] = dict(product.attributes)
    attributes.pop("beta", None)
    return build.op("Gemm", found["a"], found["b"], bias, attributes=attributes)


def _sizes(product: onnx_ir.Node) -> tuple[int | str | None, int | str | None]:
    """Return the numbers of rows and columns of a product of two matrices."""
    left, right = dimensions(product.inputs[0]), dimensions(product.inputs[1])
    assert left is not None
    assert right is not None
    return left[attribute_int(product, "transA", 0)], right[1 - attribute_int(product, "transB", 0)]
