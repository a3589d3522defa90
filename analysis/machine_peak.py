"""The most that this machine was measured to do: operations a second in a large product, bytes a second in a sum."""

import dataclasses

import numpy as np

from whet.analysis.kernel_prices import KernelPrices
from whet.analysis.prices import KernelModel
from whet.ir.array import Array

__all__ = ["Peak", "measure_peak"]

_SIDE = 1024
_LONG = 1 << 23


@dataclasses.dataclass(frozen=True)
class Peak:
    """What can be attained: the smaller of ``flops`` and operations per byte times ``bytes``."""

    flops: float
    """Operations of float32 a second."""
    integer: float
    """Operations of int8 a second, in the better of the runtime's integer products."""
    bytes: float
    """Bytes a second between memory and the cores."""


def measure_peak(prices: KernelPrices) -> Peak:
    """Measure a product of two matrices of 1024 rows and columns, and the sum of two vectors of 32 MB.

    The times are kept with the other prices: a machine is measured once for every number of threads.
    """
    product = prices.lookup(
        f"peak of [{_SIDE},{_SIDE}] x [{_SIDE},{_SIDE}]",
        {"float": _product("MatMul", np.float32), "int8": _product("MatMulInteger", np.uint8)},
    )
    moved = prices.lookup(f"peak of Add {_LONG}", {"float": _sum()})
    work = 2.0 * _SIDE**3 / 1e-3
    flops = work / product["float"] if "float" in product else 0.0
    return Peak(
        flops,
        max(flops, work / product["int8"] if "int8" in product else 0.0),
        3 * 4 * _LONG / (moved["float"] * 1e-3) if "float" in moved else 0.0,
    )


def _product(op: str, dtype: type[np.float32] | type[np.uint8]) -> KernelModel:
    def make() -> tuple[bytes, dict[str, Array]]:
        rng = np.random.default_rng(0)
        a, w = (rng.integers(0, 100, (_SIDE, _SIDE)).astype(dtype) for _ in range(2))
        weight = w if dtype is np.float32 else w.astype(np.int8)
        return _model(op, {"a": a}, weight, (_SIDE, _SIDE)), {"a": a}

    return make


def _sum() -> KernelModel:
    def make() -> tuple[bytes, dict[str, Array]]:
        feeds: dict[str, Array] = {name: np.ones(_LONG, np.float32) for name in "ab"}
        return _model("Add", feeds, None, (_LONG,)), feeds

    return make


def _model(op: str, feeds: dict[str, Array], weight: Array | None, out: tuple[int, ...]) -> bytes:
    """Serialize one operator on its feeds and perhaps a fixed weight."""
    import onnx
    from onnx import helper, numpy_helper

    kind = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.uint8): onnx.TensorProto.UINT8}
    result = onnx.TensorProto.INT32 if op == "MatMulInteger" else onnx.TensorProto.FLOAT
    names = [*feeds, *([] if weight is None else ["w"])]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"])],
        "peak",
        [helper.make_tensor_value_info(n, kind[a.dtype], a.shape) for n, a in feeds.items()],
        [helper.make_tensor_value_info("y", result, out)],
        [] if weight is None else [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
