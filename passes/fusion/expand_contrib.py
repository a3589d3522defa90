"""Spell ONNX Runtime's own operators as standard ones."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.forms import known_rank
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

_OWN = "com.microsoft"
_OPSETS = {"LayerNormalization": 17, "RMSNormalization": 23, "Gelu": 20}
_HALF = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)
_Outputs = Sequence[onnx_ir.Value | None]


@dataclasses.dataclass(frozen=True)
class ExpandContrib(Pass):
    """Spell activations and normalizations of com.microsoft as standard operators, so that other passes see them.

    Gelu, BiasGelu, FastGelu and QuickGelu become an addition and ``Gelu`` or ``x Sigmoid(c x)``;
    SkipLayerNormalization, SkipSimplifiedLayerNormalization and SimplifiedLayerNormalization become additions and
    ``LayerNormalization`` or ``RMSNormalization``. Declines where the mean or the deviation is read too, and
    sums in half precision, which these kernels keep in float32. The runtime's
    operators come back, where they are measured to pay, after all other passes.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Replace every node that has a standard form."""
        for node in work.nodes(*_EXPANSIONS):
            if is_op(node, node.op_type, domain=_domain(node.op_type)):
                _expand(node, work)


def _domain(op_type: str) -> str:
    return "" if op_type == "SimplifiedLayerNormalization" else _OWN


def _expand(node: onnx_ir.Node, work: Workbench) -> None:
    work.coverage.matched += 1
    build = work.builder(node)
    try:
        new = _EXPANSIONS[node.op_type](node, build)
        for made in build.nodes:
            if work.opset < _OPSETS.get(made.op_type, 1):
                raise Mismatch(f"opset {work.opset} has no {made.op_type}")
        outputs = _pairs(node, new)
    except Mismatch as reason:
        work.decline(node, str(reason))
        Proposal((node,), (), tuple(build.nodes)).discard()
        return
    work.propose(Proposal((node,), outputs, tuple(build.nodes), tuple(build.initializers)))


def _pairs(node: onnx_ir.Node, new: _Outputs) -> tuple[tuple[onnx_ir.Value, onnx_ir.Value], ...]:
    pairs: list[tuple[onnx_ir.Value, onnx_ir.Value]] = []
    for k, old in enumerate(node.outputs):
        if not (old.uses() or old.is_graph_output()):
            continue
        value = new[k] if k < len(new) else None
        if value is None:
            raise Mismatch(f"output {k} of {node.op_type} is read, which the standard has not")
        pairs.append((old, value))
    return tuple(pairs)


def _input(node: onnx_ir.Node, at: int) -> onnx_ir.Value:
    value = _maybe(node, at)
    if value is None:
        raise Mismatch(f"input {at} of {node.op_type} is missing")
    return value


def _maybe(node: onnx_ir.Node, at: int) -> onnx_ir.Value | None:
    return node.inputs[at] if at < len(node.inputs) else None


def _sum(build: Builder, x: onnx_ir.Value, *others: onnx_ir.Value | None) -> onnx_ir.Value:
    for other in others:
        if other is None:
            continue
        if x.dtype in _HALF:
            raise Mismatch(f"its kernel adds {x.dtype} in float32, an Add would round the sum")
        x = build.op("Add", x, other)
    return x


def _gelu(kind: str) -> Callable[[onnx_ir.Node, Builder], _Outputs]:
    def expand(node: onnx_ir.Node, build: Builder) -> _Outputs:
        x = _sum(build, _input(node, 0), _maybe(node, 1))
        return (build.op("Gelu", x, attributes={"approximate": kind}),)

    return expand


def _quick_gelu(node: onnx_ir.Node, build: Builder) -> _Outputs:
    x, alpha = _input(node, 0), attribute_float(node, "alpha", 1.702)
    if x.dtype is None:
        raise Mismatch(f"the type of '{x.name}' is not known")
    inner = x
    if alpha != 1.0:
        inner = build.op("Mul", x, build.constant(np.asarray(alpha, dtype=x.dtype.numpy())))
    return (build.op("Mul", x, build.op("Sigmoid", inner)),)


def _skip_layer(node: onnx_ir.Node, build: Builder) -> _Outputs:
    total = _sum(build, _input(node, 0), _input(node, 1), _maybe(node, 4))
    beta = _maybe(node, 3)
    operands = (total, _input(node, 2)) if beta is None else (total, _input(node, 2), beta)
    epsilon = attribute_float(node, "epsilon", 1e-12)
    y = build.op("LayerNormalization", *operands, attributes={"axis": -1, "epsilon": epsilon})
    return y, None, None, total


def _skip_rms(node: onnx_ir.Node, build: Builder) -> _Outputs:
    total = _sum(build, _input(node, 0), _input(node, 1), _maybe(node, 3))
    return _rms(node, total, _input(node, 2), 1e-12, build), None, None, total


def _simplified(node: onnx_ir.Node, build: Builder) -> _Outputs:
    x, scale = _input(node, 0), _input(node, 1)
    if x.dtype is None or x.dtype != scale.dtype:
        raise Mismatch(f"the input is {x.dtype}, the scale {scale.dtype}")
    return (_rms(node, x, scale, 1e-5, build),)


def _rms(
    node: onnx_ir.Node, x: onnx_ir.Value, scale: onnx_ir.Value, epsilon: float, build: Builder
) -> onnx_ir.Value:
    axis = attribute_int(node, "axis", -1)
    if axis >= 0:
        axis -= known_rank(x)
    attributes = {"axis": axis, "epsilon": attribute_float(node, "epsilon", epsilon)}
    return build.op("RMSNormalization", x, scale, attributes=attributes)


_EXPANSIONS: Mapping[str, Callable[[onnx_ir.Node, Builder], _Outputs]] = {
    "Gelu": _gelu("none"),
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer,
    "SkipSimplifiedLayerNormalization": _skip_rms,
    "SimplifiedLayerNormalization": _simplified,
}
