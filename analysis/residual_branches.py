"""Find the branches of residual networks: what is computed from a value and then added to it.

``y = x + f(x)``: x is the *skip*, the addition the *joint*, f the *branch*. Normalizations may stand in front of the
branch (pre-norm) or behind the joint (post-norm), convolutions and attentions alike are branches.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import onnx_ir

from whet.analysis.channel_layout import is_linear
from whet.ir.values import dimensions, is_constant, is_op

__all__ = ["Branch", "Kind", "find_branches", "unread_without"]

Kind = Literal["attention", "mlp", "convolution"]
_ATTENTIONS = ("Attention", "Softmax")


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One branch between a skip and its joint."""

    joint: onnx_ir.Node
    skip: onnx_ir.Value
    result: onnx_ir.Value
    """What the joint adds to the skip."""
    nodes: tuple[onnx_ir.Node, ...]
    """What depends on the skip and leads to the result, in graph order."""
    linears: tuple[onnx_ir.Node, ...]
    """Those that multiply with a constant weight."""
    kind: Kind

    @property
    def output(self) -> onnx_ir.Value:
        """Return the sum."""
        return self.joint.outputs[0]


def find_branches(graph: onnx_ir.Graph) -> list[Branch]:
    """Return the innermost branches that multiply with weights, in graph order."""
    order = {node: k for k, node in enumerate(graph)}
    found: list[Branch] = []
    joints: set[onnx_ir.Node] = set()
    skips: dict[onnx_ir.Value, onnx_ir.Value] = {}
    for node in graph:
        branch = _branch(node, order, skips) if is_op(node, "Add") else None
        if branch is None or any(inner in joints for inner in branch.nodes):
            continue
        found.append(branch)
        joints.add(node)
        skips[branch.output] = branch.skip
    return found


def _branch(
    node: onnx_ir.Node,
    order: dict[onnx_ir.Node, int],
    skips: dict[onnx_ir.Value, onnx_ir.Value],
) -> Branch | None:
    left, right = node.inputs
    for skip, result in ((left, right), (right, left)):
        if skip is None or result is None or is_constant(skip) or is_constant(result):
            return None
        size = dimensions(node.outputs[0])
        if size is None or dimensions(skip) != size or dimensions(result) != size:
            return None
        # Where two branches are added one after the other, the second may read what the first one reads.
        sources = [skip, *([skips[skip]] if skip in skips else [])]
        nodes = _between(sources, result, order)
        linears = tuple(inner for inner in nodes if is_linear(inner))
        if linears:
            return Branch(node, skip, result, nodes, linears, _kind(nodes))
    return None


def _between(
    sources: Sequence[onnx_ir.Value], result: onnx_ir.Value, order: dict[onnx_ir.Node, int]
) -> tuple[onnx_ir.Node, ...]:
    """Return the nodes on the ways from the sources to the result, in graph order."""
    first = min(order.get(maker, -1) if (maker := v.producer()) else -1 for v in sources)
    above: set[onnx_ir.Node] = set()
    waiting = [result]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in sources or node is None or node in above or order.get(node, -1) < first:
            continue
        above.add(node)
        waiting += [v for v in node.inputs if v is not None]
    reached: set[onnx_ir.Value] = set(sources)
    found: list[onnx_ir.Node] = []
    for node in sorted(above, key=order.__getitem__):
        if any(v in reached for v in node.inputs if v is not None):
            found.append(node)
            reached.update(node.outputs)
    return tuple(found) if result in reached else ()


def _kind(nodes: Iterable[onnx_ir.Node]) -> Kind:
    kinds = {_role(node) for node in nodes}
    if "attention" in kinds:
        return "attention"
    return "convolution" if "convolution" in kinds else "mlp"


def _role(node: onnx_ir.Node) -> Kind | None:
    if is_op(node, *_ATTENTIONS) or "Attention" in node.op_type:
        return "attention"
    if is_op(node, "MatMul") and not any(is_constant(v) for v in node.inputs):
        return "attention" if not is_linear(node) else None
    return "convolution" if is_op(node, "Conv") else None


def unread_without(
    values: Iterable[onnx_ir.Value], kept: Iterable[onnx_ir.Value] = ()
) -> Iterator[onnx_ir.Node]:
    """Yield the nodes that nobody reads once nobody reads ``values`` any more, readers before what they read.

    ``kept`` values are read all the same.
    """
    gone: set[onnx_ir.Node] = set()
    dead, alive = set(values), set(kept)
    waiting = [node for value in values if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node in gone or not all(_unread(v, gone, dead, alive) for v in node.outputs):
            continue
        gone.add(node)
        yield node
        waiting += [maker for v in node.inputs if v is not None and (maker := v.producer())]


def _unread(
    value: onnx_ir.Value,
    gone: set[onnx_ir.Node],
    dead: set[onnx_ir.Value],
    alive: set[onnx_ir.Value],
) -> bool:
    if value in dead:
        return True
    unread = not value.is_graph_output() and value not in alive
    return unread and all(node in gone for node in value.consumers())
