"""Remove operators that move data from a place to the same place."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant, constant_ints, static_shape
from whet.passes.base import Fidelity
from whet.passes.forms import axes_of, from_zero, integers_of, opset_of, same_shape
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


@dataclasses.dataclass(frozen=True)
class EliminateNoopMovement(Rewrite):
    """Replace a node by its operand where it is a Split into one, a Pad by nothing, a Tile or reduction of ones.

    A reduction gives its operand back when it keeps its axes and each has the size 1, or when it has no axes and is
    told to do nothing then. A Where gives back the side that a constant condition always takes, if its shape is that
    of the result.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op(("Split", "Pad", "Tile", *_REDUCTIONS), var("x"), open=True),
        op("Where", var("condition"), var("x"), var("y")),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the data stay."""
        return _source(found) is not None

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand."""
        source = _source(found)
        assert source is not None
        return source


def _source(found: Match) -> onnx_ir.Value | None:
    node = found.root
    if node.op_type == "Where":
        return _taken_side(found)
    test = _reduces_nothing if node.op_type in _REDUCTIONS else _TESTS[node.op_type]
    try:
        return found["x"] if test(node) else None
    except Mismatch:
        return None


def _taken_side(found: Match) -> onnx_ir.Value | None:
    condition = constant(found["condition"])
    if condition is None or condition.size == 0 or condition.any() != condition.all():
        return None
    side = found["x"] if condition.all() else found["y"]
    return side if same_shape(side, found.root.outputs[0]) else None


def _splits_into_one(node: onnx_ir.Node) -> bool:
    return len(node.outputs) == 1


def _pads_nothing(node: onnx_ir.Node) -> bool:
    if opset_of(node) < 2:
        return False
    return not any(integers_of(node, "pads", 1) or (1,))


def _tiles_once(node: onnx_ir.Node) -> bool:
    if opset_of(node) < 6:
        return False
    repeats = constant_ints(node.inputs[1])
    return repeats is not None and all(count == 1 for count in repeats)


def _reduces_nothing(node: onnx_ir.Node) -> bool:
    axes = axes_of(node)
    if not axes and attribute_int(node, "noop_with_empty_axes", 0):
        return True
    shape = static_shape(node.inputs[0])
    if shape is None or not attribute_int(node, "keepdims", 1):
        return False
    inside = from_zero(axes, len(shape)) if axes else tuple(range(len(shape)))
    return all(shape[axis] == 1 for axis in inside)


_TESTS: Mapping[str, Callable[[onnx_ir.Node], bool]] = {
    "Split": _splits_into_one,
    "Pad": _pads_nothing,
    "Tile": _tiles_once,
}
