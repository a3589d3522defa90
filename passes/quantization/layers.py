"""Weights of a graph as layers: matrices [outputs, inputs] with the Gram matrices of what they are multiplied with."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.activations import observe
from whet.errors import CalibrationError, Mismatch
from whet.ir.values import (
    Array,
    attribute_int,
    attribute_ints,
    attribute_string,
    constant,
    is_op,
    static_shape,
)
from whet.passes.quantization.approximation import Doubles, Layer

__all__ = ["Weight", "find_weights", "layers_of", "measure_grams"]

Feeds = Mapping[str, Array]
Grams = Mapping[onnx_ir.Value, Sequence[Doubles]]
_READERS = ("MatMul", "Gemm", "Conv", "Gather")
_ROWS = 1 << 14
"""Vectors of one batch that a Gram matrix is made of, evenly spread."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """A float32 weight and everything that reads it."""

    value: onnx_ir.Value
    readers: tuple[onnx_ir.Node, ...]
    transposed: bool
    """Whether the weight is stored as [inputs, outputs]."""
    groups: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the weight as it is stored."""
        shape = static_shape(self.value)
        assert shape is not None
        return shape

    def matrix(self) -> Array:
        """Return ``[outputs, inputs]``; the outputs of a grouped convolution one group after the other."""
        array = constant(self.value)
        assert array is not None
        return self.arranged(array)

    def arranged(self, array: Array) -> Array:
        """Return what has the shape of the weight as ``[outputs, inputs]``."""
        return array.T if self.transposed else array.reshape(len(array), -1)

    @property
    def products(self) -> tuple[onnx_ir.Node, ...]:
        """Return the readers that multiply with it."""
        return tuple(node for node in self.readers if node.op_type != "Gather")


def find_weights(
    nodes: Sequence[onnx_ir.Node],
) -> tuple[list[Weight], dict[onnx_ir.Node, str]]:
    """Return the weights of MatMul, Gemm and Conv, and why some of these nodes have none to offer."""
    found: dict[onnx_ir.Value, Weight] = {}
    refused: dict[onnx_ir.Node, str] = {}
    for node in nodes:
        if not is_op(node, "MatMul", "Gemm", "Conv"):
            continue
        try:
            value = _fixed(node)
            if value not in found:
                found[value] = _weight(value, node)
        except Mismatch as reason:
            refused[node] = str(reason)
    return list(found.values()), refused


def _fixed(node: onnx_ir.Node) -> onnx_ir.Value:
    value = node.inputs[1]
    if value is None or constant(value) is None:
        raise Mismatch("the second operand is not a constant")
    if value.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the weight is {value.dtype}, not float32")
    shape = static_shape(value) or ()
    if 0 in shape or (len(shape) != 2 if node.op_type != "Conv" else len(shape) < 3):
        raise Mismatch(f"the weight has shape {list(shape)}")
    return value


def _weight(value: onnx_ir.Value, node: onnx_ir.Node) -> Weight:
    if value.is_graph_output():
        raise Mismatch("the weight is an output of the model")
    readers = tuple(value.consumers())
    forms = {_form(reader, value) for reader in readers}
    forms.discard(None)
    if len(forms) > 1:
        raise Mismatch("its readers multiply with different sides of the weight")
    form = next(iter(forms))
    assert form is not None
    return Weight(value, readers, *form)


def _form(reader: onnx_ir.Node, value: onnx_ir.Value) -> tuple[bool, int] | None:
    """Return whether the reader sees the weight transposed, and its groups; None for a lookup."""
    if not is_op(reader, *_READERS) or reader.graph is not value.graph:
        raise Mismatch(f"the weight is also read by {reader.op_type} '{reader.name}'")
    if reader.op_type == "Gather" and reader.inputs[0] is value:
        return None
    if reader.op_type == "Gather" or list(reader.inputs).index(value) != 1:
        raise Mismatch(f"{reader.op_type} '{reader.name}' reads it as its other operand")
    if reader.op_type == "Conv":
        return False, attribute_int(reader, "group", 1)
    return not attribute_int(reader, "transB", 0), 1


