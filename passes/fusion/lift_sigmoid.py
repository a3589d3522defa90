"""Recognize the logistic function spelled with an exponential."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import constant, is_constant, is_op, rank
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.expansion import number
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftSigmoid(Pass):
    """Write ``a / (1 + exp(-x))`` as ``a Sigmoid(x)``, and ``exp(x) / (1 + exp(x))`` as ``Sigmoid(x)``.

    ``1 / (1 + exp(c x))`` becomes ``Sigmoid(-c x)``. Where the exponential overflows, the operator does not.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Lift from every exponential to which one is added."""
        for exp in work.nodes("Exp"):
            for total in exp.outputs[0].consumers() if is_op(exp, "Exp") else ():
                _visit(exp, total, work)


def _visit(exp: onnx_ir.Node, total: onnx_ir.Node, work: Workbench) -> None:
    """Rewrite every quotient by ``1 + exp(u)``."""
    if not is_op(total, "Add") or 1.0 not in (number(v) for v in total.inputs):
        return
    for ratio in total.outputs[0].consumers():
        reciprocal = is_op(ratio, "Reciprocal")
        if not reciprocal and not (
            is_op(ratio, "Div") and ratio.inputs[1] is total.outputs[0] is not ratio.inputs[0]
        ):
            continue
        if ratio.graph is work.graph and total.graph is work.graph:
            _lift(exp, total, ratio, work)


def _lift(exp: onnx_ir.Node, total: onnx_ir.Node, ratio: onnx_ir.Node, work: Workbench) -> None:
    work.coverage.matched += 1
    build, old = work.builder(ratio), [ratio, total, exp]
    try:
        _check(exp, total)
        new = _written(exp, ratio, build, old)
    except Mismatch as reason:
        work.decline(ratio, str(reason))
        return
    outputs = ((ratio.outputs[0], new),)
    work.propose(Proposal(tuple(old), outputs, tuple(build.nodes), tuple(build.initializers)))


def _check(exp: onnx_ir.Node, total: onnx_ir.Node) -> None:
    """Decline where the one that is added has more axes than what it is added to."""
    one = next(v for v in total.inputs if number(v) == 1.0)
    size, ones = rank(exp.outputs[0]), rank(one)
    if size is None or ones is None or ones > size:
        raise Mismatch("the rank of the exponential is not known, or less than that of the one")


def _written(
    exp: onnx_ir.Node, ratio: onnx_ir.Node, build: Builder, old: list[onnx_ir.Node]
) -> onnx_ir.Value:
    """Return the Sigmoid, multiplied by the numerator."""
    u = exp.inputs[0]
    assert u is not None
    above = ratio.inputs[0] if ratio.op_type == "Div" else None
    if above is exp.outputs[0]:
        return build.op("Sigmoid", u)
    y = build.op("Sigmoid", _negated(u, build, old))
    if above is None or (number(above) == 1.0 and rank(above) == 0):
        return y
    return build.op("Mul", above, y)


def _negated(u: onnx_ir.Value, build: Builder, old: list[onnx_ir.Node]) -> onnx_ir.Value:
    """Return the exponent with the other sign; the node that made it joins ``old``."""
    node = u.producer()
    if node is not None and is_op(node, "Neg") and node.inputs[0] is not None:
        old.append(node)
        return node.inputs[0]
    if node is None or not is_op(node, "Mul"):
        return build.op("Neg", u)
    left, right = node.inputs
    x, c = (right, left) if is_constant(left) else (left, right)
    array = constant(c)
    if x is None or array is None:
        return build.op("Neg", u)
    old.append(node)
    if number(c) == -1.0 and array.ndim == 0:
        return x
    return build.op("Mul", x, build.constant(np.negative(array)))
