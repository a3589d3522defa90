"""Remove casts that change nothing and merge a cast with one before it that loses nothing."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.ir.values import attribute_int
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_D = onnx_ir.DataType
_FLOAT_BITS = {_D.BFLOAT16: (8, 8), _D.FLOAT16: (11, 5), _D.FLOAT: (24, 8), _D.DOUBLE: (53, 11)}
"""Bits of the significand and of the exponent."""
_INTEGER_BITS = {
    _D.INT8: (8, True),
    _D.INT16: (16, True),
    _D.INT32: (32, True),
    _D.INT64: (64, True),
    _D.UINT8: (8, False),
    _D.UINT16: (16, False),
    _D.UINT32: (32, False),
    _D.UINT64: (64, False),
}


@dataclasses.dataclass(frozen=True)
class EliminateCasts(Rewrite):
    """Replace ``Cast(x, T)`` by ``x`` when ``x`` is a T, and ``Cast(Cast(x, A), B)`` by ``Cast(x, B)``.

    The second only where A holds every value of ``x`` and casting from A means the same as casting from the type of
    ``x``: float to double to half, int8 to int64 to float; never float to int to float.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op("Cast", op("Cast", var("x"), name="inner"), name="outer"),
        op("Cast", var("x"), name="outer"),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether one of the casts is superfluous."""
        source = found["x"].dtype
        target = _target(found.root)
        if source is None:
            return False
        if "inner" not in found.named:
            return source == target
        return mergeable(source, _target(found.node("inner")), target)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand, cast once if its type differs."""
        target = _target(found.root)
        if found["x"].dtype == target:
            return found["x"]
        return build.op("Cast", found["x"], attributes={"to": int(target)})


def _target(node: onnx_ir.Node) -> onnx_ir.DataType:
    return onnx_ir.DataType(attribute_int(node, "to", 0))


def mergeable(source: onnx_ir.DataType, middle: onnx_ir.DataType, to: onnx_ir.DataType) -> bool:
    """Tell whether source -> middle -> to equals source -> to, bit for bit."""
    if not _holds(middle, source):
        return False
    if to == source or _holds(to, source):
        return True
    if source in _FLOAT_BITS and middle in _FLOAT_BITS:
        return to in _FLOAT_BITS or to in _INTEGER_BITS or to == _D.BOOL
    if source in _INTEGER_BITS and middle in _INTEGER_BITS:
        return to in _FLOAT_BITS or to in _INTEGER_BITS or to == _D.BOOL
    return source in _INTEGER_BITS and to == _D.BOOL


def _holds(wide: onnx_ir.DataType, narrow: onnx_ir.DataType) -> bool:
    """Tell whether every value of ``narrow`` is a value of ``wide``."""
    if wide == narrow:
        return wide in _FLOAT_BITS or wide in _INTEGER_BITS or wide == _D.BOOL
    if narrow == _D.BOOL:
        return wide in _FLOAT_BITS or wide in _INTEGER_BITS
    if narrow in _FLOAT_BITS:
        bits = zip(_FLOAT_BITS.get(wide, (0, 0)), _FLOAT_BITS[narrow], strict=True)
        return all(have >= need for have, need in bits)
    if narrow not in _INTEGER_BITS:
        return False
    size, signed = _INTEGER_BITS[narrow]
    if wide in _FLOAT_BITS:
        return _FLOAT_BITS[wide][0] >= size - signed and (wide != _D.FLOAT16 or size < 16)
    if wide not in _INTEGER_BITS:
        return False
    room, negative = _INTEGER_BITS[wide]
    return room - negative >= size - signed and (negative or not signed)
