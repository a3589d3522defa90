"""Count fused operators in a graph, and find what is left of those that are not fused."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir

from whet.ir.values import attribute_int
from whet.passes.pipeline import Step
from whet.passes.registry import all_passes

__all__ = ["KINDS", "count_fused", "explain"]

KINDS: Mapping[str, frozenset[str]] = {
    "attention": frozenset(
        (
            "Attention",
            "MultiHeadAttention",
            "GroupQueryAttention",
            "PackedAttention",
            "PackedMultiHeadAttention",
            "DecoderMaskedMultiHeadAttention",
        )
    ),
    "norm": frozenset(
        (
            "LayerNormalization",
            "RMSNormalization",
            "SkipLayerNormalization",
            "EmbedLayerNormalization",
            "SimplifiedLayerNormalization",
            "SkipSimplifiedLayerNormalization",
        )
    ),
    "activation": frozenset(("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Swish")),
    "rotary": frozenset(("RotaryEmbedding",)),
}
"""Kind -> operators of any domain that do it whole. A product of x and Sigmoid(c x) counts as an activation too."""
_WORDS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attention", "softmax", "mask", "key-value"),
    "norm": ("norm",),
    "activation": ("gelu", "silu", "swish", "sigmoid", "activation"),
    "rotary": ("rotary",),
}
"""A pass with one of these in its name speaks of the kind."""
_HOPS = 4
"""So far from a remainder a record of coverage is taken to speak of it."""
_LIFTS = ("whet.passes.fusion.lift_", "whet.passes.attention.")


def count_fused(model: onnx_ir.Model) -> dict[str, int]:
    """Return how many fused operators of each kind the model has; an attention may hold two rotations."""
    found = dict.fromkeys(KINDS, 0)
    for node in model.graph.all_nodes():
        for kind, names in KINDS.items():
            found[kind] += node.op_type in names
        found["activation"] += _gates_itself(node)
        if node.op_type == "GroupQueryAttention":
            found["rotary"] += 2 * attribute_int(node, "do_rotary", 0)
    return found


def explain(
    model: onnx_ir.Model, steps: Sequence[Step], left: Mapping[str, int]
) -> tuple[list[str], int]:
    """Return reasons for what is ``left`` of each kind, and how much is in the graph without one.

    The reasons are what the fusing passes recorded at nodes around each remainder (a Softmax, a Sqrt, an Erf …).
    Where fewer remainders are in the graph than are missing, the rest was constant or unread.
    """
    lines: list[str] = []
    silent = 0
    for kind, count in left.items():
        if not count:
            continue
        records = _records(steps, kind)
        found = [(node, _nearby(node, records)) for node in model.graph if _REMAINDERS[kind](node)]
        told = [f"{kind}: {reason}" for _, reason in found if reason][:count]
        gone = max(0, count - len(found))
        lines += told + [f"{kind}: nothing of it is in the graph (constant, or unread)"] * gone
        missing = [node for node, reason in found if not reason][: count - gone - len(told)]
        lines += [f"{kind}: {node.op_type} '{node.name}': no pass says why" for node in missing]
        silent += len(missing)
    return lines, silent


def _gates_itself(node: onnx_ir.Node) -> bool:
    """Tell whether a node is x Sigmoid(c x)."""
    if node.op_type != "Mul" or node.domain:
        return False
    a, b = node.inputs
    return _is_gate(a, b) or _is_gate(b, a)


def _is_gate(gate: onnx_ir.Value | None, x: onnx_ir.Value | None) -> bool:
    made = None if gate is None else gate.producer()
    if made is None or made.op_type != "Sigmoid":
        return False
    inner = made.inputs[0]
    if inner is x:
        return True
    scaled = None if inner is None else inner.producer()
    return scaled is not None and scaled.op_type == "Mul" and x in scaled.inputs


def _is_rotation(node: onnx_ir.Node) -> bool:
    return node.op_type == "Neg" and any(n.op_type == "Concat" for n in _readers(node))


def _is_activation(node: onnx_ir.Node) -> bool:
    if node.op_type == "Sigmoid":
        return not any(_gates_itself(reader) for reader in _readers(node))
    return node.op_type in {"Erf", "Tanh"}


def _is_deviation(node: onnx_ir.Node) -> bool:
    """Tell whether a node is the root of a mean."""
    means = [n for n in _around(node, 3, forward=False) if n.op_type == "ReduceMean"]
    return bool(means) and node.op_type in {"Sqrt", "Pow", "Reciprocal"} and node not in means


_REMAINDERS: Mapping[str, Callable[[onnx_ir.Node], bool]] = {
    "attention": lambda node: node.op_type == "Softmax",
    "norm": _is_deviation,
    "activation": _is_activation,
    "rotary": _is_rotation,
}


def _records(steps: Sequence[Step], kind: str) -> dict[str, str]:
    """Return site -> reason of everything that the lifting passes of a kind did not do."""
    found: dict[str, str] = {}
    for step in steps:
        module = all_passes()[step.name].__module__
        if not (module.startswith(_LIFTS) and any(word in step.name for word in _WORDS[kind])):
            continue
        refused = {failure.site: failure.reason for failure in step.coverage.failures}
        for part in (step.coverage.near_misses, step.coverage.declined, refused):
            found.update(
                {site: f"{step.name} at {site}: {reason}" for site, reason in part.items()}
            )
    return found


def _nearby(node: onnx_ir.Node, records: Mapping[str, str]) -> str:
    """Return the reason recorded closest to a node, or an empty string."""
    close = [node, *_around(node, _HOPS, forward=True), *_around(node, _HOPS, forward=False)]
    return next((records[n.name] for n in close if n.name and n.name in records), "")


def _around(node: onnx_ir.Node, hops: int, *, forward: bool) -> list[onnx_ir.Node]:
    """Return what a node leads to, or comes from, within so many steps, the closest first."""
    found: dict[onnx_ir.Node, None] = {}
    edge = [node]
    for _ in range(hops):
        edge = [n for e in edge for n in (_readers(e) if forward else _makers(e)) if n not in found]
        found.update(dict.fromkeys(edge))
    return list(found)


def _readers(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _makers(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    made = [value.producer() for value in node.inputs if value is not None]
    return [producer for producer in made if producer is not None]
