"""Find the product of an input with one over its deviation, and write it as one operator."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, dimensions, is_op, rank
from whet.passes.fusion.expansion import Expansion, Product, Terms, downstream, number, uncast
from whet.passes.fusion.mean_square import Deviation, read_deviation
from whet.passes.fusion.products import as_type, computed_between, in_order, input_read, times
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["NORMALIZED", "along", "axis_of", "lift_normalizations", "narrowed", "normalized_shape"]

NORMALIZED = ("LayerNormalization", "RMSNormalization")
_REACH = 6
"""So many operators may lie between the root and the product."""
_SAME = 2e-3
"""Relative difference of two constants that were computed in different orders in float16."""

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class _Normalized:
    """``value = scale * (x - mean) / deviation * factors + rest``."""

    deviation: Deviation
    value: onnx_ir.Value
    scale: Floats
    factors: Product
    rest: Terms


def lift_normalizations(work: Workbench, op_type: str) -> None:
    """Write every normalization that ends in the root of a variance, or of a mean of squares, as ``op_type``."""
    for root in work.nodes("Sqrt", "Pow"):
        while root.graph is not None and _lift(root, work, op_type):
            pass


def _lift(root: onnx_ir.Node, work: Workbench, op_type: str) -> bool:
    """Make one rewrite at ``root``; False if there is nothing (more) to do."""
    centered = op_type == "LayerNormalization"
    try:
        deviation = read_deviation(root)
        if deviation is None or deviation.centered is not centered:
            return False
        found = _product(root, deviation, work.graph)
    except Mismatch as reason:
        work.near_miss(root, str(reason))
        return False
    work.coverage.matched += 1
    build = work.builder(root)
    try:
        _check(work, found, op_type)
        old = computed_between(found.value, _stops(found))
        new = _write(found, input_read(old, deviation.x), build, op_type)
    except Mismatch as reason:
        work.decline(root, str(reason))
        Proposal((root,), (), tuple(build.nodes)).discard()
        return False
    return work.propose(
        Proposal(old, ((found.value, new),), tuple(build.nodes), tuple(build.initializers))
    )


def _check(work: Workbench, found: _Normalized, op_type: str) -> None:
    needed = 17 if op_type == "LayerNormalization" else 23
    if work.opset < needed:
        raise Mismatch(f"opset {work.opset} has no {op_type}")
    dtype = found.value.dtype
    if dtype is None or dtype.name not in {"FLOAT", "FLOAT16", "BFLOAT16"}:
        named = dtype.name.lower() if dtype else "of unknown type"
        raise Mismatch(f"{op_type} computes in float, the values are {named}")


def _product(root: onnx_ir.Node, deviation: Deviation, graph: onnx_ir.Graph) -> _Normalized:
    """Return the nearest value behind ``root`` that is the normalized input; raises Mismatch without one."""
    means = _means(deviation, graph)
    starts = [root.outputs[0], deviation.base, deviation.x, *means]
    atoms = {deviation.x: deviation.x, deviation.base: deviation.base}
    atoms |= dict.fromkeys(means, means[0]) if means else {}
    expansion = Expansion(downstream(graph, starts, _REACH), atoms.get)
    for value in downstream(graph, root.outputs[:1], _REACH):
        if is_op(value.producer(), "Cast"):
            continue
        try:
            terms = expansion.terms(value)
        except Mismatch:
            continue
        found = _read(terms, deviation, means[0] if means else None, value)
        if found is not None:
            return found
    raise Mismatch(_why_not(root, deviation, graph))


def _means(deviation: Deviation, graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    """Return the values that are the mean of the input, if it is centered."""
    if not deviation.centered:
        return []
    copies = [v for v in downstream(graph, [deviation.x], 2) if uncast(v) is deviation.x]
    reduced = [
        node.outputs[0]
        for copy in copies
        for node in copy.consumers()
        if is_op(node, "ReduceMean", "ReduceSum") and node.graph is graph
    ]
    return [
        value
        for value in downstream(graph, reduced, 1)
        if not is_op(value.producer(), "Cast") and deviation.is_mean(value)
    ]


def _read(
    terms: Terms, deviation: Deviation, mean: onnx_ir.Value | None, value: onnx_ir.Value
) -> _Normalized | None:
    """Read ``g x s**-0.5 - g m s**-0.5 + rest`` (without the second term if not centered)."""
    spread = [product for product in terms if dict(product).get(deviation.base)]
    first = [product for product in spread if (deviation.x, 1.0) in product]
    if len(first) != 1 or (deviation.base, -0.5) not in first[0]:
        return None
    scale = terms[first[0]]
    factors = first[0] - {(deviation.x, 1.0), (deviation.base, -0.5)}
    wanted = {first[0]}
    if mean is not None:
        second = factors | {(mean, 1.0), (deviation.base, -0.5)}
        if second not in terms or not _same(terms[second], -scale):
            return None
        wanted.add(second)
    if set(spread) != wanted or not np.any(scale):
        return None
    rest = {product: factor for product, factor in terms.items() if product not in wanted}
    return _Normalized(deviation, value, scale, factors, rest)


def _same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=_SAME, atol=0.0))


def _why_not(root: onnx_ir.Node, deviation: Deviation, graph: onnx_ir.Graph) -> str:
    if deviation.epsilon == 0.0:
        for value in downstream(graph, root.outputs[:1], 2):
            node = value.producer()
            if is_op(node, "Add") and node and any(number(v) is not None for v in node.inputs):
                return "epsilon is added to the root, not under it"
    what = "the centered input" if deviation.centered else "the input"
    return f"nothing behind the root is {what} divided by it"


def _stops(found: _Normalized) -> set[onnx_ir.Value]:
    kept = {value for product in found.rest for value, _ in product}
    return {found.deviation.x, *kept, *(value for value, _ in found.factors)}


def _write(found: _Normalized, x: onnx_ir.Value, build: Builder, op_type: str) -> onnx_ir.Value:
    """Return the operator's output, with what it cannot take in itself behind it."""
    dtype = found.value.dtype
    assert dtype is not None
    deviation, size = found.deviation, rank(found.deviation.x)
    assert size is not None
    start = size - len(deviation.axes)
    shape = normalized_shape(deviation.x, start, found.scale, "the scale")
    scale = narrowed(along(found.scale, size, shape, "the scale"), dtype)
    bias, rest = (
        _bias(found, size, shape) if op_type == "LayerNormalization" else (None, found.rest)
    )
    inputs = [as_type(x, dtype, build), build.constant(scale)]
    if bias is not None:
        inputs.append(build.constant(narrowed(bias, dtype)))
    attributes: dict[str, Attribute] = {"axis": -len(deviation.axes), "epsilon": deviation.epsilon}
    y = build.op(op_type, *inputs, attributes=attributes)
    return _with_rest(y, found.factors, rest, dtype, build)


