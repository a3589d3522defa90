"""Spell fitted functions of features as nodes of the graph."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.ir.values import Array
from whet.passes.attention.feature_basis import Basis, Doubles
from whet.passes.attention.fit_factors import FactorFunction, Perceptron
from whet.passes.attention.pair_features import Feature
from whet.passes.proposal import Builder

__all__ = ["emit_function", "feature_array"]

_FLOAT = onnx_ir.DataType.FLOAT


def feature_array(features: Sequence[Feature], arrays: Sequence[Array], batch: int) -> Doubles:
    """Return observed features as one array ``[batch, positions, c]``."""
    parts: list[Doubles] = []
    for feature, array in zip(features, arrays, strict=True):
        moved = array.transpose(feature.order).astype(np.float64)
        moved = moved if feature.has_batch else moved[None]
        flat = moved.reshape(*moved.shape[:2], -1)
        parts.append(np.broadcast_to(flat, (batch, *flat.shape[1:])))
    return np.concatenate(parts, axis=-1)


def emit_function(
    build: Builder, function: FactorFunction, features: Sequence[Feature]
) -> onnx_ir.Value:
    """Return ``[batch or 1, heads, positions, rank]``, computed from the features."""
    z = _project(build, function.basis, features)
    columns = _expand(build, function, z)
    if function.perceptron is not None:
        columns = build.op("Add", columns, _perceptron(build, function.perceptron, z))
    shape = build.ints(0, 0, function.heads, function.rank)
    split = build.op("Reshape", columns, shape)
    return build.op("Transpose", split, attributes={"perm": [0, 2, 1, 3]})


def _project(build: Builder, basis: Basis, features: Sequence[Feature]) -> onnx_ir.Value:
    """Return ``(x - mean) P``, summed over the values that x is made of."""
    ends = np.cumsum([feature.width for feature in features])[:-1]
    total: onnx_ir.Value | None = None
    for feature, rows in zip(features, np.split(basis.projection, ends), strict=True):
        product = build.op("MatMul", _flat(build, feature), _weight(build, rows))
        total = product if total is None else build.op("Add", total, product)
    assert total is not None
    return build.op("Add", total, _weight(build, -basis.mean @ basis.projection))


def _flat(build: Builder, feature: Feature) -> onnx_ir.Value:
    """Return a feature as ``[batch or 1, positions, c]`` of float32."""
    value, order = feature.value, feature.order
    if value.dtype != _FLOAT:
        value = build.op("Cast", value, attributes={"to": int(_FLOAT)})
    if order != tuple(range(len(order))):
        value = build.op("Transpose", value, attributes={"perm": order})
    if feature.has_batch:
        return value if len(order) == 3 else build.op("Reshape", value, build.ints(0, 0, -1))
    if len(order) != 2:
        value = build.op("Reshape", value, build.ints(0, -1))
    return build.op("Unsqueeze", value, build.ints(0))


def _expand(build: Builder, function: FactorFunction, z: onnx_ir.Value) -> onnx_ir.Value:
    """Return ``phi(z) W``."""
    basis = function.basis
    parts = [z]
    if basis.pairs.shape[1]:
        sides = [_take(build, z, places) for places in basis.pairs]
        parts.append(build.op("Mul", *sides))
    if len(basis.phases):
        angles = build.op("MatMul", z, _weight(build, basis.frequencies))
        parts.append(build.op("Cos", build.op("Add", angles, _weight(build, basis.phases))))
    phi = parts[0] if len(parts) == 1 else build.op("Concat", *parts, attributes={"axis": -1})
    columns = build.op("MatMul", phi, _weight(build, function.flat[:-1]))
    return build.op("Add", columns, _weight(build, function.flat[-1]))


def _take(build: Builder, z: onnx_ir.Value, places: Array) -> onnx_ir.Value:
    if np.array_equal(places, np.arange(len(places))):
        return z
    return build.op("Gather", z, build.constant(places), attributes={"axis": -1})


def _perceptron(build: Builder, layers: Perceptron, z: onnx_ir.Value) -> onnx_ir.Value:
    inner = build.op("MatMul", z, _weight(build, layers.inner))
    inner = build.op("Gelu", build.op("Add", inner, _weight(build, layers.shift)))
    return build.op("MatMul", inner, _weight(build, layers.outer))


def _weight(build: Builder, array: Doubles) -> onnx_ir.Value:
    return build.constant(array.astype(np.float32))
