"""What emitters of every target ask about a model, and the walk over its nodes."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import onnx_ir

from whet.backends.emitters import Decline
from whet.backends.facts import Facts
from whet.ir.array import Array

__all__ = ["Reading", "walk"]


class Reading:
    """One model on its way to code."""

    def __init__(self, facts: Facts) -> None:
        """Begin with nothing done."""
        self.facts = facts
        self.done: set[onnx_ir.Node] = set()
        """Nodes that the code of another node computes."""

    def shape(self, value: onnx_ir.Value | None) -> tuple[int, ...]:
        """Return the shape of a value."""
        assert value is not None
        return tuple(int(d) for d in self.facts.array(value).shape)

    def known(self, value: onnx_ir.Value | None) -> Array | None:
        """Return the elements of a value that does not depend on the inputs; None for all others."""
        return self.facts.known(value)

    def required(self, value: onnx_ir.Value | None, what: str) -> Array:
        """Return the elements of a constant; raises Decline, which names it as ``what``."""
        found = self.known(value)
        if found is None:
            raise Decline(f"{what} must be constant")
        return found

    def sole_reader(self, value: onnx_ir.Value) -> onnx_ir.Node | None:
        """Return the only node that reads a value; None if there are others or it is an output."""
        uses = list(value.uses())
        if value.is_graph_output() or len(uses) != 1:
            return None
        node = uses[0].node
        return node if node.graph is self.facts.model.graph else None


Low = TypeVar("Low", bound=Reading)


def walk(
    low: Low,
    emitters: Mapping[str, Callable[[Low, onnx_ir.Node], None]],
    begin: Callable[[Low, onnx_ir.Node], None],
    give_up: Callable[[Low, onnx_ir.Node], None],
) -> dict[str, str]:
    """Let every node be written, in order; return those that were declined, with the reasons.

    ``begin`` declines values that there is no code for; ``give_up`` lets the nodes behind a declined one be looked at.
    """
    declined: dict[str, str] = {}
    for node in low.facts.model.graph:
        if node in low.done or all(v in low.facts.fixed for v in node.outputs):
            continue
        try:
            begin(low, node)
            if node.domain not in {"", "ai.onnx"} or node.op_type not in emitters:
                raise Decline("there is no emitter for this operator")
            emitters[node.op_type](low, node)
        except Decline as reason:
            declined[f"{node.op_type} '{node.name}'"] = str(reason)
            give_up(low, node)
    return declined
