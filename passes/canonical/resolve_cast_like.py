"""Write a CastLike as the Cast that it is."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Attribute, Builder
from whet.passes.rewrite import Rewrite


@dataclasses.dataclass(frozen=True)
class ResolveCastLike(Rewrite):
    """Replace ``CastLike(x, y)`` by ``Cast(x, to=type of y)``, or by ``x`` if that is its type already.

    Only the type of ``y`` matters, and it is known, so what ``x`` becomes no longer waits for ``y``.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op("CastLike", var("x"), var("y")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operand or a Cast of it."""
        x, target = found["x"], found["y"].dtype
        if target is None:
            raise Mismatch(f"the type of '{found['y'].name}' is not known")
        result = found.root.outputs[0]
        if x.dtype == target and not (result.is_graph_output() and x.producer() is None):
            return x
        attributes: dict[str, Attribute] = {**found.root.attributes, "to": int(target)}
        return build.op("Cast", x, attributes=attributes)
