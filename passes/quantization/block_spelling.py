"""Spell products and lookups on packed weights by ONNX Runtime's kernels for them."""

import dataclasses

import numpy as np
import onnx_ir

from whet.ir.values import Array
from whet.passes.proposal import Builder
from whet.passes.quantization.algorithms.formats import IntegerFormat
from whet.passes.quantization.block_storage import PackedBlocks

__all__ = ["Shelf", "as_integers", "look_up", "multiply", "shelve"]

_MICROSOFT = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A packed weight in the graph."""

    stored: PackedBlocks
    codes: onnx_ir.Value
    scales: onnx_ir.Value
    zeros: onnx_ir.Value | None


def shelve(build: Builder, stored: PackedBlocks, name: str) -> Shelf:
    """Add the arrays of a packed weight."""
    zeros = None
    if stored.zeros is not None:
        zeros = build.constant(stored.zeros, f"{name}.zero")
    return Shelf(
        stored,
        build.constant(stored.codes, f"{name}.int{stored.bits}"),
        build.constant(stored.scales, f"{name}.scale"),
        zeros,
    )


def multiply(build: Builder, x: onnx_ir.Value, shelf: Shelf, level: int) -> onnx_ir.Value:
    """Return x Wᵀ by MatMulNBits; ``level`` 4 rounds the activations to eight bits, 0 leaves them as they are."""
    stored = shelf.stored
    attributes = {
        "K": stored.inputs,
        "N": stored.outputs,
        "bits": stored.bits,
        "block_size": stored.size,
        "accuracy_level": level,
    }
    operands = [x, shelf.codes, shelf.scales, *([] if shelf.zeros is None else [shelf.zeros])]
    return build.op("MatMulNBits", *operands, domain=_MICROSOFT, attributes=attributes)


def look_up(build: Builder, shelf: Shelf, ids: onnx_ir.Value) -> onnx_ir.Value:
    """Return rows of W by GatherBlockQuantized, which takes only tables whose blocks are full."""
    stored = shelf.stored
    rows = build.op("Reshape", shelf.codes, build.ints(stored.outputs, -1))
    attributes = {
        "bits": stored.bits,
        "block_size": stored.size,
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    operands = [rows, ids, shelf.scales, *([] if shelf.zeros is None else [shelf.zeros])]
    return build.op("GatherBlockQuantized", *operands, domain=_MICROSOFT, attributes=attributes)


def as_integers(
    build: Builder, turned: onnx_ir.Value, scales: Array, fmt: IntegerFormat
) -> onnx_ir.Value:
    """Return a decoded weight as integers with one scale per column, for kernels that multiply integers."""
    steps = build.op("Round", build.op("Div", turned, build.constant(scales)))
    if fmt.zero:
        steps = build.op("Add", steps, build.constant(np.asarray(fmt.zero, np.float32)))
    kind = int(onnx_ir.DataType.from_numpy(np.dtype(fmt.dtype)))
    return build.op("Cast", steps, attributes={"to": kind})
