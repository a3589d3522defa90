"""Choose SkipLayerNormalization and SkipSimplifiedLayerNormalization."""

import dataclasses

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int, is_constant, rank
from whet.passes.onnxruntime.choice import (
    MICROSOFT,
    Choice,
    Spelled,
    demand_float32,
    demand_vector,
)
from whet.passes.pattern import Match, Op, Pattern, maybe, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes


def _normalized(x: Pattern) -> Op:
    total = op("Add", x, var("skip"), name="sum", commutative=True)
    kinds = ("LayerNormalization", "RMSNormalization")
    return op(kinds, total, weight("scale"), maybe("shift"), name="norm")


_BIASED = op("Add", var("x"), weight("bias"), name="biased", sole=True, commutative=True)
_OPERATORS = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}


@dataclasses.dataclass(frozen=True)
class ChooseSkipNorm(Choice):
    """Spell ``norm(x + skip)`` and ``norm(x + bias + skip)`` as one operator, the sum being one of its outputs.

    The runtime takes x of shape (batch, length, size) or (rows, size), normalized over its last axis, and skip of x's
    shape or without the batch. It fuses by itself only where x has rank 3, nobody else reads the sum, and the norm is
    not of the root mean square.
    """

    patterns = (_normalized(_BIASED), _normalized(var("x")))

    def applies(self, found: Match) -> bool:
        """Tell a skip connection from a bias or a scalar."""
        sums = found.node("sum").inputs
        return not any(is_constant(v) and (rank(v) or 0) < 2 for v in sums)

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator, placed where the sum was: its readers may come before the norm."""
        norm, total = found.node("norm"), found.node("sum").outputs[0]
        x, skip = _in_order(found["x"], found["skip"], total, shapes)
        demand_float32(x, skip, *norm.inputs[1:])
        _check_norm(norm, total, shapes)
        _check_shapes(x, skip, shapes)
        size = shapes.first(x)[-1]
        vectors = (found["scale"], found.get("shift"), found.get("bias"))
        for value in vectors:
            if value is not None:
                demand_vector(value, size, shapes)
        scale, shift, bias = vectors
        layer = norm.op_type == "LayerNormalization"
        inputs = (x, skip, scale, shift, bias) if layer else (x, skip, scale, bias)
        read_too = len(total.uses()) > 1 or total.is_graph_output()
        made = build.ops(
            _OPERATORS[norm.op_type],
            inputs,
            4 if read_too else 1,
            domain=MICROSOFT,
            attributes={"epsilon": attribute_float(norm, "epsilon", 1e-5)},
        )
        outputs = [(norm.outputs[0], made[0])]
        if read_too:
            made[1].name = made[2].name = ""
            outputs.append((total, made[3]))
        return Spelled(_OPERATORS[norm.op_type], tuple(outputs), found.node("sum"))


def _in_order(
    x: onnx_ir.Value, skip: onnx_ir.Value, total: onnx_ir.Value, shapes: SeenShapes
) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Return the operands, the one of the sum's shape first."""
    if shapes.every(x) == shapes.every(total):
        return x, skip
    if shapes.every(skip) != shapes.every(total):
        raise Mismatch(f"neither '{x.name}' nor '{skip.name}' has the shape of their sum")
    return skip, x


def _check_norm(norm: onnx_ir.Node, total: onnx_ir.Value, shapes: SeenShapes) -> None:
    count = len(shapes.first(total))
    axis = attribute_int(norm, "axis", -1)
    if axis % count != count - 1:
        raise Mismatch(f"it normalizes from axis {axis} on, not over the last one")
    if attribute_int(norm, "stash_type", 1) != 1:
        raise Mismatch("it does not compute in float32")
    if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        raise Mismatch("its mean or deviation is read")


def _check_shapes(x: onnx_ir.Value, skip: onnx_ir.Value, shapes: SeenShapes) -> None:
    for full, other in zip(shapes.every(x), shapes.every(skip), strict=True):
        if len(full) not in {2, 3}:
            raise Mismatch(f"'{x.name}' has rank {len(full)}, the operator takes 2 or 3")
        fits = [full, full[1:], (1, *full[1:])] if len(full) == 3 else [full]
        if other not in fits:
            raise Mismatch(f"'{skip.name}' of shape {other} is not broadcast to {full}")
