"""Spell an approximation in a graph as what is stored and how it is decoded.

The decoding depends on constants only, so ONNX Runtime executes it once, when a session is made: the file keeps packed
bits, the kernels see an ordinary weight. ``fold-constants`` knows these forms and leaves them
(``passes/canonical/stored_weights.py``).
"""

import dataclasses
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.proposal import Attribute, Builder
from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Blocks,
    Codebook,
    LowRank,
    Outliers,
    Sum,
)
from whet.passes.quantization.packing import pack, place_values

__all__ = ["spell", "spell_integers"]

_FLOAT, _INT8, _UINT8, _INT32 = (
    onnx_ir.DataType.FLOAT,
    onnx_ir.DataType.INT8,
    onnx_ir.DataType.UINT8,
    onnx_ir.DataType.INT32,
)
_NIBBLES = 21
"""The opset from which Cast reads four-bit integers."""
_PACKED = 11
"""The opset that has BitShift, GatherElements and their kernels."""
_SCATTER_ADDS = 16
"""The opset from which ScatterElements can add."""


def spell_integers(
    build: Builder, codes: Array, bits: int, shape: Sequence[int], name: str, *, opset: int = 13
) -> onnx_ir.Value:
    """Return int8 (or uint8) values of ``shape`` that are stored in ``bits`` bits each, two's complement where signed.

    Four bits are ONNX's own int4 from opset 21 on; eight bits are stored as they are; all others, and four bits below
    that opset, take four nodes (see :mod:`whet.passes.quantization.packing`). Raises Mismatch below opset 11.
    """
    if bits == 8:
        return build.constant(codes.reshape(tuple(shape)), f"{name}.codes")
    to = _INT8 if codes.dtype.kind == "i" else _UINT8
    return _Storage(build, name, opset).codes(codes, bits, shape, to)


def spell(
    build: Builder,
    approximation: Approximation,
    name: str,
    *,
    shape: Sequence[int] | None = None,
    transposed: bool = False,
    opset: int = 13,
) -> onnx_ir.Value:
    """Return the float32 weight: the matrix [outputs, inputs], transposed or in ``shape`` where asked for.

    Raises Mismatch where ``opset`` lacks an operator.
    """
    storage = _Storage(build, name, opset)
    outputs, inputs = _size(approximation)
    if transposed:
        value = storage.matrix(approximation, (outputs, inputs))
        return build.op("Transpose", value, attributes={"perm": [1, 0]})
    return storage.matrix(approximation, tuple(shape or (outputs, inputs)))


def _size(approximation: Approximation) -> tuple[int, int]:
    match approximation:
        case Blocks() | Codebook():
            outputs, inputs = approximation.codes.shape
        case Outliers():
            outputs, inputs = approximation.shape
        case LowRank():
            outputs, inputs = len(approximation.left), approximation.right.shape[1]
        case Sum():
            return _size(approximation.parts[0])
        case _:
            raise TypeError(f"no storage for {type(approximation).__name__}")
    return outputs, inputs


