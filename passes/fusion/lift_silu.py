"""Give the sigmoid-weighted linear unit one spelling."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.ir.values import attribute_float, is_constant, is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftSilu(Pass):
    """Spell ``x sigmoid(c x)`` as ``Mul(x, Sigmoid(Mul(x, c)))`` with the operands in this order.

    Without ``c`` it is the SiLU ``Mul(x, Sigmoid(x))``, with ``c = 1.702`` the quick approximation of GELU. ``Swish``
    of opset 24 is spelled out. Ramachandran et al., Searching for Activation Functions, 2017.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Turn the operands of every product with a sigmoid, and spell out every Swish."""
        for node in work.nodes("Sigmoid"):
            for product in node.outputs[0].consumers() if is_op(node, "Sigmoid") else ():
                _turn(node, product, work)
        for node in work.nodes("Swish"):
            _spell_out(node, work)


def _turn(sigmoid: onnx_ir.Node, product: onnx_ir.Node, work: Workbench) -> None:
    x = _other(product, sigmoid.outputs[0])
    inner = sigmoid.inputs[0]
    if x is None or inner is None or product.graph is not work.graph:
        return
    scaled = None if inner is x else inner.producer()
    c = None if scaled is None else _other(scaled, x)
    if inner is not x and (c is None or not is_constant(c)):
        return
    in_order = scaled is None or scaled.inputs[0] is x
    if in_order and product.inputs[0] is x:
        return
    work.coverage.matched += 1
    build = work.builder(product)
    y = _silu(x, c, build)
    old = (product, sigmoid) if scaled is None else (product, sigmoid, scaled)
    work.propose(Proposal(old, ((product.outputs[0], y),), tuple(build.nodes)))


def _other(product: onnx_ir.Node, value: onnx_ir.Value) -> onnx_ir.Value | None:
    """Return what a Mul multiplies ``value`` with."""
    if not is_op(product, "Mul") or value not in product.inputs:
        return None
    return product.inputs[1 if product.inputs[0] is value else 0]


def _silu(x: onnx_ir.Value, c: onnx_ir.Value | None, build: Builder) -> onnx_ir.Value:
    inner = x if c is None else build.op("Mul", x, c)
    return build.op("Mul", x, build.op("Sigmoid", inner))


def _spell_out(node: onnx_ir.Node, work: Workbench) -> None:
    x = node.inputs[0] if is_op(node, "Swish") else None
    if x is None:
        return
    work.coverage.matched += 1
    if x.dtype is None:
        work.decline(node, f"the type of '{x.name}' is not known")
        return
    build = work.builder(node)
    alpha = attribute_float(node, "alpha", 1.0)
    c = None if alpha == 1.0 else build.constant(np.asarray(alpha, dtype=x.dtype.numpy()))
    new = _silu(x, c, build)
    outputs = ((node.outputs[0], new),)
    work.propose(Proposal((node,), outputs, tuple(build.nodes), tuple(build.initializers)))
