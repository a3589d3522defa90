"""Extremes that the runtime found run by run, for many values at once.

The runtime's minima and maxima may pass over what is not a number; its sums do not. Sums are only asked for behind
operators that can make such a thing of moderate finite numbers (Div, Log, Sqrt, ...): what the others make of them is
*tame*.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.ir.values import Array, is_op, weight_bytes

__all__ = ["RunningExtremes", "are_huge", "tame_values"]

_TAME = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Concat", "Split", "Slice", "Pad"),
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Softmax"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin"),
    *("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Gather", "Neg"),
    *("DepthToSpace", "SpaceToDepth"),
)  # fmt: skip
_HUGE = 1e30
"""Magnitudes above it may overflow in the next operator."""
_NOTHING = (np.inf, -np.inf)
_LOOKED_THROUGH = 1 << 26
"""Bytes of weights that are searched for infinities; larger models are summed."""


def tame_values(model: onnx_ir.Model) -> frozenset[str]:
    """Return the names of the values that are numbers as long as inputs are finite and nothing gets huge."""
    if weight_bytes(model) > _LOOKED_THROUGH:
        return frozenset()
    tame = {v for v in model.graph.inputs if v.const_value is None}
    tame |= {v for v in model.graph.initializers.values() if _is_finite(v)}
    for node in model.graph:
        given = [v for v in node.inputs if v is not None]
        known = is_op(node, *_TAME) and all(v in tame or _is_integer(v) for v in given)
        if known or is_op(node, "Constant"):
            tame.update(node.outputs)
    return frozenset(v.name or "" for v in tame)


def _is_integer(value: onnx_ir.Value) -> bool:
    return value.dtype is not None and not value.dtype.is_floating_point()


def _is_finite(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        return tensor is not None
    return bool(np.isfinite(tensor.numpy().astype(np.float32)).all())


def are_huge(pairs: Sequence[tuple[Array, Array]]) -> bool:
    """Tell whether anything is so large that the next operator may overflow, or is not a number."""
    low, high = _flat(pairs)
    return bool(low.size) and not max(-low.min(), high.max()) <= _HUGE


def _flat(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return all minima and all maxima; those of nothing, where the minimum is above the maximum, stay so."""
    low = np.concatenate([low.reshape(-1) for low, _ in pairs])
    high = np.concatenate([high.reshape(-1) for _, high in pairs])
    nothing = np.greater(low, high)
    if nothing.any():
        low[nothing], high[nothing] = _NOTHING
    return low, high


class RunningExtremes:
    """The extremes of values so far."""

    def __init__(self, names: Sequence[str]) -> None:
        """Begin with nothing."""
        self._names = list(names)
        self._low = np.full(len(names), _NOTHING[0], np.float32)
        self._high = np.full(len(names), _NOTHING[1], np.float32)
        self._bad: set[str] = set()

    def add(self, pairs: Sequence[tuple[Array, Array]], sums: Mapping[str, Array]) -> None:
        """Take in minima and maxima of one run, value by value, and sums by name."""
        there = np.asarray([k for k, (low, _) in enumerate(pairs) if low.size], np.intp)
        if len(there):
            seen = [pairs[k] for k in there]
            starts = np.cumsum([0, *(low.size for low, _ in seen[:-1])])
            low, high = _flat(seen)
            np.minimum.at(self._low, there, np.minimum.reduceat(low, starts))
            np.maximum.at(self._high, there, np.maximum.reduceat(high, starts))
        self._bad.update(name for name, total in sums.items() if not np.isfinite(total).all())

    def found(self) -> dict[str, Array]:
        """Return both ends of each value that was seen, and a NaN behind those that were not finite."""
        found: dict[str, Array] = {}
        for name, low, high in zip(self._names, self._low, self._high, strict=True):
            if name in self._bad or not low > high:
                found[name] = np.asarray([low, high, *[np.nan] * (name in self._bad)], np.float32)
        return found