def layers_of(weight: Weight, fit: Grams, held_out: Grams) -> list[Layer]:
    """Return one layer for each group."""
    parts = np.split(np.ascontiguousarray(weight.matrix(), np.float32), weight.groups)
    grams = fit.get(weight.value, [None] * weight.groups)
    judges = held_out.get(weight.value, [None] * weight.groups)
    return [
        Layer(part, gram, held_out=judge)
        for part, gram, judge in zip(parts, grams, judges, strict=True)
    ]


def measure_grams(
    model: onnx_ir.Model, weights: Sequence[Weight], batches: Sequence[Feeds], threads: int = 0
) -> dict[onnx_ir.Value, list[Doubles]]:
    """Return the mean of x xᵀ over all products of each weight, for each group; empty without batches.

    Raises CannotRun, and CalibrationError where a value is not finite.
    """
    wanted: dict[str, list[tuple[Weight, onnx_ir.Node]]] = {}
    for weight in weights if batches else ():
        for node in weight.products:
            operand = node.inputs[0]
            assert operand is not None
            wanted.setdefault(operand.name or "", []).append((weight, node))
    sums: dict[onnx_ir.Value, tuple[list[Doubles], int]] = {}
    for name, array in observe(model, sorted(wanted), batches, threads=threads):
        if not np.isfinite(array).all():
            raise CalibrationError(f"calibration data: '{name}' inside the model is not finite")
        for weight, node in wanted[name]:
            vectors = list(_vectors(node, array, weight))
            products = [v.T @ v for v in vectors]
            old, count = sums.get(weight.value, ([], 0))
            total = [a + b for a, b in zip(old, products, strict=True)] if old else products
            sums[weight.value] = total, count + len(vectors[0])
    return {value: [t / max(count, 1) for t in total] for value, (total, count) in sums.items()}


def _vectors(node: onnx_ir.Node, array: Array, weight: Weight) -> Iterator[Doubles]:
    """Yield what each group's matrix is multiplied with, ``[count, inputs]``."""
    if node.op_type == "Conv":
        yield from _patches(node, array, weight)
        return
    rows = array.T if attribute_int(node, "transA", 0) else array.reshape(-1, array.shape[-1])
    yield rows[_spread(len(rows))].astype(np.float64)


def _patches(node: onnx_ir.Node, array: Array, weight: Weight) -> Iterator[Doubles]:
    kernel = weight.shape[2:]
    rank = len(kernel)
    ones = (1,) * rank
    strides = attribute_ints(node, "strides", ones) or ones
    dilations = attribute_ints(node, "dilations", ones) or ones
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    pads = _pads(node, array.shape[2:], spans, strides)
    padded = np.pad(array, [(0, 0), (0, 0), *pads])
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, 2 + rank)))
    every = (slice(None), slice(None))
    steps = (slice(None, None, s) for s in strides)
    inner = (slice(None, None, d) for d in dilations)
    windows = np.moveaxis(windows[(*every, *steps, *inner)], 1, 1 + rank)
    places = windows.shape[: 1 + rank]
    chosen = windows[np.unravel_index(_spread(math.prod(places)), places)]
    for part in np.split(chosen, weight.groups, axis=1):
        yield part.reshape(len(part), -1).astype(np.float64)


def _pads(
    node: onnx_ir.Node,
    sizes: tuple[int, ...],
    spans: tuple[int, ...],
    strides: tuple[int, ...],
) -> list[tuple[int, int]]:
    rank = len(sizes)
    kind = attribute_string(node, "auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        pads = attribute_ints(node, "pads", (0,) * 2 * rank) or (0,) * 2 * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))
    whole = [
        max((-(-n // s) - 1) * s + span - n, 0)
        for n, s, span in zip(sizes, strides, spans, strict=True)
    ]
    upper = kind == "SAME_UPPER"
    return [(w // 2, w - w // 2) if upper else (w - w // 2, w // 2) for w in whole]


def _spread(count: int) -> Array:
    """Return evenly spread numbers below ``count``, at most as many as are taken of a batch."""
    return np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(np.int64))
