"""Kernels that work on rows, each of which lies consecutively: norms, softmax, sums."""

import math
from collections.abc import Callable
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.writing import each, function, scratch, tasks
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.mathematics import exp

__all__ = ["fold", "normalized", "softmax"]

_LOWEST = -3.0e38


def fold(
    size: int,
    lanes: int,
    start: float,
    combine: Callable[[Expr, Expr], Expr],
    value: Callable[[Expr], Expr],
) -> Expr:
    """Write what combines ``value`` of the numbers below ``size``, part by part of a vector; return the result."""
    parts = scratch(lanes)
    first = tirx.FloatImm("float32", start)
    T.buffer_store(parts, tirx.Broadcast(first, lanes), [tirx.Ramp(0, 1, lanes)])
    whole = size // lanes
    if whole:
        with T.serial(0, whole) as i, T.vectorized(0, lanes) as j:
            T.buffer_store(parts, combine(parts[j], value(i * lanes + j)), [j])
    total = scratch(1)
    T.buffer_store(total, first, [0])
    if whole:
        for k in range(lanes):
            T.buffer_store(total, combine(total[0], parts[k]), [0])
    if size % lanes:
        with T.serial(0, size % lanes) as j:
            T.buffer_store(total, combine(total[0], value(whole * lanes + j)), [0])
    return total[0]


def _kept(value: Expr) -> Expr:
    """Write a number down, so that it is computed once; return where it is read."""
    found = scratch(1)
    T.buffer_store(found, value, [0])
    return found[0]


def _sum(a: Expr, b: Expr) -> Expr:
    return a + b


def softmax(shape: tuple[int, ...], machine: Machine, *, log: bool = False) -> Any:
    """Return the kernel of softmax, or its logarithm, over the last axis: arguments x, y."""
    size = shape[-1]
    rows = math.prod(shape[:-1])
    lanes = machine.lanes

    def body(x: Any, y: Any) -> None:
        with tasks(rows, rows * size * 8) as row:
            base = row * size
            top = fold(size, lanes, _LOWEST, tirx.max, lambda i: x[base + i])
            if log:
                total = fold(size, lanes, 0.0, _sum, lambda i: exp(x[base + i] - top))
                shift = _kept(top + tirx.log(total))
                each(size, lanes, lambda i: T.buffer_store(y, x[base + i] - shift, [base + i]))
                return
            each(size, lanes, lambda i: T.buffer_store(y, exp(x[base + i] - top), [base + i]))
            total = fold(size, lanes, 0.0, _sum, lambda i: y[base + i])
            factor = _kept(tirx.FloatImm("float32", 1.0) / total)
            each(size, lanes, lambda i: T.buffer_store(y, y[base + i] * factor, [base + i]))

    return function("softmax", [(shape, "float32")] * 2, body)


def normalized(
    shape: tuple[int, ...],
    size: int,
    machine: Machine,
    *,
    epsilon: float,
    centred: bool,
    scaled: bool,
    shifted: bool,
) -> Any:
    """Return the kernel of (x - mean) / sqrt(var + epsilon) over groups of ``size``, or x / sqrt(mean x² + epsilon).

    Arguments: x, then scale and bias where there are, y.
    """
    rows = math.prod(shape) // size
    lanes = machine.lanes
    one = tirx.FloatImm("float32", 1.0)
    share = tirx.FloatImm("float32", 1.0 / size)

    def body(x: Any, *rest: Any) -> None:
        *more, y = rest
        with tasks(rows, rows * size * 4) as row:
            base = row * size
            zero = tirx.FloatImm("float32", 0.0)
            mean = (
                _kept(fold(size, lanes, 0.0, _sum, lambda i: x[base + i]) * share)
                if centred
                else zero
            )

            def away(i: Expr) -> Expr:
                return x[base + i] - mean if centred else x[base + i]

            spread = fold(size, lanes, 0.0, _sum, lambda i: away(i) * away(i)) * share
            factor = _kept(one / tirx.sqrt(spread + tirx.FloatImm("float32", epsilon)))

            def write(i: Expr) -> None:
                value = away(i) * factor
                if scaled:
                    value = value * more[0][i]
                if shifted:
                    value = value + more[-1][i]
                T.buffer_store(y, value, [base + i])

            each(size, lanes, write)

    arguments = [(shape, "float32")] + [((size,), "float32")] * (scaled + shifted)
    return function("norm", [*arguments, (shape, "float32")], body)
