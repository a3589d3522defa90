"""Find mixtures of experts: follow what TopK picks to the lookups of stacked weights."""

import dataclasses

import onnx_ir

from whet.analysis.experts.experts import Experts, Stack
from whet.analysis.experts.routing import find_logits, route
from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_int,
    attribute_string,
    constant,
    constant_ints,
    dimensions,
    is_constant,
    is_op,
    rank,
    static_shape,
)

__all__ = ["Found", "find_experts"]

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity", "Transpose")
_ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")
_STACKS = (2, 3, 4, 5, 6, 7)
"""Operands of ORT's operator: weights and biases of fc1, fc2, fc3."""


@dataclasses.dataclass
class Found:
    """What is there: what is read, and what looks like experts but is not understood."""

    experts: list[Experts] = dataclasses.field(default_factory=list[Experts])
    unread: dict[onnx_ir.Node, str] = dataclasses.field(default_factory=dict[onnx_ir.Node, str])


def find_experts(graph: onnx_ir.Graph) -> Found:
    """Return the mixtures of experts of the main graph, in graph order."""
    found = Found()
    for node in graph:
        try:
            if is_op(node, "MoE", domain="com.microsoft"):
                found.experts.append(_operator(node))
            elif is_op(node, "QMoE", domain="com.microsoft"):
                found.unread[node] = "the experts' weights are quantized already"
            elif is_op(node, "TopK") and (experts := _picked(node)) is not None:
                found.experts.append(experts)
        except Mismatch as reason:
            found.unread[node] = str(reason)
    return found


@dataclasses.dataclass
class _Flow:
    """Where the numbers of the chosen experts go."""

    values: list[onnx_ir.Value]
    """The same numbers in other shapes."""
    lookups: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    tables: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    others: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    moves: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])

    @property
    def nodes(self) -> set[onnx_ir.Node]:
        """Return everything from TopK to the lookups."""
        return {*self.moves, *self.tables, *self.lookups}


def _follow(index: onnx_ir.Value) -> _Flow:
    flow = _Flow([index])
    for value in flow.values:
        for node in dict.fromkeys(value.consumers()):
            if is_op(node, *_MOVES):
                flow.moves.append(node)
                flow.values.extend(v for v in node.outputs if v not in flow.values)
            elif is_op(node, "Gather") and node.inputs[1] is value and is_constant(node.inputs[0]):
                is_table = rank(node.inputs[0]) == 1 and _is_whole(node.inputs[0])
                (flow.tables if is_table else flow.lookups).append(node)
                if is_table:
                    flow.values.extend(node.outputs)
            elif not is_op(node, "Shape", "GatherElements"):
                flow.others.append(node)
    return flow


