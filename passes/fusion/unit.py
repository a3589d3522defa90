"""Find the product of an input with a function of it, the form of activations that gate themselves."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import is_op, rank
from whet.passes.fusion.expansion import Expansion, Product, downstream
from whet.passes.fusion.normalization import narrowed
from whet.passes.fusion.products import as_type, computed_between, input_read, times
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["Unit", "find_unit", "lift_unit"]

Floats = NDArray[np.float64]
_REACH = 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """``value = scale * x * f * factors``, or with ``1 + f`` for ``f``."""

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


def find_unit(
    graph: onnx_ir.Graph, f: onnx_ir.Value, x: onnx_ir.Value, unit: float, *, plus_one: bool
) -> Unit | None:
    """Return the nearest value that is ``unit * x * f`` (``unit * x * (1 + f)`` if ``plus_one``).

    Where none is, return the nearest up to a constant.
    """
    expansion = Expansion(downstream(graph, [f, x], _REACH), {f: f, x: x}.get)
    scaled: list[Unit] = []
    for value in downstream(graph, [f], _REACH):
        if value is f or is_op(value.producer(), "Cast"):
            continue
        found = _read(expansion, value, f, x, unit, plus_one=plus_one)
        if found is not None and found.neutral:
            return found
        if found is not None:
            scaled.append(found)
    return scaled[0] if scaled else None


def _read(
    expansion: Expansion,
    value: onnx_ir.Value,
    f: onnx_ir.Value,
    x: onnx_ir.Value,
    unit: float,
    *,
    plus_one: bool,
) -> Unit | None:
    try:
        terms = expansion.terms(value)
    except Mismatch:
        return None
    product = next((p for p in terms if (f, 1.0) in p and (x, 1.0) in p), None)
    if product is None or not np.any(terms[product]):
        return None
    wanted = {product: terms[product]}
    if plus_one:
        wanted[product - {(f, 1.0)}] = terms[product]
    if set(wanted) != set(terms) or not all(_same(terms[p], wanted[p]) for p in wanted):
        return None
    return Unit(value, x, np.asarray(terms[product] / unit), product - {(f, 1.0), (x, 1.0)})


def _same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=1e-6, atol=0.0))


def lift_unit(
    node: onnx_ir.Node,
    found: Unit,
    work: Workbench,
    op_type: str,
    attributes: Mapping[str, Attribute] | None = None,
) -> bool:
    """Propose ``op_type`` of the input for what was found behind ``node``; tell whether it was made."""
    work.coverage.matched += 1
    build = work.builder(node)
    try:
        old = computed_between(found.value, {found.x, *(value for value, _ in found.factors)})
        new = _write(found, input_read(old, found.x), build, op_type, attributes)
    except Mismatch as reason:
        work.decline(node, str(reason))
        Proposal((node,), (), tuple(build.nodes)).discard()
        return False
    outputs = ((found.value, new),)
    return work.propose(Proposal(old, outputs, tuple(build.nodes), tuple(build.initializers)))


def _write(
    found: Unit,
    x: onnx_ir.Value,
    build: Builder,
    op_type: str,
    attributes: Mapping[str, Attribute] | None,
) -> onnx_ir.Value:
    dtype = found.value.dtype
    if dtype is None:
        raise Mismatch(f"the type of '{found.value.name}' is not known")
    y = build.op(op_type, as_type(x, dtype, build), attributes=attributes)
    if not found.neutral:
        y = build.op("Mul", y, build.constant(narrowed(found.scale, dtype)))
    return times(y, found.factors, dtype, build)
