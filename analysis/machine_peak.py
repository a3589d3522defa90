"""The most that this machine was measured to do: operations a second in a product, bytes a second in a sum."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from whet.analysis.prices import KernelModel, Prices
from whet.ir.array import Array

__all__ = ["Peak", "measure_peak"]

_SIDE = 512
_ROWS, _LONG = 64, 1 << 17


@dataclasses.dataclass(frozen=True)
class Peak:
    """What can be attained: the smaller of ``flops`` and operations per byte times ``bytes``; 0 where unknown."""

    flops: float
    """Operations of float32 a second."""
    integer: float
    """Operations of int8 a second."""
    bytes: float
    """Bytes a second from memory."""


def measure_peak(prices: Prices) -> Peak:
    """Measure products of two matrices of 512 rows and columns, and the sum of the rows of 32 MB.

    The times are kept with the other prices: a machine is measured once for every number of threads. Each is measured
    alone, since wide integer units lower the clock for those that come after.
    """
    product = f"peak [{_SIDE},{_SIDE}] x [{_SIDE},{_SIDE}]"
    work = 2.0 * _SIDE**3
    flops = _rate(prices, f"{product} float32", _float, work)
    integer = _rate(prices, f"{product} int8", _integer, work)
    moved = _rate(prices, f"peak sum of [{_ROWS},{_LONG}] float32", _sum, 4.0 * _ROWS * _LONG)
    return Peak(flops, max(flops, integer), moved)


def _rate(prices: Prices, work: str, model: KernelModel, amount: float) -> float:
    found = prices.lookup(work, {"peak": model})
    return amount / (found["peak"] * 1e-3) if "peak" in found else 0.0


def _float() -> tuple[bytes, Mapping[str, Array]]:
    rng = np.random.default_rng(0)
    a, w = (rng.standard_normal((_SIDE, _SIDE)).astype(np.float32) for _ in range(2))
    return _model("MatMul", a, w, (_SIDE, _SIDE)), {"a": a}


def _integer() -> tuple[bytes, Mapping[str, Array]]:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 200, (_SIDE, _SIDE)).astype(np.uint8)
    w = rng.integers(-100, 100, (_SIDE, _SIDE)).astype(np.int8)
    return _model("MatMulInteger", a, w, (_SIDE, _SIDE)), {"a": a}


def _sum() -> tuple[bytes, Mapping[str, Array]]:
    a = np.ones((_ROWS, _LONG), np.float32)
    return _model("ReduceSum", a, np.asarray([1], np.int64), (_ROWS, 1)), {"a": a}


def _model(op: str, operand: Array, fixed: Array, out: tuple[int, ...]) -> bytes:
    """Serialize one operator on an input and a constant."""
    from onnx import TensorProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(operand.dtype)
    result = TensorProto.INT32 if op == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "w"], ["y"])],
        "peak",
        [helper.make_tensor_value_info("a", kind, operand.shape)],
        [helper.make_tensor_value_info("y", result, out)],
        [numpy_helper.from_array(fixed, "w")],
    )
    imports = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(model.SerializeToString())
