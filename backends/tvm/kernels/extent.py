"""The smallest and the largest element of a tensor, part by part."""

import math
from typing import Any

from whet.backends.tvm.api import Expr, T, tirx
from whet.backends.tvm.kernels.rows import fold
from whet.backends.tvm.kernels.writing import function, tasks
from whet.backends.tvm.machine import Machine

__all__ = ["extent", "extent_parts"]

_LARGEST = 3.4028234e38


def extent_parts(shape: tuple[int, ...], machine: Machine) -> int:
    """Return into how many equal parts the elements go: one for each thread where that is worth it."""
    size = math.prod(shape)
    return machine.threads if size % machine.threads == 0 and size >= 1 << 14 else 1


def extent(shape: tuple[int, ...], machine: Machine) -> Any:
    """Return the kernel: arguments x, and ``[2, parts]``, smallest then largest."""
    size, parts = math.prod(shape), extent_parts(shape, machine)
    own = size // parts

    def body(x: Any, y: Any) -> None:
        with tasks(parts, size * 4) as part:

            def element(i: Expr) -> Expr:
                return x[part * own + i]

            low = fold(own, machine.lanes, _LARGEST, tirx.min, element)
            T.buffer_store(y, low, [part])
            high = fold(own, machine.lanes, -_LARGEST, tirx.max, element)
            T.buffer_store(y, high, [parts + part])

    return function("extent", [(shape, "float32"), ((2, parts), "float32")], body)
