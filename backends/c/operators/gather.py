"""Gather: embeddings and rows; an index out of range is an error, never a read beyond the table."""

import math

import numpy as np
import onnx_ir

from whet.backends.c.forms import pointer
from whet.backends.c.lowering import Lowering
from whet.backends.c.program import Grid
from whet.backends.c.registry import Decline, emits
from whet.backends.c.spelling import c_type
from whet.backends.c.weights import narrowed, quantized
from whet.ir.values import attribute_int

__all__ = ["emit_gather"]


@emits("Gather", note="tables of int8 stay int8; a bad index makes the run return 1")
def emit_gather(low: Lowering, node: onnx_ir.Node) -> None:
    """Copy the rows that indices name."""
    table = node.inputs[0]
    assert table is not None
    shape = low.shape(table)
    axis = attribute_int(node, "axis", 0) % len(shape)
    outer, size, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    stored = quantized(low, table) if low.known(table) is not None else None
    scale = None if stored is None else stored.along(axis)
    form = low.form(table)
    parameters, value = [pointer("x", low.tensor(table))], "x[{0}]"
    kind, grid = low.tensor(table).dtype, form.grid
    if stored is not None and stored.scale.size == 1 and narrowed(stored.integers).dtype == np.int8:
        kind = np.dtype(np.int8)
        grid = Grid(float(stored.scale.reshape(-1)[0]), 0, kind)
        parameters = [pointer("x", low.constant(narrowed(stored.integers), f"{table.name}"))]
    elif stored is not None and scale is not None and np.abs(stored.integers).max(initial=0) < 128:
        kind, grid = np.dtype(np.float32), None
        codes = low.constant(stored.integers.astype(np.int8), f"{table.name}")
        scales = low.constant(np.ascontiguousarray(scale, np.float32), f"scales of {table.name}")
        parameters = [pointer("x", codes), pointer("scale", scales)]
        value = "(float)x[{0}] * scale[at]"
    indices = low.tensor(node.inputs[1])
    if indices.dtype.kind not in "iu":
        raise Decline(f"the indices are {indices.dtype}, expected integers")
    result = low.make(low.shape(node.outputs[0]), kind)
    parameters += [pointer("indices", indices), pointer("y", result, written=True)]
    body = _body(outer, size, inner, indices.size, value, c_type(indices.dtype))
    known = None if indices.array is None else indices.array.astype(np.int64)
    if known is not None and (known.min(initial=0) < -size or known.max(initial=0) >= size):
        raise Decline(f"an index is outside the {size} rows")
    low.call("gather", parameters, body, fails=True)
    low.define(node.outputs[0], result, grid=grid)


def _body(outer: int, size: int, inner: int, count: int, value: str, kind: str) -> str:
    return f"""
    for (int o = 0; o < {outer}; ++o) {{
    for (int k = 0; k < {count}; ++k) {{
    const {kind} given = indices[k];
    const int at = (int)(given < 0 ? given + {size} : given);
    if (given < -{size} || given >= {size}) {{
    return 1;
    }}
    for (int i = 0; i < {inner}; ++i) {{
    y[(o * {count} + k) * {inner} + i] = {value.format(f"(o * {size} + at) * {inner} + i")};
    }}
    }}
    }}
    """
