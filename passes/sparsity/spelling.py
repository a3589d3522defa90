"""Spell a sparse array in a graph as what is stored and the nodes that decode it when the runtime loads."""

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.array import Array
from whet.passes.proposal import Builder
from whet.passes.quantization.storage import spell_integers
from whet.passes.sparsity.algorithms.encoding import Bitmask, Distances, Encoding

__all__ = ["OVERHEAD", "spell_sparse"]

OVERHEAD = 1400
"""Bytes that nodes and names of a decoding take in the file, about."""
_SINCE = 11
"""The opset that has CumSum, ScatterElements and BitShift."""
_INT32 = int(onnx_ir.DataType.INT32)


def spell_sparse(build: Builder, found: Encoding, name: str, *, opset: int) -> onnx_ir.Value:
    """Return the array, decoded from constants.

    A mask turns into places in the table of what is stored by counting its ones: table[cumsum(mask) * mask], with the
    background at place 0. Distances turn into places by adding them up. Raises Mismatch below opset 11.
    """
    if opset < _SINCE:
        raise Mismatch(f"opset {opset} cannot add up places, opset {_SINCE} can")
    if isinstance(found, Bitmask):
        return _masked(build, found, name, opset)
    assert isinstance(found, Distances)
    return _scattered(build, found, name, opset)


def _masked(build: Builder, found: Bitmask, name: str, opset: int) -> onnx_ir.Value:
    first = np.full((1, found.height * found.width), found.background)
    table = np.concatenate([first, found.numbers])
    size = found.height * found.width
    shape = (len(table),) if size == 1 else table.shape
    stored = _numbers(build, table, shape, found.bits, name, opset)
    mask = _integers(build, found.mask, 1, f"{name}.mask", opset)
    places = build.op("Mul", _added_up(build, mask), mask)
    units = build.op("Gather", stored, places)
    if found.height > 1 and found.width < int(np.prod(found.shape[1:])):
        rows, columns = found.mask.shape
        parts = build.ints(rows, columns, found.height, found.width)
        units = build.op("Reshape", units, parts)
        units = build.op("Transpose", units, attributes={"perm": [0, 2, 1, 3]})
    return build.op("Reshape", units, build.ints(*found.shape))


def _scattered(build: Builder, found: Distances, name: str, opset: int) -> onnx_ir.Value:
    gaps = _integers(build, found.gaps, found.gap_bits, f"{name}.gaps", opset)
    numbers = _numbers(build, found.numbers, (len(found.numbers),), found.bits, name, opset)
    fill = onnx_ir.tensor(found.background.reshape(1), name="value")
    count = build.ints(int(np.prod(found.shape)))
    empty = build.op(
        "ConstantOfShape", count, attributes={"value": onnx_ir.AttrTensor("value", fill)}
    )
    how = {"axis": 0}
    full = build.op("ScatterElements", empty, _added_up(build, gaps), numbers, attributes=how)
    return build.op("Reshape", full, build.ints(*found.shape))


def _integers(build: Builder, codes: Array, bits: int, name: str, opset: int) -> onnx_ir.Value:
    """Return the codes as int32 in one dimension."""
    stored = spell_integers(build, codes, bits, (codes.size,), name, opset=min(opset, 20))
    return build.op("Cast", stored, attributes={"to": _INT32})


def _added_up(build: Builder, steps: onnx_ir.Value) -> onnx_ir.Value:
    return build.op("CumSum", steps, build.constant(np.asarray(0, np.int32)))


def _numbers(
    build: Builder, numbers: Array, shape: tuple[int, ...], bits: int, name: str, opset: int
) -> onnx_ir.Value:
    if bits < numbers.dtype.itemsize * 8:
        return spell_integers(build, numbers, bits, shape, name, opset=min(opset, 20))
    return build.constant(numbers.reshape(shape), f"{name}.stored")
