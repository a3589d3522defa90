"""Remove reshapes that keep the shape."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.ir.values import attribute_int, constant_ints, dimensions
from whet.passes.base import Fidelity
from whet.passes.forms import same_shape
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateReshapes(Rewrite):
    """Replace ``Reshape(x, s)``, ``Flatten(x)`` or ``Squeeze(x)`` by ``x`` where the shape stays the same.

    Either both shapes are known and equal, symbols by name, or ``s`` copies every size of ``x`` but one.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op(("Reshape", "Flatten", "Squeeze"), var("x"), name="reshape", open=True),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the shape stays."""
        if same_shape(found["x"], found.root.outputs[0]):
            return True
        return found.root.op_type == "Reshape" and _copies(found.root, found["x"])

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand."""
        return found["x"]


def _copies(node: onnx_ir.Node, x: onnx_ir.Value) -> bool:
    sizes, before = constant_ints(node.inputs[1]), dimensions(x)
    if sizes is None or before is None or len(sizes) != len(before):
        return False
    if 0 in sizes and attribute_int(node, "allowzero", 0):
        return False
    kept = [new in (0, old) for new, old in zip(sizes, before, strict=True)]
    others = [new for new, same in zip(sizes, kept, strict=True) if not same]
    return others in ([], [-1])
