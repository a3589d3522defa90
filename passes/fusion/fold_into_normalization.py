"""Fold scales, shifts and casts behind a normalization into it."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant, is_constant, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.forms import known_rank
from whet.passes.fusion.normalization import NORMALIZED, along, axis_of, narrowed, normalized_shape
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class FoldIntoNormalization(Pass):
    """Fold what follows a LayerNormalization or RMSNormalization into its scale and bias.

    - ``(s n(x) + b) * c`` becomes ``(s c) n(x) + (b c)``, and division alike;
    - ``(s n(x) + b) + c`` becomes ``s n(x) + (b + c)``, and subtraction alike, where the operator has a bias;
    - ``Cast(n(Cast(x)))`` to and from float becomes ``n(x)`` in the narrow type: the operator computes in float itself.

    Computed in float64. Declines for constants that do not lie along the normalized axes alone, or that the narrow
    type would round.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Fold into every normalization until nothing more follows it that could be."""
        waiting = work.nodes(*NORMALIZED)[::-1]
        while waiting:
            norm = waiting.pop()
            made = _visit(norm, work) if is_op(norm, *NORMALIZED) else None
            if made is not None:
                waiting.append(made)


def _visit(norm: onnx_ir.Node, work: Workbench) -> onnx_ir.Node | None:
    """Fold one reader; return the new normalization."""
    for reader in norm.outputs[0].consumers():
        if reader.graph is work.graph and _is_foldable(norm, reader):
            return _fold(norm, reader, work)
    return None


def _is_foldable(norm: onnx_ir.Node, reader: onnx_ir.Node) -> bool:
    """Tell whether the reader scales, shifts or casts back to the type that the input was cast from."""
    if is_op(reader, "Cast"):
        source = _cast_from(norm)
        target = attribute_int(reader, "to", 0)
        return source is not None and source.dtype in _NARROW and target == source.dtype
    shifts = norm.op_type == "LayerNormalization"
    commutes = is_op(reader, "Mul", "Add")
    if not is_op(reader, "Mul", "Div", *(("Add", "Sub") if shifts else ())):
        return False
    if reader.inputs[0] is not norm.outputs[0] and not commutes:
        return False
    return is_constant(_constant_operand(norm, reader))


_NARROW = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


def _cast_from(norm: onnx_ir.Node) -> onnx_ir.Value | None:
    x = norm.inputs[0]
    node = None if x is None else x.producer()
    return node.inputs[0] if node is not None and is_op(node, "Cast") else None


def _constant_operand(norm: onnx_ir.Node, reader: onnx_ir.Node) -> onnx_ir.Value | None:
    return reader.inputs[1 if reader.inputs[0] is norm.outputs[0] else 0]


def _fold(norm: onnx_ir.Node, reader: onnx_ir.Node, work: Workbench) -> onnx_ir.Node | None:
    work.coverage.matched += 1
    build = work.builder(reader)
    try:
        _check(norm)
        new = _folded(norm, reader, build)
    except Mismatch as reason:
        work.decline(reader, str(reason))
        return None
    outputs = ((reader.outputs[0], new),)
    cast = _cast_from(norm) if is_op(reader, "Cast") else None
    old = [reader, norm]
    if cast is not None and norm.inputs[0] is not None:
        inner = norm.inputs[0].producer()
        old += [] if inner is None else [inner]
    made = Proposal(tuple(old), outputs, tuple(build.nodes), tuple(build.initializers))
    return build.nodes[-1] if work.propose(made) else None


def _check(norm: onnx_ir.Node) -> None:
    """Decline where the normalization gives away more than its result, or computes in a narrow type."""
    y = norm.outputs[0]
    if len(y.uses()) > 1 or y.is_graph_output():
        raise Mismatch(f"{norm.op_type} '{norm.name}' is read elsewhere too")
    if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        raise Mismatch("its mean or deviation is read too")
    if attribute_int(norm, "stash_type", 1) != int(onnx_ir.DataType.FLOAT):
        raise Mismatch("it computes in another type than float")


def _folded(norm: onnx_ir.Node, reader: onnx_ir.Node, build: Builder) -> onnx_ir.Value:
    """Return the normalization with the new scale and bias."""
    x = _cast_from(norm) if is_op(reader, "Cast") else norm.inputs[0]
    if x is None or x.dtype is None:
        raise Mismatch("the type of the input is not known")
    scale, bias = _parameters(norm, reader, x)
    inputs = [x, build.constant(narrowed(scale, x.dtype))]
    if bias is not None:
        inputs.append(build.constant(narrowed(bias, x.dtype)))
    return build.op(norm.op_type, *inputs, attributes=dict(norm.attributes.items()))


def _parameters(
    norm: onnx_ir.Node, reader: onnx_ir.Node, x: onnx_ir.Value
) -> tuple[Floats, Floats | None]:
    """Return the new scale and bias."""
    size, given = known_rank(x), _array(norm.inputs[1], "the scale")
    shape = normalized_shape(x, axis_of(norm, size), given, "the scale")
    scale, bias = along(given, size, shape, "the scale"), None
    if len(norm.inputs) > 2 and norm.inputs[2] is not None:
        bias = along(_array(norm.inputs[2], "the bias"), size, shape, "the bias")
    if reader.op_type == "Cast":
        return scale, bias
    c = along(_array(_constant_operand(norm, reader), "the constant"), size, shape, "the constant")
    if reader.op_type in ("Add", "Sub"):
        shift = c if reader.op_type == "Add" else -c
        return scale, shift if bias is None else bias + shift
    scaled = _finite(scale, c, reader.op_type)
    return scaled, None if bias is None else _finite(bias, c, reader.op_type)


def _array(value: onnx_ir.Value | None, what: str) -> Array:
    array = constant(value)
    if array is None:
        raise Mismatch(f"{what} is computed at run time")
    return array


def _finite(array: Floats, c: Floats, kind: str) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = array * c if kind == "Mul" else array / c
    if not np.isfinite(found).all():
        raise Mismatch("the constant is zero where it divides, or not finite")
    return found
