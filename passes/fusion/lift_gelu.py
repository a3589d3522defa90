"""Recognize the Gaussian error linear unit however it is spelled."""

import dataclasses
import math
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_op
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.expansion import Expansion, uncast, upstream
from whet.passes.fusion.unit import find_unit, lift_unit
from whet.passes.workbench import Workbench

_DEPTH = 8
_CLOSE = 2e-3
"""Constants this near are meant to be the formula's."""
_EXACT = 1.5e-5
"""Constants this near move the result by less than rounding may."""

_LINEAR = math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
_ARGUMENTS = {
    "Erf": {1.0: math.sqrt(0.5)},
    "Tanh": {1.0: _LINEAR, 3.0: _CUBIC},
    "Sigmoid": {1.0: 2 * _LINEAR, 3.0: 2 * _CUBIC},
}
"""The coefficients, by power of x, of what the function is taken of."""


@dataclasses.dataclass(frozen=True)
class LiftGelu(Pass):
    """Write ``x (1 + erf(x / sqrt 2)) / 2`` as ``Gelu(x)``, and its two approximations by a cubic as ``Gelu`` too.

    ``x (1 + tanh(p(x))) / 2`` and ``x sigmoid(2 p(x))`` with ``p(x) = sqrt(2 / pi) (x + 0.044715 x**3)`` become
    ``Gelu(x) {approximate="tanh"}``. Any order of products and sums counts, and any other constant factor stays behind.
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    def apply(self, work: Workbench) -> None:
        """Lift from every Erf, Tanh and Sigmoid of the right polynomial."""
        for node in work.nodes(*_ARGUMENTS):
            while is_op(node, *_ARGUMENTS) and node.graph is not None and _visit(node, work):
                pass


def _visit(node: onnx_ir.Node, work: Workbench) -> bool:
    """Make one rewrite; False if there is nothing (more) to do."""
    try:
        x = _argument(node)
    except Mismatch as reason:
        work.near_miss(node, str(reason))
        return False
    if x is None:
        return False
    plain = node.op_type == "Sigmoid"
    unit = 1.0 if plain else 0.5
    found = find_unit(work.graph, node.outputs[0], x, unit, plus_one=not plain)
    if found is None:
        expected = "x" if plain else f"x (1 + {node.op_type.lower()})"
        missing = f"{node.op_type} has the argument of a Gelu but is not used as {expected}"
        work.near_miss(node, missing)
        return False
    if work.opset < 20:
        work.decline(node, f"opset {work.opset} has no Gelu")
        return False
    kind = "none" if node.op_type == "Erf" else "tanh"
    return lift_unit(node, found, work, "Gelu", {"approximate": kind})


def _argument(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return the ``x`` in whose polynomial the function is taken; None if there is none like it.

    Raises Mismatch where a polynomial of the right powers has other coefficients, and for every other Erf.
    """
    argument, wanted = node.inputs[0], _ARGUMENTS[node.op_type]
    assert argument is not None
    inside = upstream(uncast(argument), _DEPTH)
    reason = ""
    for x in inside:
        if uncast(x) is not x:
            continue
        found = _polynomial(argument, x, inside)
        if found is None or set(found) != set(wanted):
            continue
        worst = max(abs(found[power] / wanted[power] - 1) for power in wanted)
        if worst <= _EXACT:
            return x
        if worst <= _CLOSE or len(wanted) > 1:
            reason = f"{node.op_type} of {_written(found)}, where {_written(wanted)} was expected"
    if reason or node.op_type == "Erf":
        raise Mismatch(reason or "Erf of something other than x / sqrt 2")
    return None


def _written(polynomial: dict[float, float]) -> str:
    return " + ".join(f"{factor:.6g} x**{power:g}" for power, factor in sorted(polynomial.items()))


def _polynomial(
    value: onnx_ir.Value, x: onnx_ir.Value, inside: dict[onnx_ir.Value, int]
) -> dict[float, float] | None:
    """Return the coefficients of ``value`` by power of ``x``; None if anything else takes part."""
    try:
        terms = Expansion(inside, {x: x}.get).terms(value)
    except Mismatch:
        return None
    found: dict[float, float] = {}
    for product, factor in terms.items():
        powers = dict(product)
        if set(powers) != {x} or factor.size != 1:
            return None
        found[powers[x]] = float(factor.reshape(-1)[0])
    return found
