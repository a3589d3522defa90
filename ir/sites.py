"""Places where compression can act."""

import dataclasses
import enum

import onnx_ir

from whet.ir.values import is_constant, is_op

__all__ = ["Site", "SiteKind", "find_sites"]


class SiteKind(enum.Enum):
    """Say what kind of place a site is."""

    LINEAR = "linear"
    """MatMul or Gemm with a fixed weight."""
    CONVOLUTION = "convolution"
    EMBEDDING = "embedding"
    """Gather from a fixed table along axis 0."""
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


def _site(node: onnx_ir.Node) -> Site | None:
    name = node.name or node.op_type
    if is_op(node, "Attention"):
        return Site(name, SiteKind.ATTENTION, node.op_type, (), 0)
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
    return Site(name, _KIND[node.op_type], node.op_type, (weight.name or "",), size)


def _weight(node: onnx_ir.Node) -> onnx_ir.Value | None:
    preferred = _WEIGHT_INPUT[node.op_type]
    order = (preferred, 0) if node.op_type == "MatMul" else (preferred,)
    for index in order:
        value = node.inputs[index] if index < len(node.inputs) else None
        if is_constant(value):
            return value
    return None
