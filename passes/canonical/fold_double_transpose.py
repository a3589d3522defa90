"""Merge a transpose with the one before it."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_ints
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite


@dataclasses.dataclass(frozen=True)
class FoldDoubleTranspose(Rewrite):
    """Replace ``Transpose(Transpose(x, p), q)`` by ``Transpose(x, p[q])``, or by ``x`` when ``q`` inverts ``p``."""

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("Transpose", op("Transpose", var("x"), name="inner"), name="outer"),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return one transpose or none."""
        inner = _permutation(found.node("inner"))
        outer = _permutation(found.node("outer"))
        merged = [inner[axis] for axis in outer]
        if merged == sorted(merged):
            return found["x"]
        return build.op("Transpose", found["x"], attributes={"perm": merged})


def _permutation(node: onnx_ir.Node) -> tuple[int, ...]:
    perm = attribute_ints(node, "perm")
    if perm is not None:
        return perm
    value = node.inputs[0]
    if value is None or value.shape is None:
        raise Mismatch("the default permutation of an unknown rank")
    return tuple(reversed(range(len(value.shape))))