def _bias(
    found: _Normalized, size: int, shape: Sequence[int]
) -> tuple[Floats | None, Mapping[Product, Floats]]:
    """Return the constant that the operator can add itself, and what is left to add."""
    constant = found.rest.get(frozenset())
    if constant is None or found.factors:
        return None, found.rest
    try:
        bias = along(constant, size, shape, "the bias")
    except Mismatch:
        return None, found.rest
    return bias, {product: factor for product, factor in found.rest.items() if product}


def _with_rest(
    y: onnx_ir.Value, factors: Product, rest: Terms, dtype: onnx_ir.DataType, build: Builder
) -> onnx_ir.Value:
    """Multiply by the factors that are no constants and add the rest."""
    y = times(y, factors, dtype, build)
    for product, factor in rest.items():
        first = next((v for v, exponent in in_order(product) if exponent == 1.0), None)
        if first is not None and factor.ndim == 0 and abs(factor) == 1.0:
            term = times(as_type(first, dtype, build), product - {(first, 1.0)}, dtype, build)
            y = build.op("Add" if factor > 0 else "Sub", y, term)
        else:
            term = times(build.constant(narrowed(factor, dtype)), product, dtype, build)
            y = build.op("Add", y, term)
    return y


def normalized_shape(x: onnx_ir.Value, start: int, constant: Array, what: str) -> tuple[int, ...]:
    """Return the sizes of the axes from ``start`` on, which a constant may know where ``x`` does not."""
    sizes = dimensions(x)
    assert sizes is not None
    found = tuple(size for size in sizes[start:] if isinstance(size, int))
    if len(found) == len(sizes) - start:
        return found
    own = constant.shape[len(constant.shape) - (len(sizes) - start) :]
    if len(own) == len(sizes) - start and 1 not in own:
        return tuple(own)
    raise Mismatch(f"the size of the normalized axes is not known, nor does {what} tell")


def along(constant: Array, size: int, shape: Sequence[int], what: str) -> Floats:
    """Return a constant that broadcasts along the last axes only, of the given ``shape``, or decline.

    ``size`` is the rank of what it is multiplied with, which must not grow.
    """
    lead = size - len(shape)
    full = (1,) * (size - constant.ndim) + constant.shape
    fits = all(a in (1, b) for a, b in zip(full[lead:], shape, strict=False))
    if constant.ndim > size or any(n != 1 for n in full[:lead]) or not fits:
        place = f"the normalized axes, of sizes {tuple(shape)} in rank {size}"
        raise Mismatch(f"{what} of shape {constant.shape} does not lie along {place}")
    return np.broadcast_to(constant.astype(np.float64).reshape(full[lead:]), shape).copy()


def narrowed(array: Floats, dtype: onnx_ir.DataType) -> Array:
    """Return the constant in a type that holds it to about six digits, or decline."""
    with np.errstate(over="ignore"):
        stored = np.asarray(array).astype(dtype.numpy())
    if not np.allclose(stored.astype(np.float64), array, rtol=1e-6, atol=1e-30):
        raise Mismatch(f"a constant does not fit {dtype.name.lower()} without rounding")
    return stored


def axis_of(node: onnx_ir.Node, size: int) -> int:
    """Return the first normalized axis of a LayerNormalization or RMSNormalization, counted from the front."""
    axis = attribute_int(node, "axis", -1)
    return axis + size if axis < 0 else axis
