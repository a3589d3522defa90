"""A model of gigabytes beside its graph, written layer by layer: memory stays flat."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.ir.values import Array

__all__ = ["LAYERS", "write_large_model"]

LAYERS = 24
_KINDS = ("matmul", "gemm", "normalized", "transposed", "dropout", "identity")
_PAGE = 4096
_TWIN = 6
"""This layer has the weight of the first one once more."""


class _Writer:
    """Append nodes and small weights to the graph and large weights to the data file."""

    def __init__(self, path: Path, width: int, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.width = width
        self._data = path.with_name(path.name + ".data")
        self._seed = seed

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"/{name}", **attributes))
        return name

    def small(self, name: str, low: float, high: float) -> str:
        """Add a vector, one number per channel, inside the graph."""
        draw = np.random.default_rng((self._seed, len(self.weights)))
        array = draw.uniform(low, high, self.width).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def large(self, name: str, layer: int) -> str:
        """Append a square matrix to the data file; equal layers give equal bytes."""
        draw = np.random.default_rng((self._seed, layer))
        with self._data.open("ab") as stream:
            stream.write(b"\0" * (-stream.tell() % _PAGE))
            offset = stream.tell()
            for start in range(0, self.width, 1024):
                rows = min(1024, self.width - start)
                stream.write(_block(draw, rows, self.width).tobytes())
            self._refer(name, offset, stream.tell() - offset)
        return name

    def _refer(self, name: str, offset: int, length: int) -> None:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[self.width] * 2)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._data.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)


def _block(draw: np.random.Generator, rows: int, width: int) -> Array:
    """Draw rows of a matrix that keeps the length of a vector of ``width`` about as it is."""
    return (draw.random((rows, width), dtype=np.float32) - 0.5) * np.float32(math.sqrt(12 / width))


def _layer(writer: _Writer, x: str, number: int) -> str:
    """Append a linear layer in one of the spellings that exporters use, and a Relu."""
    kind = _KINDS[number % len(_KINDS)]
    weight = writer.large(f"weight_{number}", 0 if number == _TWIN else number)
    bias = writer.small(f"bias_{number}", -0.1, 0.1)
    if kind == "gemm":
        return writer.op("Relu", writer.op("Gemm", x, weight, bias, transB=1))
    if kind == "transposed":
        weight = writer.op("Transpose", weight, perm=[1, 0])
    if kind == "identity":
        x = writer.op("Identity", writer.op("Identity", x))
    x = writer.op("Add", writer.op("MatMul", x, weight), bias)
    if kind == "normalized":
        x = _normalize(writer, x, number)
    return writer.op("Dropout" if kind == "dropout" else "Identity", writer.op("Relu", x))


def _normalize(writer: _Writer, x: str, number: int) -> str:
    ranges = {"scale": (0.5, 1.5), "shift": (-0.1, 0.1), "mean": (-0.1, 0.1), "spread": (0.5, 1.5)}
    parts = [writer.small(f"{name}_{number}", *limits) for name, limits in ranges.items()]
    return writer.op("BatchNormalization", x, *parts, epsilon=1e-5)


def write_large_model(folder: Path, gigabytes: float, seed: int = 0) -> Path:
    """Write ``large.onnx`` and ``large.onnx.data``, about ``gigabytes`` (10^9 bytes) together; return the first.

    24 square linear layers: MatMul and Add, Gemm, MatMul behind a Transpose of its weight or before a
    BatchNormalization, with Identity and Dropout in between and one weight stored twice.
    """
    width = max(16, round(math.sqrt(gigabytes * 1e9 / LAYERS / 4) / 16) * 16)
    path = folder / "large.onnx"
    writer = _Writer(path, width, seed)
    x = "x"
    for number in range(LAYERS):
        x = _layer(writer, x, number)
    writer.nodes.append(helper.make_node("Identity", [x], ["y"], name="/last"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n in "xy"]
    graph = helper.make_graph(writer.nodes, "large", ends[:1], ends[1:], writer.weights)
    imports = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