@dataclasses.dataclass(frozen=True)
class _Storage:
    build: Builder
    name: str
    opset: int

    def matrix(self, approximation: Approximation, shape: tuple[int, ...]) -> onnx_ir.Value:
        """Return the decoded values in ``shape``."""
        match approximation:
            case Blocks():
                return self.blocks(approximation, shape)
            case Codebook():
                return self.codebook(approximation, shape)
            case LowRank():
                return self.low_rank(approximation, shape)
            case Outliers():
                zeros = self.build.op("ConstantOfShape", self.build.ints(*shape))
                return self.outliers(approximation, zeros, shape)
            case Sum():
                return self.sum(approximation, shape)
            case _:
                raise TypeError(f"no storage for {type(approximation).__name__}")

    def codes(
        self, codes: Array, bits: int, shape: Sequence[int], to: onnx_ir.DataType
    ) -> onnx_ir.Value:
        """Return integers of ``shape`` as ``to``, stored without gaps."""
        if self.opset < _PACKED:
            raise Mismatch(f"opset {self.opset} cannot take bits apart, opset {_PACKED} can")
        if bits == 4 and self.opset >= _NIBBLES:
            stored = self._nibbles(codes, tuple(shape))
            return self.build.op("Cast", stored, attributes={"to": int(to)})
        value = self._fitted(self._taken_apart(codes, bits), codes.size, shape)
        if to == _INT32:
            return value
        return self.build.op("Cast", value, attributes={"to": int(to)})

    def _nibbles(self, codes: Array, shape: tuple[int, ...]) -> onnx_ir.Value:
        kind = ml_dtypes.int4 if codes.dtype.kind == "i" else ml_dtypes.uint4
        label = self.build.fresh(f"{self.name}.codes")
        array = np.ascontiguousarray(codes).reshape(shape).astype(kind)
        return self.build.weight(onnx_ir.tensor(array, name=label), label)

    def _taken_apart(self, codes: Array, bits: int) -> onnx_ir.Value:
        """Return int32 ``[groups, 8, 1]``: every bit alone (shifted up, then down), then all times what they count."""
        packed = self.build.constant(pack(codes, bits), f"{self.name}.codes")
        up = self.build.constant(np.arange(7, -1, -1, dtype=np.uint8)[:, None], "bits.up")
        down = self.build.constant(np.asarray([7], np.uint8), "bits.down")
        alone = self.build.op("BitShift", packed, up, attributes={"direction": "LEFT"})
        alone = self.build.op("BitShift", alone, down, attributes={"direction": "RIGHT"})
        values = place_values(bits, signed=codes.dtype.kind == "i")
        return self.build.op("MatMulInteger", alone, self.build.constant(values, "bits.values"))

    def _fitted(self, value: onnx_ir.Value, count: int, shape: Sequence[int]) -> onnx_ir.Value:
        """Cut off what fills the last group, and bring the rest into shape."""
        if count % 8:
            flat = self.build.op("Reshape", value, self.build.ints(-1))
            value = self.build.op("Slice", flat, self.build.ints(0), self.build.ints(count))
        return self.build.op("Reshape", value, self.build.ints(*shape))

    def codebook(self, book: Codebook, shape: tuple[int, ...]) -> onnx_ir.Value:
        if len(book.table) == 1:
            codes = self.codes(book.codes, book.bits, shape, _INT32)
            table = self.wide(book.table[0], "table")
            return self.build.op("Gather", table, codes)
        codes = self.codes(book.codes, book.bits, book.codes.shape, _INT32)
        table = self.wide(book.table, "table")
        found = self.build.op("GatherElements", table, codes, attributes={"axis": 1})
        return self._shaped(found, book.codes.shape, shape)

    def blocks(self, blocks: Blocks, shape: tuple[int, ...]) -> onnx_ir.Value:
        """Spell (code - zero) * scale, in three dimensions where a row has several blocks."""
        outputs, inputs = blocks.codes.shape
        count = blocks.scales.shape[1]
        width = inputs if count == 1 else blocks.size
        filled = np.zeros((outputs, count * width), blocks.codes.dtype)
        filled[:, :inputs] = blocks.codes
        parts = (outputs, inputs) if count == 1 else (outputs, count, width)
        steps = self.codes(filled, blocks.bits, parts, _FLOAT)
        each = (*parts[:-1], 1)
        if blocks.zeros is not None:
            zeros = self.codes(blocks.zeros, blocks.bits, each, _FLOAT)
            steps = self.build.op("Sub", steps, zeros)
        scales = self.build.constant(blocks.scales.reshape(each), f"{self.name}.scale")
        real = self.build.op("Mul", steps, scales)
        if count * width == inputs:
            return self._shaped(real, parts, shape)
        rows = self.build.op("Reshape", real, self.build.ints(outputs, count * width))
        ends = self.build.ints(0), self.build.ints(inputs), self.build.ints(1)
        return self._shaped(self.build.op("Slice", rows, *ends), (outputs, inputs), shape)

    def low_rank(self, factors: LowRank, shape: tuple[int, ...]) -> onnx_ir.Value:
        left, right = self.wide(factors.left, "left"), self.wide(factors.right, "right")
        product = self.build.op("MatMul", left, right)
        return self._shaped(product, (len(factors.left), factors.right.shape[1]), shape)

    def outliers(
        self, outliers: Outliers, onto: onnx_ir.Value, shape: tuple[int, ...]
    ) -> onnx_ir.Value:
        """Add numbers at places, which are stored as the distances between them."""
        if self.opset < _SCATTER_ADDS:
            raise Mismatch(f"opset {self.opset} cannot add to places, opset {_SCATTER_ADDS} can")
        gaps = self.build.constant(_gaps(outliers), f"{self.name}.gaps")
        steps = self.build.op("Cast", gaps, attributes={"to": int(_INT32)})
        first = self.build.constant(np.asarray(0, np.int32))
        places = self.build.op("CumSum", steps, first)
        numbers = self.wide(outliers.numbers, "outliers")
        flat = self.build.op("Reshape", onto, self.build.ints(-1))
        how: dict[str, Attribute] = {"axis": 0, "reduction": "add"}
        found = self.build.op("ScatterElements", flat, places, numbers, attributes=how)
        return self.build.op("Reshape", found, self.build.ints(*shape))

    def sum(self, parts: Sum, shape: tuple[int, ...]) -> onnx_ir.Value:
        """Add what is dense, then scatter what is sparse onto it."""
        dense = [part for part in parts.parts if not isinstance(part, Outliers)]
        sparse = [part for part in parts.parts if isinstance(part, Outliers)]
        values = [self.matrix(part, shape) for part in dense or sparse[:1]]
        total = values[0]
        for value in values[1:]:
            total = self.build.op("Add", total, value)
        for part in sparse if dense else sparse[1:]:
            total = self.outliers(part, total, shape)
        return total

    def wide(self, array: Array, what: str) -> onnx_ir.Value:
        """Return stored reals as float32."""
        value = self.build.constant(array, f"{self.name}.{what}")
        if array.dtype == np.float32:
            return value
        return self.build.op("Cast", value, attributes={"to": int(_FLOAT)})

    def _shaped(
        self, value: onnx_ir.Value, now: Sequence[int], shape: Sequence[int]
    ) -> onnx_ir.Value:
        if tuple(now) == tuple(shape):
            return value
        return self.build.op("Reshape", value, self.build.ints(*shape))


def _gaps(outliers: Outliers) -> Array:
    """Return the distances between neighbouring places in row-major order, in the narrowest unsigned type."""
    rows = np.repeat(np.arange(outliers.shape[0]), outliers.counts.astype(np.intp))
    places = rows * outliers.shape[1] + outliers.columns.astype(np.int64)
    gaps = np.diff(places, prepend=0)
    return gaps.astype(np.min_scalar_type(int(gaps.max(initial=0))))
