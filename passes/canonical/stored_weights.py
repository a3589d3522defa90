"""Tell the forms in which weights are stored small from arithmetic on constants that is left to do.

Folding a decoding would write the large weight into the file; a runtime executes it once, when it loads. A decoding is
recognized by what it does, not by who wrote it:

- integers of less than a byte become wider;
- bits are shifted out of bytes into more bytes;
- two weights, or what they become when they are widened, are multiplied into a larger one (a factorization; an outer
  product of two vectors is arithmetic);
- numbers are scattered to places that are stored as distances (CumSum);
- what only such nodes read becomes wider, or a table that is looked up with decoded codes.
"""

import math

import onnx_ir

from whet.ir.values import is_constant, is_op, static_shape

__all__ = ["is_decoding"]

_PRODUCTS = ("MatMul", "Gemm")
_SCATTERS = ("ScatterElements", "ScatterND")
_LOOKUPS = ("Gather", "GatherElements")


def is_decoding(node: onnx_ir.Node) -> bool:
    """Tell whether ``node``, which reads constants only, makes a weight larger than it is stored."""
    if any(v is not None and v.dtype is not None and v.dtype.itemsize < 1 for v in node.inputs):
        return _bytes(node.outputs[0]) > sum(_bytes(v) for v in node.inputs)
    if is_op(node, "BitShift"):
        return _bytes(node.outputs[0]) > _bytes(node.inputs[0])
    if is_op(node, *_PRODUCTS):
        return _is_factorization(node)
    return is_op(node, "Cast", "ConstantOfShape", "CumSum") and _feeds_decodings(node)


def _is_factorization(node: onnx_ir.Node) -> bool:
    """Tell whether two weights of a common dimension beyond 1 make a larger one."""
    factors = node.inputs[:2]
    shapes = [static_shape(v) for v in (*factors, node.outputs[0])]
    if not all(_is_stored(v) for v in factors) or any(s is None or len(s) != 2 for s in shapes):
        return False
    left, right, product = (math.prod(s or ()) for s in shapes)
    return product > left + right and left * right > product


def _is_stored(value: onnx_ir.Value | None) -> bool:
    """Tell whether a value is a weight, as it is or widened."""
    if value is None or is_constant(value):
        return value is not None
    node = value.producer()
    return node is not None and is_op(node, "Cast") and is_constant(node.inputs[0])


def _feeds_decodings(node: onnx_ir.Node) -> bool:
    """Tell whether nobody but decodings reads what ``node`` makes larger."""
    value = node.outputs[0]
    if is_op(node, "Cast") and _bytes(value) <= _bytes(node.inputs[0]):
        return False
    return bool(value.uses()) and all(_decodes(use.node, value) for use in value.uses())


def _decodes(reader: onnx_ir.Node, value: onnx_ir.Value) -> bool:
    if is_op(reader, *_PRODUCTS):
        return _is_factorization(reader)
    if is_op(reader, *_LOOKUPS):
        return reader.inputs[0] is value and _is_decoded(reader.inputs[1])
    if is_op(reader, *_SCATTERS):
        places = None if reader.inputs[1] is None else reader.inputs[1].producer()
        return places is not None and is_op(places, "CumSum")
    return is_op(reader, "CumSum", "Reshape") and _feeds_decodings(reader)


def _is_decoded(value: onnx_ir.Value | None) -> bool:
    """Tell whether a value is not a constant, but made from nothing else."""
    node = None if value is None else value.producer()
    if node is None or not node.inputs:
        return False
    return all(v is None or is_constant(v) or _is_decoded(v) for v in node.inputs)


def _bytes(value: onnx_ir.Value | None) -> float:
    if value is None:
        return 0
    shape, kind = static_shape(value), value.dtype
    if shape is None or kind is None:
        return math.inf
    return math.prod(shape) * kind.itemsize
