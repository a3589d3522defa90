"""Let the emitters of a model's nodes write; whatever cannot be emitted is named all at once."""

import onnx_ir

from whet.backends.c.lowering import Lowering
from whet.backends.c.program import Buffer, Program, Tensor
from whet.backends.c.registry import Decline, refusal, registered
from whet.backends.facts import Facts
from whet.backends.reading import walk
from whet.errors import UnsupportedTarget

__all__ = ["emit"]

_TYPES = {
    onnx_ir.DataType.FLOAT, onnx_ir.DataType.BOOL,
    onnx_ir.DataType.INT8, onnx_ir.DataType.INT16, onnx_ir.DataType.INT32, onnx_ir.DataType.INT64,
    onnx_ir.DataType.UINT8, onnx_ir.DataType.UINT16, onnx_ir.DataType.UINT32, onnx_ir.DataType.UINT64,
}  # fmt: skip


def emit(facts: Facts) -> Program:
    """Return the program of a model of fixed sizes.

    Raises:
        UnsupportedTarget: nodes that cannot be emitted, with what would help.
    """
    try:
        low = Lowering(facts)
    except Decline as reason:
        raise UnsupportedTarget(f"target 'c' cannot emit the model: {reason}") from None
    declined = walk(low, registered(), _begin, _give_up)
    if declined:
        raise refusal(declined)
    try:
        return low.finish()
    except Decline as reason:
        raise UnsupportedTarget(f"target 'c' cannot emit the model: {reason}") from None


def _begin(low: Lowering, node: onnx_ir.Node) -> None:
    low.begin(node)
    for value in node.outputs:
        if value.dtype is not None and value.name and value.dtype not in _TYPES:
            raise Decline(
                f"'{value.name}' is {value.dtype.name}; float32, integers and truth values are supported"
            )
        if value.name and 0 in low.shape(value):
            raise Decline(f"'{value.name}' has no elements: {low.shape(value)}")


def _give_up(low: Lowering, node: onnx_ir.Node) -> None:
    """Let the nodes behind one that was declined be looked at too."""
    low.forget()
    for value in node.outputs:
        if value.name:
            array = low.facts.array(value)
            low.define(value, Tensor(array.shape, array.dtype, Buffer(value.name, array.nbytes)))
