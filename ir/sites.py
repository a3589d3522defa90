"""Places where compression can act."""

import dataclasses
import enum
from collections import Counter
from collections.abc import Iterator, Sequence

import onnx_ir

from whet.ir.values import is_constant, is_op, rank

__all__ = ["Enclosed", "Site", "SiteKind", "find_enclosed", "find_sites"]


class SiteKind(enum.Enum):
    """Say what kind of place a site is."""

    LINEAR = "linear"
    """MatMul or Gemm with a fixed weight."""
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    """Gather from a fixed table along axis 0."""
    EXPERTS = "experts"
    """Stacked weights of experts, looked up by what a router picks, or ORT's MoE operator."""
    ATTENTION = "attention"


@dataclasses.dataclass(frozen=True)
class Site:
    """One place: the node that computes there, and the fixed weights it reads, by name."""

    name: str
    kind: SiteKind
    op_type: str
    weights: tuple[str, ...]
    bytes: int
    """What the weights take on disk. A weight that several sites share is counted at each."""


@dataclasses.dataclass(frozen=True)
class Enclosed:
    """The layers inside one body of an If, Loop or Scan of the main graph, where passes change nothing."""

    owner: str
    """The operator and its name."""
    body: str
    layers: tuple[str, ...]
    """Operator and name of every layer, those in bodies further inside included."""
    bytes: int
    """What the constants take that are read in the body; two bodies may share them."""

    def __str__(self) -> str:
        """Say it in a line."""
        kinds = Counter(layer.split(" ", 1)[0] for layer in self.layers)
        listed = ", ".join(f"{kind} x{count}" for kind, count in kinds.items())
        return f"inside {self.owner}, body '{self.body}': left alone, {listed}, {self.bytes:,} bytes of constants"


_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention")
_WEIGHT_INPUT = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
_KIND = {
    "MatMul": SiteKind.LINEAR,
    "Gemm": SiteKind.LINEAR,
    "Conv": SiteKind.CONVOLUTION,
    "ConvTranspose": SiteKind.CONVOLUTION,
    "Gather": SiteKind.EMBEDDING,
}


def find_sites(model: onnx_ir.Model) -> list[Site]:
    """Return the sites of the main graph in graph order."""
    return [site for node in model.graph if (site := _site(node)) is not None]


def find_enclosed(model: onnx_ir.Model) -> list[Enclosed]:
    """Return the bodies with layers in them, in graph order."""
    found: list[Enclosed] = []
    for node in model.graph:
        for body, graph in _bodies(node):
            inside = list(_nodes(graph))
            layers = tuple(f"{n.op_type} {n.name}" for n in inside if is_op(n, *_LAYERS))
            if layers:
                owner = f"{node.op_type} '{node.name}'"
                found.append(Enclosed(owner, body, layers, _constant_bytes(inside)))
    return found


def _bodies(node: onnx_ir.Node) -> Iterator[tuple[str, onnx_ir.Graph]]:
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()


def _nodes(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Node]:
    """Yield the nodes of a body and of the bodies in it."""
    for node in graph:
        yield node
        for _, inner in _bodies(node):
            yield from _nodes(inner)


def _constant_bytes(nodes: Sequence[onnx_ir.Node]) -> int:
    read = {v for node in nodes for v in node.inputs if v is not None}
    held = [v.const_value for v in read]
    made = [n.attributes["value"].as_tensor() for n in nodes if _holds_tensor(n)]
    return sum(tensor.nbytes for tensor in (*held, *made) if tensor is not None)


def _holds_tensor(node: onnx_ir.Node) -> bool:
    return is_op(node, "Constant") and "value" in node.attributes


def _site(node: onnx_ir.Node) -> Site | None:
    name = node.name or node.op_type
    if is_op(node, "Attention"):
        return Site(name, SiteKind.ATTENTION, node.op_type, (), 0)
    if is_op(node, "MoE", domain="com.microsoft"):
        return _experts(node, name)
    if not is_op(node, *_KIND):
        return None
    weight = _weight(node)
    if (
        weight is None
        or weight.const_value is None
        or not weight.const_value.dtype.is_floating_point()
    ):
        return None
    if len(weight.const_value.shape) < 2:
        return None
    size = weight.const_value.nbytes
    kind = SiteKind.EXPERTS if _is_stack(node, weight) else _KIND[node.op_type]
    return Site(name, kind, node.op_type, (weight.name or "",), size)


def _is_stack(node: onnx_ir.Node, weight: onnx_ir.Value) -> bool:
    """Tell whether whole matrices are looked up, by what the model computes."""
    return is_op(node, "Gather") and (rank(weight) or 0) > 2 and not is_constant(node.inputs[1])


def _experts(node: onnx_ir.Node, name: str) -> Site:
    weights = [v for v in node.inputs[2:] if is_constant(v) and v is not None]
    size = sum(v.const_value.nbytes for v in weights if v.const_value is not None)
    names = tuple(v.name or "" for v in weights)
    return Site(name, SiteKind.EXPERTS, node.op_type, names, size)


def _weight(node: onnx_ir.Node) -> onnx_ir.Value | None:
    preferred = _WEIGHT_INPUT[node.op_type]
    order = (preferred, 0) if node.op_type == "MatMul" else (preferred,)
    for index in order:
        value = node.inputs[index] if index < len(node.inputs) else None
        if is_constant(value):
            return value
    return None