def _is_whole(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()


def _picked(top: onnx_ir.Node) -> Experts | None:
    """Return the experts that a TopK picks, None where it picks something else."""
    flow = _follow(top.outputs[1])
    lookups = [node for node in flow.lookups if attribute_int(node, "axis", 0) == 0]
    if not any((rank(node.inputs[0]) or 0) > 1 for node in lookups):
        _refuse_masks(flow)
        return None
    count, k = _sizes(top)
    table, stored = _table(flow, count)
    stacks = _stacks(lookups, stored)
    for node in flow.others:
        raise Mismatch(f"{node.op_type} '{node.name}' reads which experts were chosen")
    if any(value.is_graph_output() for value in flow.values):
        raise Mismatch("which experts were chosen is an output of the model")
    scores, index = top.inputs[0], lookups[0].inputs[1]
    assert scores is not None
    assert index is not None
    logits = find_logits(scores)
    path = route(logits, top, count, frozenset(flow.values))
    chosen = tuple(n for n in top.graph or () if n in flow.nodes)
    return Experts(top, k, count, logits, path, stacks, _result(lookups), index, table, chosen)


def _refuse_masks(flow: _Flow) -> None:
    """Say so where experts are chosen by masks; anything else that is picked is no expert."""
    for node in flow.others:
        if is_op(node, "OneHot"):
            raise Mismatch(
                f"OneHot '{node.name}' turns the chosen into masks: experts that are separate weights are not read"
            )


def _sizes(top: onnx_ir.Node) -> tuple[int, int]:
    """Return (experts, how many of them are picked)."""
    sizes = dimensions(top.inputs[0])
    picked = constant_ints(top.inputs[1])
    axis = attribute_int(top, "axis", -1)
    if sizes is None or not isinstance(sizes[-1], int) or axis not in (-1, len(sizes) - 1):
        raise Mismatch("TopK does not pick along a last axis of known size")
    if picked is None or not attribute_int(top, "largest", 1):
        raise Mismatch("TopK does not pick a fixed number of the largest")
    return sizes[-1], picked[0]


def _table(flow: _Flow, count: int) -> tuple[Array | None, int]:
    """Return which weights the experts have, and how many there are."""
    if not flow.tables:
        return None, count
    if len(flow.tables) > 1:
        raise Mismatch("the chosen experts go through more than one table")
    table = constant(flow.tables[0].inputs[0])
    if table is None or table.size != count:
        raise Mismatch(f"a table of {0 if table is None else table.size} maps {count} experts")
    return table, int(table.max()) + 1


def _stacks(lookups: list[onnx_ir.Node], count: int) -> tuple[Stack, ...]:
    readers: dict[onnx_ir.Value, list[tuple[onnx_ir.Node, int]]] = {}
    for node in lookups:
        value = node.inputs[0]
        assert value is not None
        readers.setdefault(value, []).append((node, 0))
    for value, nodes in readers.items():
        shape = static_shape(value) or ()
        if shape[:1] != (count,):
            raise Mismatch(f"'{value.name}' is {list(shape)}, there are {count} experts")
        if len(list(value.consumers())) != len(nodes) or value.is_graph_output():
            raise Mismatch(f"'{value.name}' is also read by others than the experts")
    return tuple(Stack(value, tuple(nodes)) for value, nodes in readers.items())


def _result(lookups: list[onnx_ir.Node]) -> onnx_ir.Value:
    """Return the first value that depends on every lookup: what the experts make."""
    reached: dict[onnx_ir.Value, int] = {n.outputs[0]: 1 << k for k, n in enumerate(lookups)}
    everything = (1 << len(lookups)) - 1
    for node in lookups[0].graph or ():
        mask = 0
        for value in node.inputs:
            mask |= reached.get(value, 0) if value is not None else 0
        if mask and node not in lookups:
            if mask == everything:
                return node.outputs[0]
            reached.update(dict.fromkeys(node.outputs, mask))
    raise Mismatch("the weights of the chosen experts never meet")


def _operator(node: onnx_ir.Node) -> Experts:
    """Read ORT's operator; raises Mismatch for what this reader does not know."""
    kind = attribute_string(node, "activation_type", "relu")
    if kind not in _ACTIVATIONS:
        raise Mismatch(f"activation '{kind}' is not known")
    if kind == "swiglu" and attribute_int(node, "swiglu_fusion", 0) == 0:
        raise Mismatch("swiglu with separate weights is not read")
    if attribute_int(node, "use_sparse_mixer", 0):
        raise Mismatch("the sparse mixer routes otherwise")
    stacks: list[Stack] = []
    for place in _STACKS:
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is None:
            continue
        if not is_constant(value):
            raise Mismatch(f"'{value.name}' is no constant")
        if len(list(value.consumers())) != 1 or value.is_graph_output():
            raise Mismatch(f"'{value.name}' is also read by others than the experts")
        stacks.append(Stack(value, ((node, place),)))
    scores = node.inputs[1]
    assert scores is not None
    logits = find_logits(scores)
    count = int((static_shape(stacks[0].value) or (0,))[0])
    path = route(logits, node, count, frozenset())
    return Experts(
        node, attribute_int(node, "k", 1), count, logits, path, tuple(stacks), node.outputs[0]
    )
