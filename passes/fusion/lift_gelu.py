"""Recognize the Gaussian error linear unit however it is spelled."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import is_op, rank
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.expansion import Expansion, Product, downstream, uncast, upstream
from whet.passes.fusion.normalization import narrowed
from whet.passes.fusion.products import as_type, computed_between, input_read, times
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

_REACH = 5
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

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class _Gelu:
    """``value = scale * x * (1 + f) * factors`` (or ``scale * x * f * factors`` for a sigmoid)."""

    value: onnx_ir.Value
    x: onnx_ir.Value
    scale: Floats
    factors: Product

    @property
    def neutral(self) -> bool:
        """Tell whether the scale is one, and does not enlarge the result."""
        size = rank(self.x)
        single = self.scale.size == 1 and size is not None and self.scale.ndim <= size
        return single and bool(np.allclose(self.scale, 1.0, rtol=1e-6, atol=0.0))


@dataclasses.dataclass(frozen=True)
class LiftGelu(Pass):
    """Write ``x (1 + erf(x / sqrt 2)) / 2`` as ``Gelu(x)``, and its two approximations by a cubic as ``Gelu`` too.

    ``x (1 + tanh(p(x))) / 2`` and ``x sigmoid(2 p(x))`` with ``p(x) = sqrt(2 / pi) (x + 0.044715 x**3)`` become
    ``Gelu(x) {approximate="tanh"}``. Any order of products and sums counts, and any other constant factor stays behind.
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Lift from every Erf, Tanh and Sigmoid of the right polynomial."""
        for node in work.nodes(*_ARGUMENTS):
            while is_op(node, *_ARGUMENTS) and node.graph is not None and _visit(node, work):
                pass


def _visit(node: onnx_ir.Node, work: Workbench) -> bool:
    """Make one rewrite; False if there is nothing (more) to do."""
    try:
        x = _argument(node)
        found = None if x is None else _product(node, x, work.graph)
    except Mismatch as reason:
        work.near_miss(node, str(reason))
        return False
    if found is None:
        return False
    work.coverage.matched += 1
    build = work.builder(node)
    try:
        old = computed_between(found.value, {found.x, *(value for value, _ in found.factors)})
        new = _write(node, found, input_read(old, found.x), build, work.opset)
    except Mismatch as reason:
        work.decline(node, str(reason))
        Proposal((node,), (), tuple(build.nodes)).discard()
        return False
    return work.propose(
        Proposal(old, ((found.value, new),), tuple(build.nodes), tuple(build.initializers))
    )


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


def _product(node: onnx_ir.Node, x: onnx_ir.Value, graph: onnx_ir.Graph) -> _Gelu:
    """Return the nearest value that is the unit, or else the unit up to a constant; raises Mismatch without one."""
    f = node.outputs[0]
    expansion = Expansion(downstream(graph, [f, x], _REACH), {f: f, x: x}.get)
    scaled: list[_Gelu] = []
    for value in downstream(graph, [f], _REACH):
        if value is f or is_op(value.producer(), "Cast"):
            continue
        found = _read(expansion, value, f, x, plain=node.op_type == "Sigmoid")
        if found is not None and found.neutral:
            return found
        if found is not None:
            scaled.append(found)
    if scaled:
        return scaled[0]
    expected = "x" if node.op_type == "Sigmoid" else f"x (1 + {node.op_type.lower()})"
    raise Mismatch(f"{node.op_type} has the argument of a Gelu but is not used as {expected}")


def _read(
    expansion: Expansion, value: onnx_ir.Value, f: onnx_ir.Value, x: onnx_ir.Value, *, plain: bool
) -> _Gelu | None:
    """Read ``k x f`` if ``plain``, else ``k x + k x f``, times whatever."""
    try:
        terms = expansion.terms(value)
    except Mismatch:
        return None
    product = next((p for p in terms if (f, 1.0) in p and (x, 1.0) in p), None)
    if product is None or not np.any(terms[product]):
        return None
    wanted = {product: terms[product]}
    if not plain:
        wanted[product - {(f, 1.0)}] = terms[product]
    if set(wanted) != set(terms) or not all(_same(terms[p], wanted[p]) for p in wanted):
        return None
    scale = np.asarray(terms[product] if plain else 2 * terms[product])
    return _Gelu(value, x, scale, product - {(f, 1.0), (x, 1.0)})


def _same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-6, atol=0.0))


def _write(
    node: onnx_ir.Node, found: _Gelu, x: onnx_ir.Value, build: Builder, opset: int
) -> onnx_ir.Value:
    if opset < 20:
        raise Mismatch(f"opset {opset} has no Gelu")
    dtype = found.value.dtype
    if dtype is None:
        raise Mismatch(f"the type of '{found.value.name}' is not known")
    kind = "none" if node.op_type == "Erf" else "tanh"
    y = build.op("Gelu", as_type(x, dtype, build), attributes={"approximate": kind})
    if not found.neutral:
        y = build.op("Mul", y, build.constant(narrowed(found.scale, dtype)))
    return times(y, found.factors, dtype, build)
