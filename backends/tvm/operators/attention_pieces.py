"""What queries and keys of an attention are put together from: columns of several tensors, scaled and repeated."""

import dataclasses

import onnx_ir

from whet.backends.tvm.kernels.attention import Heads, Piece
from whet.backends.tvm.lowering import Lowering
from whet.ir.array import Array
from whet.ir.values import attribute_int, is_op

__all__ = ["Columns", "columns", "without_empty"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns that are a tensor of their own."""

    value: onnx_ir.Value
    width: int
    factor: float = 1.0

    def piece(self, low: Lowering) -> Piece:
        """Return how a kernel reads them; an axis of one is read again and again."""
        batch, heads, length, size = low.shape(self.value)
        strides = (heads * length * size, length * size, size)
        sizes = (batch, heads, length)
        own = [0 if n == 1 else s for n, s in zip(sizes, strides, strict=True)]
        return Piece(
            Heads((batch, heads, length, size), (own[0], own[1], own[2])), self.width, self.factor
        )


def columns(low: Lowering, value: onnx_ir.Value, factor: float = 1.0) -> tuple[Columns, ...]:
    """Return the columns that ``[batch, heads, length, size]`` consists of, through Concat, Mul and Expand."""
    shape = low.shape(value)
    node = value.producer()
    if node is None or low.known(value) is not None:
        return (Columns(value, shape[3], factor),)
    inputs = [v for v in node.inputs if v is not None]
    if is_op(node, "Concat") and attribute_int(node, "axis", 0) % 4 == 3:
        return tuple(c for v in inputs for c in columns(low, v, factor))
    if is_op(node, "Mul"):
        for one, other in (inputs, inputs[::-1]):
            number = low.known(other)
            if number is not None and number.size == 1 and low.shape(one) == shape:
                return columns(low, one, factor * float(number.item()))
    if is_op(node, "Expand") and _repeats_rows(low.shape(inputs[0]), shape):
        return (Columns(inputs[0], shape[3], factor),)
    return (Columns(value, shape[3], factor),)


def _repeats_rows(own: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(own) == 4 and own[3] == shape[3]


def without_empty(
    low: Lowering, q: tuple[Columns, ...], k: tuple[Columns, ...]
) -> tuple[tuple[Columns, ...], tuple[Columns, ...]]:
    """Leave out columns in front whose products are zero: they rounded a size up for another kernel."""
    while len(q) > 1 and len(k) > 1 and q[0].width == k[0].width:
        if not any(_zero(low.known(c.value)) for c in (q[0], k[0])):
            break
        q, k = q[1:], k[1:]
    return q, k


def _zero(array: Array | None) -> bool:
    return array is not None and not array.any()
